"""Descriptors of a structure, as texts state them: symmetry, cell, sites.

A graph within a cutoff contains all of it only in principle: a network would have to learn space
groups from distances. Here they are computed, by spglib and from the nearest neighbours.
"""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from vesin import NeighborList

from clac_jax.crystals.crystal import Crystal
from clac_jax.crystals.elements import (
    DALTON_PER_CUBIC_ANGSTROM,
    NUM_FEATURES,
    atom_features,
    atomic_weights,
)
from clac_jax.crystals.found_symmetry import symmetry_if_any

CELL_NUMBERS = 10
"""Numbers that describe a crystal as a whole, see `Descriptors.cell`."""
NEIGHBOURS = 12
"""Nearest neighbours whose distances describe a site."""
ANGLES = 10
"""Cosines over which the angles between the bonds of a site are distributed."""
SHELL_NUMBERS = 1 + ANGLES + NUM_FEATURES
"""Numbers that describe a shell of neighbours: its size, its angles, its elements."""
SITE_NUMBERS = NEIGHBOURS + 2 * SHELL_NUMBERS
"""Numbers that describe a site, see `Descriptors.sites`."""

_FAR = 8.0  # angstrom; where neighbours are sought, and the distance of those that are missing
_SHELL = 16  # neighbours among whose distances the largest gap is sought
_NEAREST = 1.12  # how far the nearest neighbours reach, relative to the first
_SAME_SHELL = 0.05  # relative gap between two distances that does not end a shell
_EQUAL = 1e-3  # relative gap between two distances that are the same
_OVERHEAD = 1024  # bytes of a crystal that is remembered, besides its sites
_KEPT_BYTES = 256 << 20  # of descriptors that are remembered: those of 50,000 usual crystals


@dataclass(frozen=True)
class Descriptors:
    """The numbers that describe a crystal, which do not depend on how its cell is given.

    They are the same after a rotation, for other cell vectors of the same volume, for another
    origin and another order of the atoms; in a supercell only the number of atoms differs. This
    holds up to rounding for a crystal whose symmetry is exact, and up to spglib's tolerance for
    others: atoms that symmetry makes equal have the numbers of the first of them. A crystal without
    a space group has the lengths and angles of the cell as given. Sizes of shells are
    integers: a small change of a distance can move neighbours from one shell to the next.

    Attributes:
        space_group: number from 1 to 230; 0 if spglib finds none.
        cell: (10,) float32, read-only: atoms in the cell as given, symmetrically distinct sites,
            angstrom^3 per atom, g/cm^3, and lengths (angstrom) and angles (degrees) of the
            conventional cell.
        sites: (N, SITE_NUMBERS) float32, read-only, for each atom: distances to its nearest
            neighbours (angstrom), then the numbers of two shells: the neighbours about as near as
            the nearest, and those before the largest gap. Those of a shell are the number of its
            atoms, the shares of the angles between two bonds at each of ANGLES cosines from -1 to 1
            (an angle in between counts for both, in proportion), and the mean atom vector.
    """

    space_group: int
    cell: np.ndarray
    sites: np.ndarray

    def without_elements(self) -> Descriptors:
        """Descriptors with zeros for the atom vectors of the neighbours."""
        sites = self.sites.copy()
        for end in range(NEIGHBOURS + SHELL_NUMBERS, SITE_NUMBERS + 1, SHELL_NUMBERS):
            sites[:, end - NUM_FEATURES : end] = 0  # the last numbers of each shell
        return dataclasses.replace(self, sites=_read_only(sites))


def describe(crystal: Crystal) -> Descriptors:
    """The descriptors of a crystal, remembered for later epochs: they take milliseconds."""
    arrays = crystal.lattice, crystal.positions, crystal.atomic_numbers
    key = hashlib.sha256(b"".join(np.ascontiguousarray(each).tobytes() for each in arrays)).digest()
    found = _KEPT.get(key)
    if found is None:
        found = _described(*arrays)
        _KEPT.put(key, found)
    distinct, site_of = found
    return dataclasses.replace(distinct, sites=_read_only(distinct.sites[site_of]))


class _Kept:
    """The descriptors of the crystals used last, up to a number of bytes; for several threads."""

    def __init__(self, max_bytes: int):
        self._max_bytes, self._bytes = max_bytes, 0
        self._values: OrderedDict[bytes, tuple[Descriptors, np.ndarray]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: bytes) -> tuple[Descriptors, np.ndarray] | None:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: bytes, value: tuple[Descriptors, np.ndarray]) -> None:
        with self._lock:
            if key in self._values:  # two threads have described the same crystal
                return
            self._values[key] = value
            self._bytes += self._size(value)
            while self._bytes > self._max_bytes:
                _, oldest = self._values.popitem(last=False)
                self._bytes -= self._size(oldest)

    @staticmethod
    def _size(value: tuple[Descriptors, np.ndarray]) -> int:
        return _OVERHEAD + value[0].sites.nbytes + value[1].nbytes


_KEPT = _Kept(_KEPT_BYTES)


def _described(
    cell: np.ndarray, points: np.ndarray, numbers: np.ndarray
) -> tuple[Descriptors, np.ndarray]:
    """The descriptors with the distinct sites only, and the row of each atom's site."""
    found = symmetry_if_any(cell, points @ np.linalg.inv(cell), numbers)
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
    density = DALTON_PER_CUBIC_ANGSTROM * mass / volume
    sizes = [len(numbers), len(distinct), volume / len(numbers), density]
    described = Descriptors(
        space_group=0 if found is None else int(found.number),
        cell=_read_only(np.array([*sizes, *lengths, *angles], np.float32)),
        sites=_sites(cell, points, numbers, distinct),
    )
    return described, site_of.astype(np.int32)


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def _sites(
    cell: np.ndarray, points: np.ndarray, numbers: np.ndarray, atoms: np.ndarray
) -> np.ndarray:
    """(atoms, SITE_NUMBERS) float32 of some atoms, see `Descriptors.sites`."""
    cutoff = min(_FAR, 1.5 * (np.abs(np.linalg.det(cell)) / len(numbers) * _SHELL) ** (1 / 3))
    senders, receivers, vectors = NeighborList(cutoff=cutoff, full_list=True).compute(
        points, cell, periodic=True, quantities="ijD"
    )
    distances = np.linalg.norm(vectors, axis=1)
    order = np.lexsort((distances, receivers))
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
        ends = _up_to(near, near[0] * _NEAREST), _shell_size(near)
        row[NEIGHBOURS:] = np.concatenate([_shell(bonds[:end], elements[:end]) for end in ends])
    return rows


def _shell(bonds: np.ndarray, elements: np.ndarray) -> np.ndarray:
    """(SHELL_NUMBERS,) of neighbours in these directions."""
    cosines = (bonds @ bonds.T)[~np.tri(len(bonds), dtype=bool)]
    # Shared by two: bins would have edges, and rounding moves an angle of 90 degrees across one.
    at = (np.clip(cosines, -1, 1) + 1) * ((ANGLES - 1) / 2)
    below = np.minimum(at.astype(np.int64), ANGLES - 2)
    counts = np.bincount(below, below + 1 - at, ANGLES) + np.bincount(below + 1, at - below, ANGLES)
    shares = counts / max(len(cosines), 1)
    return np.concatenate([[len(bonds)], shares, atom_features()[elements].mean(axis=0)])


def _shell_size(distances: np.ndarray) -> int:
    """The number of atoms before the largest relative gap between ascending distances.

    Without a clear gap, it is those up to the distance of the last that can belong to a shell: all
    at that distance, since nothing tells them apart.
    """
    near = distances[: _SHELL + 1]
    gaps = near[1:] / near[:-1] - 1
    if len(gaps) and gaps.max() > _SAME_SHELL:
        # A later gap has to be clearly larger than an earlier one.
        return int(np.argmax(gaps - 1e-6 * np.arange(len(gaps)))) + 1
    return _up_to(distances, near[:_SHELL][-1] * (1 + _EQUAL))


def _up_to(distances: np.ndarray, limit: float) -> int:
    """The number of ascending distances up to a limit."""
    return int(np.searchsorted(distances, limit, side="right"))
