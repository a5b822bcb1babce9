"""Strict conversion and validation of the numbers that define a crystal."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np

from clac_jax.crystals import elements
from clac_jax.errors import UserError

# The limits; docs/data.md gives the reasons.
MIN_DISTANCE = 0.5
"""Smallest distance in any crystal, angstrom; H-H is 0.74 in H2, an X-ray O-H as short as 0.58."""

MAX_LENGTH = 500.0
"""Longest cell vector, angstrom; in thin, longer cells the neighbour search divides by zero."""

MAX_COORDINATE = 1e5
"""Largest coordinate, angstrom or fractional; wrapping a larger one into the cell loses digits."""

PARAMETER_TOLERANCE = 0.02
"""Relative tolerance of lengths, and tolerance of cosines, given in addition to cell vectors."""

MAX_ATOMS = 20_000
"""Largest number of atoms in the cell."""

_NUMBER_TYPES = (int, float, np.integer, np.floating, Decimal)


class CrystalError(UserError, ValueError):
    """The data do not describe a valid crystal."""


def lattice_from_parameters(
    a: float, b: float, c: float, alpha: float, beta: float, gamma: float
) -> np.ndarray:
    """Cell vectors from lengths (angstrom) and angles (degrees).

    Returns:
        (3, 3) float64, angstrom; the rows are the cell vectors: a along x, b in the xy plane,
        right-handed.

    Raises:
        CrystalError: a length or angle is out of range, or the volume would be zero.
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


def check_parameters(lattice: np.ndarray, abc: Any, angles: Any) -> None:
    """Checks cell vectors against lengths (angstrom) and angles (degrees) given in addition.

    A mismatch reveals cell vectors that were stored as columns instead of rows.

    Raises:
        CrystalError: the lengths or angles are not those of the cell vectors.
    """
    lengths = np.linalg.norm(lattice, axis=1)
    if abc is not None:
        off = np.abs(floats_of(abc, "abc", (3,)) - lengths) > PARAMETER_TOLERANCE * lengths
        if off.any():
            raise CrystalError(
                'The lengths of the vectors in "lattice_mat" are not those in "abc". Correct one '
                "of them: the rows must be the cell vectors."
            )
    if angles is not None and lengths.all():
        units = lattice / lengths[:, None]
        cosines = np.array([units[1] @ units[2], units[0] @ units[2], units[0] @ units[1]])
        written = np.cos(np.radians(floats_of(angles, "angles", (3,))))
        if (np.abs(cosines - written) > PARAMETER_TOLERANCE).any():
            raise CrystalError(
                'The angles between the vectors in "lattice_mat" are not those in "angles". '
                "Correct one of them: the rows must be the cell vectors."
            )


def lattice_of(value: Any, flat: bool = False) -> np.ndarray:
    """Cell vectors as a (3, 3) float64 array (copy or view), angstrom.

    Args:
        value: 3 x 3 numbers.
        flat: whether a flat list of 9 numbers is accepted, too.

    Raises:
        CrystalError: they are not such numbers, or a vector is longer than MAX_LENGTH.
    """
    lattice = floats_of(value, "lattice", (9,) if flat and _length(value) == 9 else (3, 3))
    lattice = lattice.reshape(3, 3)
    longest = float(np.abs(lattice).max())
    if longest <= MAX_LENGTH:  # else its square may overflow
        longest = float(np.linalg.norm(lattice, axis=1).max())
    if longest > MAX_LENGTH:
        raise CrystalError(
            f"The lattice has a vector of {longest:.3g} angstrom; the limit is {MAX_LENGTH:g}. "
            "Check the cell vectors and their unit."
        )
    return lattice


def coordinates_of(value: Any, num_atoms: int, flat: bool = False) -> np.ndarray:
    """Coordinates as a (num_atoms, 3) float64 array.

    Args:
        value: num_atoms x 3 numbers.
        num_atoms: number of atoms.
        flat: whether a flat list of 3 num_atoms numbers is accepted, too.

    Raises:
        CrystalError: they are not such numbers, not finite, or larger than MAX_COORDINATE.
    """
    is_flat = flat and _length(value) == 3 * num_atoms
    coordinates = floats_of(value, "coordinates", (3 * num_atoms,) if is_flat else (num_atoms, 3))
    coordinates = coordinates.reshape(num_atoms, 3)
    far = np.flatnonzero((np.abs(coordinates) > MAX_COORDINATE).any(axis=1))
    if len(far):
        raise CrystalError(
            f"Atom {far[0]} has a coordinate of {np.abs(coordinates[far[0]]).max():.3g}, outside "
            f"all cells; the limit is {MAX_COORDINATE:g}. Correct it."
        )
    return coordinates


def atomic_numbers_of(value: Any) -> np.ndarray:
    """Atomic numbers as an (N,) int32 array.

    Raises:
        CrystalError: there are none or too many, or one is not the integer atomic number of an
            element with an atom feature vector.
    """
    count = _length(value)
    check_count(count)
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu" and value.ndim == 1:
        numbers = value  # as the records hold them
    else:
        numbers = floats_of(value, "atomic numbers", (count,))
    bad = np.flatnonzero(
        (numbers < 1) | (numbers > elements.MAX_ATOMIC_NUMBER) | (numbers != np.floor(numbers))
    )
    if len(bad):
        raise CrystalError(
            f"Atom {bad[0]} has atomic number {numbers[bad[0]]:.12g}, which has no atom vector. "
            f"Use elements 1 to {elements.MAX_ATOMIC_NUMBER}."
        )
    return numbers.astype(np.int32)


def floats_of(value: Any, what: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers as a finite float64 array; strings and booleans are rejected.

    Args:
        value: an array, or nested lists.
        what: name of the quantity, for messages.
        shape: required shape.

    Raises:
        CrystalError: there is anything but finite numbers, or the shape is wrong.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind in "iuf":
        with np.errstate(over="ignore"):  # longer floats may overflow; they are rejected below
            array = value.astype(np.float64, copy=False)
    else:
        array = _float_array(value, what, shape)
    if array.shape != shape:
        raise CrystalError(f"The shape of the {what} is {array.shape}. It must be {shape}.")
    finite = np.isfinite(array)
    if not finite.all():
        if what == "coordinates" and len(shape) == 2:
            atom = int(np.flatnonzero(~finite.all(axis=1))[0])
            raise CrystalError(
                f"The coordinates of atom {atom} are not finite (NaN or infinity). Correct them."
            )
        raise CrystalError(f"A value of the {what} is not finite (NaN or infinity). Correct it.")
    return array


def _float_array(value: Any, what: str, shape: tuple[int, ...]) -> np.ndarray:
    """Nested lists of numbers as a float64 array with as many dimensions as `shape`."""
    items, row_length = [value], 0
    for _ in shape:
        if not all(isinstance(row, list | tuple | np.ndarray) for row in items):
            raise CrystalError(
                f"The {what} must be a {len(shape)}-dimensional list of numbers. Correct them."
            )
        lengths = sorted(set(map(_length, items)))
        if len(lengths) > 1:
            raise CrystalError(
                f"The {what} have rows of unequal length ({lengths[:3]}). Correct them."
            )
        row_length = lengths[0] if lengths else 0
        if row_length * len(items) > 3 * MAX_ATOMS:
            raise CrystalError(
                f"The {what} have more numbers than {MAX_ATOMS:,} atoms need. Use a smaller cell."
            )
        items = [item for row in items for item in row]
    wrong = [kind for kind in set(map(type, items)) if not _is_number(kind)]
    if wrong:
        item = next(item for item in items if type(item) in wrong)
        raise CrystalError(f"{shown(item)} in the {what} is not a number. Use numbers only.")
    try:
        array = np.array([float(item) for item in items], np.float64)
    except (OverflowError, ValueError) as error:
        raise CrystalError(f"A number in the {what} is too large. Correct it.") from error
    return array if len(shape) == 1 else array.reshape(-1, max(1, row_length))


def boolean_of(value: Any, what: str) -> bool:
    """A boolean, also from 0, 1 or text; a missing value is False.

    Raises:
        CrystalError: the value is neither true nor false; the message contains `what`.
    """
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
    raise CrystalError(f'"{what}" is neither true nor false: {shown(value)}. Give one of them.')


def element_of(name: Any) -> int:
    """The atomic number of an element symbol.

    Raises:
        CrystalError: the value is not the symbol of an element.
    """
    if not isinstance(name, str):
        raise CrystalError(f"{shown(name)} is not an element. Use symbols such as Fe.")
    try:
        return elements.atomic_number(name)
    except elements.ElementError as error:
        raise CrystalError(f"{shown(name)} is not an element. Use symbols such as Fe.") from error


def _length(value: Any) -> int:
    try:
        return len(value)
    except TypeError as error:
        raise CrystalError(f"{shown(value)} is not a list of numbers. Use one.") from error


def _is_number(kind: type) -> bool:
    return issubclass(kind, _NUMBER_TYPES) and not issubclass(kind, bool | np.bool_)


def shown(value: Any) -> str:
    """A short description of any value, for the start of a message."""
    if isinstance(value, int) and abs(value) > 10**12:
        return "An integer of more than 12 digits"
    if isinstance(value, str | int | float):
        text = ascii(str(value)) if isinstance(value, str) else ascii(value)
        return text if len(text) <= 40 else f"{text[:37]}..."
    return "A missing value" if value is None else f"A value of type {type(value).__name__}"


def check_count(num_atoms: int) -> None:
    """Checks the number of atoms.

    Raises:
        CrystalError: there are no atoms, or more than MAX_ATOMS.
    """
    if num_atoms == 0:
        raise CrystalError("The crystal has no atoms. Add at least one.")
    if num_atoms > MAX_ATOMS:
        raise CrystalError(
            f"The cell has {num_atoms:,} atoms; the limit is {MAX_ATOMS:,}. Use a smaller cell."
        )
