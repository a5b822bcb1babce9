"""A crystal: lattice, elements, positions; read from numbers or an atoms dict, and checked."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
from vesin import NeighborList

from clac_jax import elements
from clac_jax.errors import UserError

# The limits, with their reasons for users in docs/data.md.
MIN_DISTANCE = 0.5
"""Angstrom; no two atoms of any crystal are closer. H2 is 0.74; X-rays see O-H as short as 0.58."""

MIN_RADII_SHARE = 0.4
"""Of the sum of two covalent radii; the closest real contacts, under pressure, are near 0.55."""

MIN_VOLUME_PER_ATOM = 0.5
"""Cubic angstrom; a cell smaller than this has lost a dimension. Dense hydrogen has above 1."""

MAX_DENSITY = 12.0
"""Atoms in a cubic angstrom: more than the densest packing of spheres of MIN_DISTANCE."""

MAX_SEARCH = 1e8
"""Places that a search for neighbours within 6 angstrom looks at in a skewed cell: a second."""

MAX_LENGTH = 500.0
"""Angstrom of a cell vector; in thin cells of more, the neighbour search divides by zero."""

MAX_COORDINATE = 1e5
"""Angstrom, and cells: a position farther out has lost digits when it is wrapped into the cell."""

PARAMETER_TOLERANCE = 0.02
"""Of lengths, and of cosines, that are written beside the cell vectors."""

MAX_ATOMS = 20_000
"""In the cell."""

_NUMBER_TYPES = (int, float, np.integer, np.floating, Decimal)


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
        CrystalError: wrong shapes, no atoms or too many, values that are not numbers or outside the
            limits above, atomic numbers that are not integers, a cell without volume, an element
            without an atom vector, or atoms closer than any two atoms of these elements.
    """

    lattice: np.ndarray
    atomic_numbers: np.ndarray
    positions: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "lattice", _lattice(self.lattice))
        object.__setattr__(self, "atomic_numbers", _atomic_numbers(self.atomic_numbers))
        positions = _coordinates(self.positions, len(self.atomic_numbers))
        object.__setattr__(self, "positions", positions)
        self._check_cell()
        self._check_distances()

    def _check_cell(self) -> None:
        volume = self.volume
        if volume < MIN_VOLUME_PER_ATOM * self.num_atoms:
            raise CrystalError(
                f"The cell has a volume of {volume:.3g} cubic angstrom for {self.num_atoms} "
                "atoms. Check the cell vectors and their unit."
            )
        heights = self._heights()
        # A cell whose opposite faces are closer than any two atoms is far from reduced.
        if heights.min() < MIN_DISTANCE:
            images = float(np.prod(2 * np.ceil(6.0 / heights) + 1))
            boxes = float(np.prod(np.maximum(1.0, heights / 2.0)))
            if images * (boxes + self.num_atoms**2) > MAX_SEARCH:
                raise CrystalError(
                    f"Opposite faces of the cell are only {heights.min():.2g} angstrom apart: it "
                    "is too skewed to search for neighbours. Give a reduced cell."
                )

    def _heights(self) -> np.ndarray:
        """(3,) angstrom between the opposite faces of the cell, which has a volume."""
        return 1.0 / np.linalg.norm(np.linalg.inv(self.lattice), axis=0)

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
        """Refuses thousands of atoms in one place, whose pairs would fill the memory.

        Args:
            box: angstrom, the least height of the boxes that are counted.
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
    def from_arrays(cls, lattice: Any, atomic_numbers: Any, frac_coords: Any) -> Crystal:
        """Reads three arrays or nested lists; nothing is converted that is not a number already.

        Args:
            lattice: 3 x 3 or 9 numbers, angstrom, rows are cell vectors.
            atomic_numbers: N integers; 17.0 is one, 17.2, true and "17" are not.
            frac_coords: N x 3 or 3 N numbers, fractional.

        Raises:
            CrystalError: they are not such arrays or do not describe a crystal.
        """
        cell = _lattice(lattice, flat=True)
        numbers = _atomic_numbers(atomic_numbers)
        fractions = _coordinates(frac_coords, len(numbers), flat=True)
        return cls(cell, numbers, fractions @ cell)

    @classmethod
    def from_atoms(cls, atoms: Mapping[str, Any]) -> Crystal:
        """Reads an atoms dict.

        Args:
            atoms: `lattice_mat` (3 x 3, angstrom, rows are cell vectors), or `abc` (angstrom) and
                `angles` (degrees), which must agree if both are given; `elements` (symbols);
                `coords` (N x 3); `cartesian` (true or false, also as 0, 1 or text; if false or
                missing the coordinates are fractional).

        Raises:
            CrystalError: a key is missing or what it holds is not a crystal.
        """
        if not isinstance(atoms, Mapping):
            raise CrystalError("The atoms are not a dict with lattice_mat, elements and coords.")
        for key in ("elements", "coords"):
            value = atoms.get(key)
            if isinstance(value, str | bytes) or not isinstance(value, Sequence | np.ndarray):
                raise CrystalError(f'The atoms have no list "{key}". Add it.')
        if atoms.get("lattice_mat") is not None:
            lattice = _lattice(atoms["lattice_mat"])
            _check_parameters(lattice, atoms.get("abc"), atoms.get("angles"))
        elif atoms.get("abc") is not None and atoms.get("angles") is not None:
            parameters = [
                *_floats(atoms["abc"], "abc", (3,)),
                *_floats(atoms["angles"], "angles", (3,)),
            ]
            lattice = lattice_from_parameters(*map(float, parameters))
        else:
            raise CrystalError('The atoms have no "lattice_mat" (or "abc" and "angles"). Add it.')
        _check_count(len(atoms["elements"]))
        numbers = np.array([_element(name) for name in atoms["elements"]], np.int32)
        coords = _coordinates(atoms["coords"], len(numbers))
        for key in atoms:
            if key != "cartesian" and "cartesian" in str(key).lower():
                raise CrystalError(f'The atoms have a key {_shown(key)}. Name it "cartesian".')
        is_cartesian = _boolean(atoms.get("cartesian"), "cartesian")
        return cls(lattice, numbers, coords if is_cartesian else coords @ lattice)

    @classmethod
    def from_cif(cls, text: str) -> Crystal:
        """Reads the first block with atoms of a CIF, with its symmetry applied; see `cif.read`.

        Raises:
            CrystalError: the text is not a CIF or does not describe one ordered crystal.
            FormulaMismatch: its sites are not those of its formula sum.
        """
        from clac_jax import cif  # which reads into this class

        return cif.read(text).checked()

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
        CrystalError: no cell has these lengths and angles.
    """
    for name, length in (("a", a), ("b", b), ("c", c)):
        if not MIN_DISTANCE <= length <= MAX_LENGTH:
            raise CrystalError(
                f"The cell length {name} is {length:g} angstrom. It must be from {MIN_DISTANCE:g} "
                f"to {MAX_LENGTH:g}."
            )
    for name, angle in (("alpha", alpha), ("beta", beta), ("gamma", gamma)):
        if not 0 < angle < 180:
            raise CrystalError(
                f"The cell angle {name} is {angle:g} degrees. It must be between 0 and 180."
            )
    cos_a, cos_b, cos_g = (math.cos(math.radians(angle)) for angle in (alpha, beta, gamma))
    sin_g = math.sin(math.radians(gamma))
    c_y = (cos_a - cos_b * cos_g) / sin_g
    c_z_squared = 1 - cos_b**2 - c_y**2
    if c_z_squared <= 1e-9:
        raise CrystalError(
            f"No cell has the angles {alpha:g}, {beta:g}, {gamma:g} degrees: its volume would be "
            "zero. Correct them."
        )
    return np.array(
        [
            [a, 0.0, 0.0],
            [b * cos_g, b * sin_g, 0.0],
            [c * cos_b, c * c_y, c * math.sqrt(c_z_squared)],
        ]
    )


def _check_parameters(lattice: np.ndarray, abc: Any, angles: Any) -> None:
    """Lengths and angles beside cell vectors tell where their rows were taken for columns.

    Raises:
        CrystalError: they are not those of the vectors.
    """
    lengths = np.linalg.norm(lattice, axis=1)
    if abc is not None:
        off = np.abs(_floats(abc, "abc", (3,)) - lengths) > PARAMETER_TOLERANCE * lengths
        if off.any():
            raise CrystalError(
                'The lengths of the vectors in "lattice_mat" are not those in "abc". Correct one '
                "of them: the rows must be the cell vectors."
            )
    if angles is not None and lengths.all():
        units = lattice / lengths[:, None]
        cosines = np.array([units[1] @ units[2], units[0] @ units[2], units[0] @ units[1]])
        written = np.cos(np.radians(_floats(angles, "angles", (3,))))
        if (np.abs(cosines - written) > PARAMETER_TOLERANCE).any():
            raise CrystalError(
                'The angles between the vectors in "lattice_mat" are not those in "angles". '
                "Correct one of them: the rows must be the cell vectors."
            )


def _lattice(value: Any, flat: bool = False) -> np.ndarray:
    """A (3, 3) float64 copy or view of cell vectors within the limits."""
    lattice = _floats(value, "lattice", (9,) if flat and _length(value) == 9 else (3, 3))
    lattice = lattice.reshape(3, 3)
    longest = float(np.abs(lattice).max())
    if longest <= MAX_LENGTH:  # else its square may overflow
        longest = float(np.linalg.norm(lattice, axis=1).max())
    if longest > MAX_LENGTH:
        raise CrystalError(
            f"The lattice has a vector of {longest:.3g} angstrom; {MAX_LENGTH:g} is the most. "
            "Check the cell vectors and their unit."
        )
    return lattice


def _coordinates(value: Any, num_atoms: int, flat: bool = False) -> np.ndarray:
    """(num_atoms, 3) float64 coordinates, finite and near the cell."""
    is_flat = flat and _length(value) == 3 * num_atoms
    coordinates = _floats(value, "coordinates", (3 * num_atoms,) if is_flat else (num_atoms, 3))
    coordinates = coordinates.reshape(num_atoms, 3)
    far = np.flatnonzero((np.abs(coordinates) > MAX_COORDINATE).any(axis=1))
    if len(far):
        raise CrystalError(
            f"Atom {far[0]} has a coordinate of {np.abs(coordinates[far[0]]).max():.3g}, outside "
            f"all cells; {MAX_COORDINATE:g} is the most. Correct it."
        )
    return coordinates


def _atomic_numbers(value: Any) -> np.ndarray:
    """(N,) int32 numbers of elements that have an atom vector."""
    count = _length(value)
    _check_count(count)
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu" and value.ndim == 1:
        numbers = value  # as the records hold them
    else:
        numbers = _floats(value, "atomic numbers", (count,))
    bad = np.flatnonzero(
        (numbers < 1) | (numbers > elements.MAX_ATOMIC_NUMBER) | (numbers != np.floor(numbers))
    )
    if len(bad):
        raise CrystalError(
            f"Atom {bad[0]} has atomic number {numbers[bad[0]]:.12g}, which has no atom vector. "
            f"Elements 1 to {elements.MAX_ATOMIC_NUMBER} can be used."
        )
    return numbers.astype(np.int32)


def _floats(value: Any, what: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers, and only numbers, as finite float64 of a shape; texts and booleans are refused."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "iuf":
        with np.errstate(over="ignore"):  # of longer floats: found not finite below
            array = value.astype(np.float64, copy=False)
    else:
        array = _float_array(value, what, shape)
    if array.shape != shape:
        raise CrystalError(
            f"Shape of the {what}: {array.shape}. It must be {shape}, one number for each."
        )
    finite = np.isfinite(array)
    if not finite.all():
        if what == "coordinates" and len(shape) == 2:
            atom = int(np.flatnonzero(~finite.all(axis=1))[0])
            raise CrystalError(
                f"The coordinates of atom {atom} are not finite (NaN or infinity). Correct them."
            )
        raise CrystalError(f"Not finite (NaN or infinity): a value of the {what}. Correct it.")
    return array


def _float_array(value: Any, what: str, shape: tuple[int, ...]) -> np.ndarray:
    """Lists of numbers, or lists of them, as a float64 array of the shape they have."""
    items, row_length = [value], 0
    for _ in shape:
        if not all(isinstance(row, list | tuple | np.ndarray) for row in items):
            raise CrystalError(
                f"No {len(shape)}-dimensional list of numbers: the {what}. Give one."
            )
        lengths = sorted(set(map(_length, items)))
        if len(lengths) > 1:
            raise CrystalError(
                f"Rows of unequal length ({lengths[:3]}) in the {what}. Correct them."
            )
        row_length = lengths[0] if lengths else 0
        if row_length * len(items) > 3 * MAX_ATOMS:
            raise CrystalError(
                f"More numbers than {MAX_ATOMS:,} atoms need in the {what}. Give a smaller cell."
            )
        items = [item for row in items for item in row]
    wrong = [kind for kind in set(map(type, items)) if not _is_number(kind)]
    if wrong:
        item = next(item for item in items if type(item) in wrong)
        raise CrystalError(f"{_shown(item)} in the {what} is not a number. Give numbers only.")
    try:
        array = np.array([float(item) for item in items], np.float64)
    except (OverflowError, ValueError) as error:
        raise CrystalError(f"A number in the {what} is too large. Correct it.") from error
    return array if len(shape) == 1 else array.reshape(-1, max(1, row_length))


def _boolean(value: Any, what: str) -> bool:
    """One strict reading of a yes or no; missing is no."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return False
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | float | np.integer | np.floating) and value in (0, 1):
        return bool(value)
    if isinstance(value, str):
        text = value.strip().lower()
        if text in ("true", "t", "yes", "y", "1", "1.0"):
            return True
        if text in ("false", "f", "no", "n", "0", "0.0", "", "none", "null", "nan"):
            return False
    raise CrystalError(f'"{what}" is neither true nor false: {_shown(value)}. Give one of them.')


def _element(name: Any) -> int:
    if not isinstance(name, str):
        raise CrystalError(f"{_shown(name)} is not an element. Use symbols such as Fe.")
    try:
        return elements.atomic_number(name)
    except elements.ElementError as error:
        raise CrystalError(f"{_shown(name)} is not an element. Use symbols such as Fe.") from error


def _length(value: Any) -> int:
    try:
        return len(value)
    except TypeError as error:
        raise CrystalError(f"{_shown(value)} is not a list of numbers. Give one.") from error


def _is_number(kind: type) -> bool:
    return issubclass(kind, _NUMBER_TYPES) and not issubclass(kind, bool | np.bool_)


def _shown(value: Any) -> str:
    """A short form of any value for a message."""
    if isinstance(value, int) and abs(value) > 10**12:
        return "An integer of more than 12 digits"
    if isinstance(value, str | int | float):
        text = ascii(str(value)) if isinstance(value, str) else ascii(value)
        return text if len(text) <= 40 else f"{text[:37]}..."
    return "A missing value" if value is None else f"A value of type {type(value).__name__}"


def _check_count(num_atoms: int) -> None:
    if num_atoms == 0:
        raise CrystalError("The crystal has no atoms. Give at least one.")
    if num_atoms > MAX_ATOMS:
        raise CrystalError(
            f"The cell has {num_atoms:,} atoms; {MAX_ATOMS:,} is the most. Give a smaller cell."
        )
