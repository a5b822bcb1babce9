"""A crystal: lattice, elements and positions, checked to be physically possible."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from vesin import NeighborList

from clac_jax.crystals import elements
from clac_jax.crystals.formulas import alphabetical, counts_of
from clac_jax.crystals.numbers import (
    MIN_DISTANCE,
    CrystalError,
    atomic_numbers_of,
    coordinates_of,
    lattice_of,
)

# The limits, with their reasons for users in docs/data.md.
MIN_RADII_SHARE = 0.4
"""Fraction of the sum of two covalent radii; the closest real contacts, under pressure: 0.55."""

MIN_VOLUME_PER_ATOM = 0.5
"""Cubic angstrom; a smaller cell has lost a dimension. Dense hydrogen has more than 1."""

MAX_DENSITY = 12.0
"""Atoms per cubic angstrom: above the densest packing of spheres of diameter MIN_DISTANCE."""

MAX_SEARCH = 1e8
"""Positions visited by a neighbour search within 6 angstrom in a skewed cell, in about 1 s."""


@dataclass(frozen=True, eq=False)
class Crystal:
    """An ordered periodic crystal. It cannot be changed: its arrays are read-only copies.

    Two crystals are equal, and have the same hash, if their arrays are: the same crystal in another
    cell, with its atoms in another order or moved by a cell vector, is not equal.

    >>> caesium_chloride = Crystal.from_arrays(
    ...     lattice=[[4.12, 0, 0], [0, 4.12, 0], [0, 0, 4.12]],
    ...     atomic_numbers=[55, 17],
    ...     frac_coords=[[0, 0, 0], [0.5, 0.5, 0.5]],
    ... )
    >>> caesium_chloride.formula, caesium_chloride.num_atoms, round(caesium_chloride.volume, 1)
    ('ClCs', 2, 69.9)

    Attributes:
        lattice: (3, 3) float64, rows are the cell vectors, angstrom.
        atomic_numbers: (N,) int32.
        positions: (N, 3) float64, Cartesian, angstrom.

    Raises:
        CrystalError: wrong shapes, no atoms or too many, values that are not numbers or out of
            range, atomic numbers that are not integers, a cell without volume, an element without
            an atom feature vector, or atoms closer than any two atoms of these elements.
    """

    lattice: np.ndarray
    atomic_numbers: np.ndarray
    positions: np.ndarray

    def __post_init__(self) -> None:
        numbers = atomic_numbers_of(self.atomic_numbers)
        # Copied, because a loop over strains or frames changes its arrays in place.
        lattice = np.array(lattice_of(self.lattice))
        positions = np.array(coordinates_of(self.positions, len(numbers)))
        self.__setstate__(dict(lattice=lattice, atomic_numbers=numbers, positions=positions))
        self._check_cell()
        self._check_distances()

    def __setstate__(self, state: dict[str, np.ndarray]) -> None:
        """Sets the arrays, read-only, also when unpickled or copied, which makes them writeable."""
        for name, array in state.items():
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Crystal):
            return NotImplemented
        return all(map(np.array_equal, self._arrays(), other._arrays()))

    def __hash__(self) -> int:
        # Adding 0 turns -0.0 into 0.0, which it equals.
        return hash(tuple((array + 0).tobytes() for array in self._arrays()))

    def _arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.lattice, self.atomic_numbers, self.positions

    def _check_cell(self) -> None:
        volume = self.volume
        if volume < MIN_VOLUME_PER_ATOM * self.num_atoms:
            raise CrystalError(
                f"The cell has a volume of {volume:.3g} cubic angstrom for {self.num_atoms} "
                "atoms. Check the cell vectors and their unit."
            )
        heights = self._heights()
        # If opposite faces are closer than any two atoms, the cell is far from reduced.
        if heights.min() < MIN_DISTANCE:
            images = float(np.prod(2 * np.ceil(6.0 / heights) + 1))
            boxes = float(np.prod(np.maximum(1.0, heights / 2.0)))
            if images * (boxes + self.num_atoms**2) > MAX_SEARCH:
                raise CrystalError(
                    f"Opposite faces of the cell are only {heights.min():.2g} angstrom apart: it "
                    "is too skewed to search for neighbours. Give a reduced cell."
                )

    def _heights(self) -> np.ndarray:
        """(3,) float64, distances between opposite faces of the cell, angstrom; needs a volume."""
        return np.asarray(1.0 / np.linalg.norm(np.linalg.inv(self.lattice), axis=0))

    def _check_distances(self) -> None:
        self._check_density(2.0)
        radii = elements.covalent_radii()[self.atomic_numbers]
        limit = max(MIN_DISTANCE, 2 * MIN_RADII_SHARE * float(radii.max()))
        # Searched wider than needed: the library's cell list has a cell per cutoff cubed.
        i, j, d = NeighborList(cutoff=max(2.0, limit), full_list=False).compute(
            self.positions, self.lattice, periodic=True, quantities="ijd"
        )
        if not len(d) or d.min() > limit:
            return
        least = np.maximum(MIN_DISTANCE, MIN_RADII_SHARE * (radii[i] + radii[j]))
        worst = int((d / least).argmin())
        if d[worst] < least[worst]:
            raise CrystalError(
                f"Atoms {i[worst]} and {j[worst]} are {d[worst]:.3g} angstrom apart; two atoms of "
                f"their elements keep at least {least[worst]:.2g}. Correct the positions, the "
                "symmetry or the cell."
            )

    def _check_density(self, box: float) -> None:
        """Rejects thousands of atoms in a small space, whose pairs would fill the memory.

        Args:
            box: smallest height of the boxes in which atoms are counted, angstrom.
        """
        if self.num_atoms < 256:
            return
        boxes = np.maximum(1, self._heights() // box).astype(np.int64)
        places = np.minimum((self.fractional % 1.0 * boxes).astype(np.int64), boxes - 1)
        most = int(np.bincount(places @ [boxes[1] * boxes[2], boxes[2], 1]).max())
        if most > 256 + MAX_DENSITY * self.volume / boxes.prod():
            raise CrystalError(
                f"{most:,} atoms of the cell are in one place. Correct the positions."
            )

    @property
    def num_atoms(self) -> int:
        """Number of atoms in the cell."""
        return len(self.atomic_numbers)

    @property
    def volume(self) -> float:
        """Volume of the cell, cubic angstrom."""
        return abs(float(np.linalg.det(self.lattice)))

    @property
    def fractional(self) -> np.ndarray:
        """(N, 3) float64 fractional coordinates, not wrapped into the cell."""
        return np.linalg.solve(self.lattice.T, self.positions.T).T

    @property
    def formula(self) -> str:
        """The reduced formula, elements in alphabetical order ("AsCa", "Ca3O12P3")."""
        return alphabetical(counts_of(self.atomic_numbers))

    def replace(self, **changes: np.ndarray) -> Crystal:
        """A crystal with some arrays replaced, checked again."""
        return dataclasses.replace(self, **changes)

    # The readers and writers are separate modules that import this class; each method imports the
    # function of its name when it is first called.

    @classmethod
    def from_arrays(cls, lattice: Any, atomic_numbers: Any, frac_coords: Any) -> Crystal:
        """Reads three arrays or nested lists; only numbers are accepted, not text or booleans.

        Args:
            lattice: 3 x 3 or 9 numbers, angstrom, rows are cell vectors.
            atomic_numbers: N integers; 17.0 is one, 17.2, true and "17" are not.
            frac_coords: N x 3 or 3 N numbers, fractional.

        Raises:
            CrystalError: the arrays are not of this form, or do not describe a crystal.
        """
        from clac_jax.crystals import reading

        return reading.from_arrays(lattice, atomic_numbers, frac_coords)

    @classmethod
    def from_atoms(cls, atoms: Mapping[str, Any]) -> Crystal:
        """Reads an atoms dict.

        Args:
            atoms: `lattice_mat` (3 x 3, angstrom, rows are cell vectors), or `abc` (angstrom) and
                `angles` (degrees), which must agree if both are given; `elements` (symbols);
                `coords` (N x 3); `cartesian` (true or false, also as 0, 1 or text; if false or
                missing the coordinates are fractional).

        Raises:
            CrystalError: a key is missing, or its value is not that of a crystal.
        """
        from clac_jax.crystals import reading

        return reading.from_atoms(atoms)

    @classmethod
    def from_cif(cls, text: str) -> Crystal:
        """Reads the first block with atoms of a CIF, with its symmetry applied; see `cif.read`.

        Raises:
            CrystalError: the text is not a CIF or does not describe one ordered crystal.
            FormulaMismatch: its sites do not match its formula sum.
        """
        from clac_jax.crystals import cif

        return cif.read(text).checked()

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Crystal:
        """Reads the file of a crystal.

        Args:
            path: a CIF (`.cif` or `.mcif`, also compressed: `.cif.gz`, `.bz2` or `.xz`); any other
                format is read by ASE where that is installed (POSCAR, `.vasp`, `.xyz`, ...), and
                must hold one structure.

        Raises:
            CrystalError: the file is missing, or does not describe one ordered crystal.
            PathError: the path is not text or a path, or not a valid one.
            MissingPackageError: it is not a CIF, and ASE is not installed.
        """
        from clac_jax.crystals import reading

        return reading.from_file(path)

    @classmethod
    def from_pymatgen(cls, structure: Any) -> Crystal:
        """Reads a pymatgen `Structure` by its attributes; pymatgen is not imported.

        Charges of species are dropped and deuterium is read as hydrogen, as from a CIF.

        Raises:
            CrystalError: it is not a structure, is not periodic in three directions, has no sites,
                or has a site that is not fully occupied by one element.
        """
        from clac_jax.crystals import objects

        return objects.from_pymatgen(structure)

    @classmethod
    def from_ase(cls, atoms: Any) -> Crystal:
        """Reads an ASE `Atoms` object by its attributes; ASE is not imported.

        Raises:
            CrystalError: it is not such an object, is not periodic in three directions, is empty,
                or its `info["occupancy"]` (from a CIF) has a site that is not fully occupied by
                one element.
        """
        from clac_jax.crystals import objects

        return objects.from_ase(atoms)

    def to_pymatgen(self) -> Any:
        """A pymatgen `Structure` with the same cell vectors and positions, in the same order.

        Raises:
            MissingPackageError: pymatgen is not installed.
        """
        from clac_jax.crystals import objects

        return objects.to_pymatgen(self)

    def to_ase(self) -> Any:
        """An ASE `Atoms` object with the same cell vectors and positions, in the same order.

        Raises:
            MissingPackageError: ASE is not installed.
        """
        from clac_jax.crystals import objects

        return objects.to_ase(self)

    def to_atoms(self) -> dict[str, Any]:
        """The crystal as an atoms dict with Cartesian coordinates; `from_atoms` reads it back."""
        return {
            "lattice_mat": self.lattice.tolist(),
            "elements": [elements.symbol(int(z)) for z in self.atomic_numbers],
            "coords": self.positions.tolist(),
            "cartesian": True,
        }

    def to_cif(self, name: str = "crystal") -> str:
        """The text of a CIF with all atoms of the cell in P 1; `from_cif` reads it back.

        Args:
            name: name of its data block.
        """
        from clac_jax.crystals import cif_writing

        return cif_writing.write(self, name)
