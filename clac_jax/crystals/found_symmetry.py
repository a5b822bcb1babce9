"""The symmetry of a crystal, found by spglib."""

from __future__ import annotations

import numpy as np
import spglib

SYMMETRY_TOLERANCE = 0.01
"""Angstrom; how far an atom may be from its symmetric position: pymatgen's default.

Space groups and crystal systems therefore agree with those of the Materials Project.
"""


def find_symmetry(
    lattice: np.ndarray, fractional: np.ndarray, atomic_numbers: np.ndarray
) -> spglib.SpglibDataset | None:
    """The symmetry of a crystal; None if spglib finds none.

    Args:
        lattice: (3, 3) cell vectors as rows, angstrom.
        fractional: (N, 3) fractional coordinates.
        atomic_numbers: (N,) integers.

    Raises:
        SpglibError: spglib finds none, and `spglib.error.OLD_ERROR_HANDLING` is False.
    """
    cell = lattice.tolist(), fractional.tolist(), atomic_numbers.tolist()
    return spglib.get_symmetry_dataset(cell, SYMMETRY_TOLERANCE)


def symmetry_if_any(
    lattice: np.ndarray, fractional: np.ndarray, atomic_numbers: np.ndarray
) -> spglib.SpglibDataset | None:
    """`find_symmetry`, with None also where spglib raises its error."""
    try:
        return find_symmetry(lattice, fractional, atomic_numbers)
    except spglib.SpglibError:
        return None
