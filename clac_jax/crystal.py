"""A crystal: lattice, elements, positions; read from a CIF or an atoms dict and checked."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gemmi
import numpy as np
from vesin import NeighborList

from clac_jax import elements
from clac_jax.errors import UserError

MIN_DISTANCE = 0.1
"""Angstrom; two atoms closer than this are one atom written twice."""

MIN_VOLUME_PER_ATOM = 0.1
"""Cubic angstrom; a cell smaller than this has lost a dimension."""


_CELL_TAGS = tuple(f"_cell_length_{edge}" for edge in "abc") + tuple(
    f"_cell_angle_{angle}" for angle in ("alpha", "beta", "gamma")
)


class CrystalError(UserError, ValueError):
    """The data does not describe a crystal."""


@dataclass(frozen=True)
class Crystal:
    """An ordered periodic crystal.

    Attributes:
        lattice: (3, 3) float64, rows are the cell vectors, angstrom.
        atomic_numbers: (N,) int32.
        positions: (N, 3) float64, Cartesian, angstrom.

    Raises:
        CrystalError: wrong shapes, no atoms, numbers that are not finite, a cell without volume,
            an element without an atom vector, or overlapping atoms.
    """

    lattice: np.ndarray
    atomic_numbers: np.ndarray
    positions: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "lattice", np.asarray(self.lattice, np.float64))
        object.__setattr__(self, "atomic_numbers", np.asarray(self.atomic_numbers, np.int32))
        object.__setattr__(self, "positions", np.asarray(self.positions, np.float64))
        self._check_shapes()
        self._check_numbers()
        self._check_distances()

    def _check_shapes(self) -> None:
        num_atoms = len(self.atomic_numbers)
        if self.lattice.shape != (3, 3):
            raise CrystalError(f"The lattice has shape {self.lattice.shape}. It must be (3, 3).")
        if num_atoms == 0:
            raise CrystalError("The crystal has no atoms. Give at least one.")
        if self.positions.shape != (num_atoms, 3):
            raise CrystalError(
                f"{num_atoms} elements have coordinates of shape {self.positions.shape}. "
                f"They need shape ({num_atoms}, 3)."
            )

    def _check_numbers(self) -> None:
        if not np.isfinite(self.lattice).all():
            raise CrystalError("The lattice has a value that is not finite. Mend the cell.")
        bad = np.flatnonzero(~np.isfinite(self.positions).all(axis=1))
        if len(bad):
            raise CrystalError(
                f"The coordinates of atom {bad[0]} are not finite (NaN or infinity). Mend them."
            )
        if self.volume < MIN_VOLUME_PER_ATOM * self.num_atoms:
            raise CrystalError(
                f"The cell has a volume of {self.volume:.3g} cubic angstrom for {self.num_atoms} "
                "atoms. Check the cell vectors and their unit."
            )
        z = self.atomic_numbers
        bad = np.flatnonzero((z < 1) | (z > elements.MAX_ATOMIC_NUMBER))
        if len(bad):
            raise CrystalError(
                f"Atom {bad[0]} has atomic number {z[bad[0]]}, which has no atom vector. "
                f"Elements 1 to {elements.MAX_ATOMIC_NUMBER} can be used."
            )

    def _check_distances(self) -> None:
        # Searched wider than needed: the library's cell list has a cell per cutoff cubed.
        i, j, d = NeighborList(cutoff=max(2.0, MIN_DISTANCE), full_list=False).compute(
            self.positions, self.lattice, periodic=True, quantities="ijd"
        )
        if len(d) and d.min() < MIN_DISTANCE:
            nearest = int(d.argmin())
            raise CrystalError(
                f"Atoms {i[nearest]} and {j[nearest]} are {d[nearest]:.3g} angstrom apart. "
                "Remove one of them."
            )

    @property
    def num_atoms(self) -> int:
        """Atoms in the cell."""
        return len(self.atomic_numbers)

    @property
    def volume(self) -> float:
        """Of the cell, cubic angstrom."""
        return abs(float(np.linalg.det(self.lattice)))

    @property
    def fractional(self) -> np.ndarray:
        """(N, 3) float64 fractional coordinates, not wrapped into the cell."""
        return np.linalg.solve(self.lattice.T, self.positions.T).T

    @property
    def formula(self) -> str:
        """The reduced formula, elements in alphabetical order ("AsCa", "Ca3O12P3")."""
        counts = Counter(elements.symbol(int(z)) for z in self.atomic_numbers)
        divisor = functools.reduce(math.gcd, counts.values())
        parts = ((name, counts[name] // divisor) for name in sorted(counts))
        return "".join(name + (str(count) if count > 1 else "") for name, count in parts)

    def replace(self, **changes: np.ndarray) -> Crystal:
        """A crystal with some arrays changed, checked again."""
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_atoms(cls, atoms: Mapping[str, Any]) -> Crystal:
        """Reads an atoms dict.

        Args:
            atoms: `lattice_mat` (3 x 3, angstrom, rows are cell vectors), or `abc` (angstrom) and
                `angles` (degrees); `elements` (symbols); `coords` (N x 3); `cartesian` (bool; if
                false or missing the coordinates are fractional).

        Raises:
            CrystalError: a key is missing or what it holds is no crystal.
        """
        for key in ("elements", "coords"):
            if not isinstance(atoms.get(key), Sequence | np.ndarray):
                raise CrystalError(f'The atoms have no list "{key}". Add it.')
        try:
            if atoms.get("lattice_mat") is not None:
                lattice = np.asarray(atoms["lattice_mat"], np.float64)
            elif atoms.get("abc") is not None and atoms.get("angles") is not None:
                parameters = [float(value) for value in (*atoms["abc"], *atoms["angles"])]
                if len(parameters) != 6 or min(parameters) <= 0:
                    raise CrystalError(
                        f"The cell has abc and angles {parameters}. It needs three positive "
                        "lengths and three positive angles."
                    )
                lattice = lattice_from_parameters(*parameters)
            else:
                raise CrystalError(
                    'The atoms have no "lattice_mat" (or "abc" and "angles"). Add it.'
                )
            coords = np.asarray(atoms["coords"], np.float64)
        except (TypeError, ValueError) as error:
            if isinstance(error, CrystalError):
                raise
            raise CrystalError(f"The atoms hold something that is no number: {error}.") from error
        numbers = np.array([_atomic_number(str(name)) for name in atoms["elements"]], np.int32)
        usable = lattice.shape == (3, 3) and coords.shape == (len(numbers), 3)
        if atoms.get("cartesian") or not usable or not np.isfinite(lattice).all():
            return cls(lattice, numbers, coords)  # which tells what is wrong
        return cls(lattice, numbers, coords @ lattice)

    @classmethod
    def from_cif(cls, text: str) -> Crystal:
        """Reads the first block with atoms of a CIF, with its symmetry applied.

        Raises:
            CrystalError: the text is no CIF, has no atoms or cell, or has partly occupied sites.
        """
        try:
            document = gemmi.cif.read_string(text)
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise CrystalError(f"The CIF does not parse: {reason}. Mend the file.") from error
        for block in document:
            structure = gemmi.make_small_structure_from_block(block)
            if len(structure.sites):
                return cls._from_sites(structure, block)
        raise CrystalError("The CIF has no atom sites. Give one with _atom_site_fract_x and so on.")

    @classmethod
    def _from_sites(cls, structure: gemmi.SmallStructure, block: gemmi.cif.Block) -> Crystal:
        cell = structure.cell
        for tag in _CELL_TAGS:  # the parser fills in what is missing, so the file is asked
            if not math.isfinite(gemmi.cif.as_number(block.find_value(tag) or "?")):
                raise CrystalError(f"The CIF has no unit cell: {tag} is missing. Add it.")
        if not cell.volume > 0:
            raise CrystalError("The unit cell of the CIF has no volume. Mend its lengths.")
        for site in structure.sites:
            if site.occ < 1.0 - 1e-3:
                raise CrystalError(
                    f"Site {site.label} of the CIF is occupied to {site.occ:g}. Only ordered "
                    "crystals can be used: replace it by an ordered cell."
                )
        operations = _symmetry_operations(block, structure)
        lattice = lattice_from_parameters(cell.a, cell.b, cell.c, cell.alpha, cell.beta, cell.gamma)
        numbers, fractions = [], []
        for site in structure.sites:
            name = site.element.name if site.element.atomic_number else site.type_symbol
            images = _distinct_images(np.array(site.fract.tolist()), operations, lattice)
            fractions.append(images)
            numbers += [_atomic_number(name or site.label)] * len(images)
        return cls(lattice, np.array(numbers, np.int32), np.concatenate(fractions) @ lattice)

    def to_atoms(self) -> dict[str, Any]:
        """The crystal as an atoms dict with Cartesian coordinates; `from_atoms` reads it back."""
        return {
            "lattice_mat": self.lattice.tolist(),
            "elements": [elements.symbol(int(z)) for z in self.atomic_numbers],
            "coords": self.positions.tolist(),
            "cartesian": True,
        }


def lattice_from_parameters(
    a: float, b: float, c: float, alpha: float, beta: float, gamma: float
) -> np.ndarray:
    """Cell vectors from lengths (angstrom) and angles (degrees).

    Returns:
        (3, 3) float64 rows: a along x, b in the xy plane, right-handed.

    Raises:
        CrystalError: no cell has these angles.
    """
    cos_a, cos_b, cos_g = (math.cos(math.radians(angle)) for angle in (alpha, beta, gamma))
    sin_g = math.sin(math.radians(gamma))
    if sin_g <= 0:
        raise CrystalError(
            f"The cell angle gamma is {gamma} degrees. It must be between 0 and 180."
        )
    c_y = (cos_a - cos_b * cos_g) / sin_g
    c_z_squared = 1 - cos_b**2 - c_y**2
    if c_z_squared <= 1e-9:
        raise CrystalError(
            f"No cell has the angles {alpha}, {beta}, {gamma} degrees: its volume would be zero."
        )
    return np.array(
        [
            [a, 0.0, 0.0],
            [b * cos_g, b * sin_g, 0.0],
            [c * cos_b, c * c_y, c * math.sqrt(c_z_squared)],
        ]
    )


def _atomic_number(name: str) -> int:
    try:
        return elements.atomic_number(name)
    except elements.ElementError as error:
        raise CrystalError(str(error)) from error


def _symmetry_operations(
    block: gemmi.cif.Block, structure: gemmi.SmallStructure
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(rotation, translation) pairs on fractional coordinates; the identity if none is declared.

    Raises:
        CrystalError: symmetry is declared in a way that cannot be read.
    """
    written = list(block.find_values("_space_group_symop_operation_xyz")) or list(
        block.find_values("_symmetry_equiv_pos_as_xyz")
    )
    if written:
        try:
            operations = [gemmi.Op(gemmi.cif.as_string(text)) for text in written]
        except (ValueError, RuntimeError) as error:
            raise CrystalError(
                f"The CIF has a symmetry operation that cannot be read: {error}. Mend it."
            ) from error
    else:
        structure.determine_and_set_spacegroup("S.H2N")  # Hall, Hermann-Mauguin, then the number
        declared = (
            structure.spacegroup_hm or structure.spacegroup_hall or structure.spacegroup_number
        )
        if structure.spacegroup is None and declared:
            raise CrystalError(
                f"The CIF declares the space group {declared!r}, which is unknown. Mend the symbol "
                "or write the symmetry operations out."
            )
        group = structure.spacegroup
        operations = [gemmi.Op("x,y,z")] if group is None else list(group.operations())
    return [
        (np.array(op.rot) / gemmi.Op.DEN, np.array(op.tran) / gemmi.Op.DEN) for op in operations
    ]


def _distinct_images(
    site: np.ndarray,
    operations: list[tuple[np.ndarray, np.ndarray]],
    lattice: np.ndarray,
    tolerance: float = 0.05,
) -> np.ndarray:
    """All images of one site in the cell, (M, 3); images within `tolerance` angstrom are one."""
    images: list[np.ndarray] = []
    for rotation, translation in operations:
        image = (rotation @ site + translation) % 1.0
        for known in images:
            apart = image - known
            if np.linalg.norm((apart - np.round(apart)) @ lattice) < tolerance:
                break
        else:
            images.append(image)
    return np.array(images)
