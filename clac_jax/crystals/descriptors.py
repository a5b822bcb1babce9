"""What the texts of crystallographers state about a structure, as numbers: symmetry, cell, sites.

A graph within a cutoff contains all of it only in principle: a network would have to learn space
groups from distances. Here they are computed, by spglib and from the nearest neighbours.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import spglib
from vesin import NeighborList

from clac_jax.crystals.crystal import Crystal
from clac_jax.crystals.elements import NUM_FEATURES, atom_features, atomic_weights

SYMMETRY_TOLERANCE = 0.01
"""Angstrom; how far an atom may be from its symmetric position: pymatgen's default."""

CELL_NUMBERS = 10
"""Numbers that describe a crystal as a whole, see `Descriptors.cell`."""
NEIGHBOURS = 12
"""Nearest neighbours whose distances describe a site."""
ANGLES = 10
"""Bins of the angles between the bonds of a site."""
SHELL_NUMBERS = 1 + ANGLES + NUM_FEATURES
"""Numbers that describe a shell of neighbours: its size, its angles, its elements."""
SITE_NUMBERS = NEIGHBOURS + 2 * SHELL_NUMBERS
"""Numbers that describe a site, see `Descriptors.sites`."""

_DALTON = 1.66053906660  # g/cm^3 of one dalton per angstrom^3
_FAR = 8.0  # angstrom; where neighbours are sought, and the distance of those that are missing
_SHELL = 16  # the most neighbours of a site
_NEAREST = 1.12  # how far the nearest neighbours reach, relative to the first
_SAME_SHELL = 0.05  # relative gap between two distances that does not end a shell


@dataclass(frozen=True)
class Descriptors:
    """What a crystal is like, in numbers that do not depend on the choice of its cell's axes.

    Attributes:
        space_group: number from 1 to 230; 0 if spglib finds none.
        cell: (10,) float32: atoms and symmetrically distinct sites in the cell, angstrom^3 per
            atom, g/cm^3, and lengths (angstrom) and angles (degrees) of the conventional cell.
        sites: (N, SITE_NUMBERS) float32, for each atom: distances to its nearest neighbours
            (angstrom), then the numbers of two shells: the neighbours about as near as the nearest,
            and those before the largest gap. Those of a shell are the number of its atoms, the
            shares of the angles between two bonds in each bin from 180 to 0 degrees, and the mean
            atom vector.
    """

    space_group: int
    cell: np.ndarray
    sites: np.ndarray


def describe(crystal: Crystal) -> Descriptors:
    """The descriptors of a crystal; those of the last few thousand crystals are remembered."""
    arrays = crystal.lattice, crystal.positions, crystal.atomic_numbers.astype(np.int32)
    return _described(*(np.ascontiguousarray(array).tobytes() for array in arrays))


@functools.lru_cache(maxsize=20_000)  # some kilobytes each; takes milliseconds, in every epoch
def _described(lattice: bytes, positions: bytes, atomic_numbers: bytes) -> Descriptors:
    cell = np.frombuffer(lattice).reshape(3, 3)
    points = np.frombuffer(positions).reshape(-1, 3)
    numbers = np.frombuffer(atomic_numbers, np.int32)
    found = _symmetry(cell, points, numbers)
    conventional = cell if found is None else np.asarray(found.std_lattice)
    # Sites that symmetry makes equal are described once.
    orbits = np.arange(len(numbers)) if found is None else np.asarray(found.crystallographic_orbits)
    distinct, site_of = np.unique(orbits, return_inverse=True)
    volume = abs(float(np.linalg.det(cell)))
    mass = float(atomic_weights()[numbers].astype(np.float64).sum())
    lengths = np.linalg.norm(conventional, axis=1)
    cosines = [
        conventional[j] @ conventional[k] / (lengths[j] * lengths[k])
        for j, k in ((1, 2), (0, 2), (0, 1))
    ]
    angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    sizes = [len(numbers), len(distinct), volume / len(numbers), _DALTON * mass / volume]
    return Descriptors(
        space_group=0 if found is None else int(found.number),
        cell=np.array([*sizes, *lengths, *angles], np.float32),
        sites=_sites(cell, points, numbers, distinct)[site_of],
    )


def _symmetry(
    cell: np.ndarray, points: np.ndarray, numbers: np.ndarray
) -> spglib.SpglibDataset | None:
    fractional = points @ np.linalg.inv(cell)
    try:
        return spglib.get_symmetry_dataset(
            (cell.tolist(), fractional.tolist(), numbers.tolist()), SYMMETRY_TOLERANCE
        )
    except spglib.SpglibError:  # raised if spglib.error.OLD_ERROR_HANDLING is False
        return None


def _sites(
    cell: np.ndarray, points: np.ndarray, numbers: np.ndarray, atoms: np.ndarray
) -> np.ndarray:
    """(atoms, SITE_NUMBERS) float32 of some atoms, see `Descriptors.sites`."""
    cutoff = min(_FAR, 1.5 * (np.abs(np.linalg.det(cell)) / len(numbers) * _SHELL) ** (1 / 3))
    senders, receivers, vectors = NeighborList(cutoff=cutoff, full_list=True).compute(
        points, cell, periodic=True, quantities="ijD"
    )
    distances = np.linalg.norm(vectors, axis=1)
    # Rounded, so that equal distances keep an order that depends on nothing but the crystal.
    order = np.lexsort((numbers[senders], np.round(distances, 4), receivers))
    senders, receivers, vectors, distances = (
        each[order] for each in (senders, receivers, vectors, distances)
    )
    starts = np.searchsorted(receivers, np.arange(len(numbers) + 1))
    rows = np.zeros((len(atoms), SITE_NUMBERS), np.float32)
    rows[:, :NEIGHBOURS] = _FAR
    for row, atom in zip(rows, atoms, strict=True):
        first, last = starts[atom : atom + 2]
        if first == last:
            continue
        near = distances[first:last]
        row[:NEIGHBOURS][: len(near)] = near[:NEIGHBOURS]
        bonds = vectors[first:last] / near[:, None]
        elements = numbers[senders[first:last]]
        nearest = int(np.searchsorted(near, near[0] * _NEAREST, side="right"))
        shells = [
            _shell(bonds[:n], elements[:n]) for n in (min(nearest, _SHELL), _shell_size(near))
        ]
        row[NEIGHBOURS:] = np.concatenate(shells)
    return rows


def _shell(bonds: np.ndarray, elements: np.ndarray) -> np.ndarray:
    """(SHELL_NUMBERS,) of neighbours in these directions."""
    cosines = (bonds @ bonds.T)[~np.tri(len(bonds), dtype=bool)]
    # A little more than from -1 to 1, so that rounding moves no angle of 180 degrees out.
    bins = ((cosines + 1.0001) * (ANGLES / 2.0002)).astype(np.int64)
    shares = np.bincount(bins, minlength=ANGLES) / max(len(cosines), 1)
    return np.concatenate([[len(bonds)], shares, atom_features()[elements].mean(axis=0)])


def _shell_size(distances: np.ndarray) -> int:
    """The number of atoms before the largest relative gap between ascending distances."""
    near = distances[: _SHELL + 1]
    if len(near) < 2:
        return len(near)
    gaps = near[1:] / near[:-1] - 1
    # A later gap has to be clearly larger than an earlier one.
    best = int(np.argmax(gaps - 1e-6 * np.arange(len(gaps))))
    return best + 1 if gaps[best] > _SAME_SHELL else len(near)
