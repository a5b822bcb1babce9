"""Crystals from arrays, atoms dicts and files: implementation of `Crystal.from_...`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clac_jax.crystals import cif, cif_file
from clac_jax.crystals.crystal import Crystal
from clac_jax.crystals.numbers import (
    CrystalError,
    atomic_numbers_of,
    boolean_of,
    check_count,
    check_parameters,
    coordinates_of,
    element_of,
    floats_of,
    lattice_from_parameters,
    lattice_of,
    shown,
)
from clac_jax.crystals.objects import (
    MissingPackageError,
    from_ase,
    from_pymatgen,
    from_structure_dict,
    is_ase,
    is_pymatgen,
)
from clac_jax.errors import UserError, error_reason, one_line
from clac_jax.stores.copies import local_copy

# Errors of reading the attributes of an object that is not what it looks like.
_OF_FOREIGN_OBJECTS = (AttributeError, TypeError, ValueError, LookupError, ArithmeticError)


def from_arrays(lattice: Any, atomic_numbers: Any, frac_coords: Any) -> Crystal:
    """Reads three arrays; see `Crystal.from_arrays`."""
    cell = lattice_of(lattice, flat=True)
    numbers = atomic_numbers_of(atomic_numbers)
    fractions = coordinates_of(frac_coords, len(numbers), flat=True)
    return Crystal(cell, numbers, fractions @ cell)


def from_atoms(atoms: Mapping[str, Any]) -> Crystal:
    """Reads an atoms dict; see `Crystal.from_atoms`."""
    if not isinstance(atoms, Mapping):
        raise CrystalError("The atoms are not a dict with lattice_mat, elements and coords.")
    for key in ("elements", "coords"):
        value = atoms.get(key)
        if isinstance(value, str | bytes) or not isinstance(value, Sequence | np.ndarray):
            raise CrystalError(f'The atoms have no list "{key}". Add it.')
    if atoms.get("lattice_mat") is not None:
        lattice = lattice_of(atoms["lattice_mat"])
        check_parameters(lattice, atoms.get("abc"), atoms.get("angles"))
    elif atoms.get("abc") is not None and atoms.get("angles") is not None:
        parameters = [
            *floats_of(atoms["abc"], "abc", (3,)),
            *floats_of(atoms["angles"], "angles", (3,)),
        ]
        lattice = lattice_from_parameters(*map(float, parameters))
    else:
        raise CrystalError('The atoms have no "lattice_mat" (or "abc" and "angles"). Add it.')
    check_count(len(atoms["elements"]))
    numbers = np.array([element_of(name) for name in atoms["elements"]], np.int32)
    coords = coordinates_of(atoms["coords"], len(numbers))
    for key in atoms:
        if key != "cartesian" and "cartesian" in str(key).lower():
            raise CrystalError(f'The atoms have a key {shown(key)}. Name it "cartesian".')
    is_cartesian = boolean_of(atoms.get("cartesian"), "cartesian")
    return Crystal(lattice, numbers, coords if is_cartesian else coords @ lattice)


def from_file(path: str | os.PathLike[str]) -> Crystal:
    """Reads a file; see `Crystal.from_file`."""
    file = local_copy(path, "The name of a crystal's file")
    try:
        if not file.exists():
            raise CrystalError("There is no such file. Check the path.")
        if not file.is_file():
            raise CrystalError("It is not a file. Give a CIF file.")
        if not cif_file.is_cif(file.name):
            return from_ase(_read_by_ase(file))
        read = cif.read(cif_file.read_text(file))
    except OSError as error:
        raise CrystalError(f"{file} cannot be read: {error_reason(error)}.") from error
    except CrystalError as error:
        raise CrystalError(f"{file} cannot be used: {error}") from error
    if read.mismatch:
        raise cif.FormulaMismatch(
            f"{file} cannot be used: {read.mismatch} Correct one of them, or take the sites as "
            "they are: clac_jax.crystals.cif.read(TEXT).crystal."
        )
    return read.crystal


def crystal_of(value: Any) -> Crystal:
    """A crystal from any supported input.

    Args:
        value: a `Crystal`; the path of a file, or the text of a CIF, which has several lines and
            `data_` or `_cell` in them; a pymatgen `Structure` or an ASE `Atoms` object; an atoms
            dict (`Crystal.from_atoms`), or the `as_dict()` of a `Structure`.

    Raises:
        CrystalError: it has a different type, or does not describe one ordered crystal.
        MissingPackageError: it is a file in a format that only ASE reads, and ASE is missing.
    """
    if isinstance(value, Crystal):
        return value
    if isinstance(value, str) and "\n" in value and ("data_" in value or "_cell" in value):
        return cif.read(value.removeprefix("\ufeff")).checked()
    if isinstance(value, str | os.PathLike):
        return from_file(value)
    if isinstance(value, Mapping):
        return from_structure_dict(value) if "sites" in value else from_atoms(value)
    for is_one, read, what in (
        (is_pymatgen, from_pymatgen, "a pymatgen Structure"),
        (is_ase, from_ase, "an ASE Atoms object"),
    ):
        if is_one(value):
            try:
                return read(value)
            except UserError:
                raise
            except _OF_FOREIGN_OBJECTS as error:
                raise CrystalError(
                    f"{shown(value)} has the attributes of {what}, but cannot be read as one "
                    f"({one_line(error)}). Give a Crystal."
                ) from error
    raise CrystalError(
        f"{shown(value)} is not a crystal. Give a Crystal, the path or the text of a CIF, a "
        "pymatgen Structure, an ASE Atoms object, or a dict of one."
    )


def _read_by_ase(file: Path) -> Any:
    """The only structure in a file of any format that ASE supports.

    Raises:
        MissingPackageError: ASE is not installed.
        CrystalError: ASE cannot read the file, or finds more than one structure in it.
    """
    try:
        import ase.io
    except ImportError as error:
        raise MissingPackageError(
            f"{file} is not a .cif file, and other formats are read by ASE, which is not "
            "installed. Install it with `pip install ase`, or convert the file to CIF."
        ) from error
    try:
        structures = ase.io.read(file, index=":", do_not_split_by_at_sign=True)
    except Exception as error:  # its many readers raise many types
        raise CrystalError(
            f"ASE cannot read it ({one_line(error)}). Convert it to CIF, or let its name end in "
            ".cif if it is one."
        ) from error
    if len(structures) != 1:
        raise CrystalError(f"It holds {len(structures)} structures. Give a file with one.")
    return structures[0]
