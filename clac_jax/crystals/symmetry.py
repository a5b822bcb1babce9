"""Symmetry operations: parsing, validation as a group, and application to sites."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from fractions import Fraction

import gemmi
import numpy as np

from clac_jax.crystals.numbers import CrystalError

METRIC_TOLERANCE = 0.02
"""Tolerance of the metric tensor: about 1 % in lengths and 1 degree in angles."""

MAX_OPERATIONS = 1536
"""Number of operations of F m -3 m in a 2 x 2 x 2 supercell."""

_GRID = 20_000  # the largest common denominator of exact translations
_MAX_DECIMAL = 192  # operations with other translations, which are compared pairwise
_DECIMALS = 1e-3  # tolerance of other translations
_NOT_A_GROUP = (
    "The symmetry operations are not a group: the product of two of them is not in the list. "
    "Complete the list."
)
_SAME_IMAGE = 0.05  # angstrom, for a site on its special position
_MAX_ENTRY = 9  # of a rotation matrix; in conventional cells it is 1
_GAP = re.compile(r"[0-9a-z.]\s+[0-9a-z.]", re.IGNORECASE)  # "1 1/3+x" is not 11/3+x
_TERM = re.compile(r"([+-]?)(?:(\d+(?:\.\d*)?|\.\d+)(?:/(\d+))?\*?)?([xyz]?)", re.ASCII)


class OperationError(CrystalError):
    """Symmetry operations cannot be read, are not a group, or do not fit the cell."""


@dataclass(frozen=True)
class Operations:
    """A group of symmetry operations on fractional coordinates, modulo lattice translations.

    Attributes:
        rotations: (M, 3, 3) int64, rotation matrices in fractional coordinates.
        translations: (M, 3) float64, fractional, in [0, 1).
    """

    rotations: np.ndarray
    translations: np.ndarray

    def __len__(self) -> int:
        return len(self.rotations)

    def fit(self, lattice: np.ndarray) -> bool:
        """Whether every rotation R preserves the metric tensor G of the cell: R^T G R = G."""
        metric = lattice @ lattice.T
        lengths = np.sqrt(np.diag(metric))
        turned = self.rotations.transpose(0, 2, 1) @ metric @ self.rotations
        off = np.abs(turned - metric) / np.outer(lengths, lengths)
        return bool(off.max() <= METRIC_TOLERANCE)

    def rotation_types(self) -> list[tuple[int, int]]:
        """The (determinant, trace) of each distinct rotation, which do not depend on the cell."""
        rotations = np.unique(self.rotations, axis=0)
        determinants = np.round(np.linalg.det(rotations)).astype(int)
        traces = np.trace(rotations, axis1=1, axis2=2)
        return sorted(zip(determinants.tolist(), traces.tolist(), strict=True))

    def images(
        self, sites: np.ndarray, precisions: np.ndarray, lattice: np.ndarray, max_atoms: int
    ) -> list[np.ndarray]:
        """All images of each site in the unit cell.

        A site within its precision of a special position is moved onto it; otherwise an operation
        that maps the site almost onto itself would create a second atom.

        Args:
            sites: (N, 3) fractional coordinates.
            precisions: (N,) distance, angstrom, below which images of a site are the same atom.
            lattice: (3, 3), angstrom; the rows are the cell vectors.
            max_atoms: largest total number of images.

        Returns:
            For each site (M_i, 3) fractional coordinates in [0, 1), in the order of the operations;
            M_i is its multiplicity.

        Raises:
            CrystalError: there are more than `max_atoms` images, or the operations that keep a site
                are not a group, so that it is neither on nor off a special position.
        """
        if len(self) == 1:
            return [site[None] % 1.0 for site in sites]
        result = []
        num_atoms = 0
        for site, precision in zip(sites, precisions, strict=True):
            images = self.rotations @ site + self.translations
            steps = images - site
            steps -= np.round(steps)
            keeps = np.linalg.norm(steps @ lattice, axis=1) < precision
            if keeps.sum() > 1:
                special = site + steps[keeps].mean(axis=0)
                images = self._special_images(special, int(keeps.sum()), lattice)
            num_atoms += len(images)
            if num_atoms > max_atoms:
                raise CrystalError(
                    f"The symmetry generates more than {max_atoms:,} atoms from the sites. Use a "
                    "smaller cell."
                )
            result.append(images % 1.0)
        return result

    def _special_images(self, site: np.ndarray, order: int, lattice: np.ndarray) -> np.ndarray:
        """The distinct images of a site whose site symmetry has `order` operations."""
        left = self.rotations @ site + self.translations
        images = []
        while len(left):
            steps = left - left[0]
            steps -= np.round(steps)
            same = np.linalg.norm(steps @ lattice, axis=1) < _SAME_IMAGE
            if same.sum() != order:
                raise CrystalError(
                    "A site is near a special position, but its images do not merge evenly. "
                    "Specify its coordinates with more digits."
                )
            images.append(left[0])
            left = left[~same]
        return np.array(images)


IDENTITY = Operations(np.eye(3, dtype=np.int64)[None], np.zeros((1, 3)))


@functools.lru_cache(maxsize=1024)
def group_from_triplets(written: tuple[str, ...], close: bool = False) -> Operations:
    """The group of operations given as triplets ("-y, x-y, z+2/3"), without duplicates.

    Args:
        written: the triplets.
        close: whether to add the operations that are missing from the group.

    Raises:
        OperationError: a triplet cannot be parsed or is not a crystallographic operation, or the
            operations are not a group.
    """
    if len(set(written)) > MAX_OPERATIONS:
        raise OperationError(
            f"There are more than {MAX_OPERATIONS} symmetry operations. Use a smaller cell."
        )
    parsed = [_parsed(text) for text in dict.fromkeys(written)]
    rotations = np.array([rotation for rotation, _ in parsed], np.int64)
    _check_crystallographic(rotations)
    grid = math.lcm(*(shift.denominator for _, shifts in parsed for shift in shifts))
    if grid > _GRID:  # not simple fractions, for example with an arbitrary origin
        if len(parsed) > _MAX_DECIMAL:
            raise OperationError(
                f"More than {_MAX_DECIMAL} symmetry operations have translations that are not "
                "simple fractions. Write them as 1/3 and so on."
            )
        shifts = np.array([shifts for _, shifts in parsed], np.float64)
        return _group_of_decimals(rotations, shifts)
    steps = np.array([[int(shift * grid) for shift in shifts] for _, shifts in parsed], np.int64)
    table = _OperationSet(rotations, steps % grid, grid)
    if not table.close(may_add=close):
        raise OperationError(_NOT_A_GROUP)
    return Operations(table.rotations, table.steps / grid)


@functools.lru_cache(maxsize=1024)
def group_from_hall_symbol(symbol: str) -> Operations:
    """The group of a Hall symbol.

    Raises:
        OperationError: it is not a Hall symbol.
    """
    try:
        operations = list(gemmi.symops_from_hall(symbol))
    except (RuntimeError, ValueError, IndexError, OverflowError) as error:
        raise OperationError(f"{symbol[:40]!r} is not a Hall symbol. Correct it.") from error
    return group_from_triplets(tuple(operation.triplet() for operation in operations))


@functools.lru_cache(maxsize=1024)
def group_from_magnetic_triplets(
    written: tuple[str, ...], centrings: tuple[str, ...]
) -> Operations:
    """The group of magnetic operations ("-x,-y,-z,+1") and centrings, ignoring time reversal.

    Raises:
        OperationError: see `group_from_triplets`.
    """
    spatial = [_without_time(text) for text in written] or ["x,y,z"]
    shifts = [_parsed(_without_time(text)) for text in centrings]
    if any(rotation != ((1, 0, 0), (0, 1, 0), (0, 0, 1)) for rotation, _ in shifts):
        raise OperationError("A magnetic centring is not a translation. Correct it.")
    vectors = [shift for _, shift in shifts] or [(Fraction(0),) * 3]
    if len(spatial) * len(vectors) > MAX_OPERATIONS:
        raise OperationError(
            f"There are more than {MAX_OPERATIONS} symmetry operations. Use a smaller cell."
        )
    combined = [
        ",".join(f"{part}+{shift}" for part, shift in zip(text.split(","), vector, strict=True))
        for vector in vectors
        for text in spatial
    ]
    return group_from_triplets(tuple(combined))


def same_operations(first: Operations, second: Operations) -> bool:
    """Whether two groups have the same operations, regardless of order."""
    return len(first) == len(second) and _keys(first) == _keys(second)


def _keys(group: Operations) -> set[tuple[int, ...]]:
    shifts = np.round(group.translations * 720).astype(int) % 720
    rows = np.concatenate([group.rotations.reshape(-1, 9), shifts], axis=1)
    return set(map(tuple, rows.tolist()))


def _without_time(text: str) -> str:
    """The spatial part of `x,y,z,+1` or `x,y,z`."""
    parts = text.split(",")
    if len(parts) == 4 and parts[3].strip() in ("+1", "-1", "1", "+", "-"):
        parts = parts[:3]
    if len(parts) != 3:
        raise OperationError(f"{text[:40]!r} is not a magnetic symmetry operation. Correct it.")
    return ",".join(parts)


@functools.lru_cache(maxsize=8192)
def _parsed(text: str) -> tuple[tuple[tuple[int, ...], ...], tuple[Fraction, ...]]:
    """Rows of the rotation matrix and translations, in [0, 1), of a triplet."""
    parts = "".join(text.lower().split()).split(",")
    try:
        if len(parts) != 3 or len(text) > 200 or _GAP.search(text):
            raise ValueError
        rows = [_row(part) for part in parts]
    except (ValueError, ZeroDivisionError) as error:
        raise OperationError(
            f"The CIF has a symmetry operation that cannot be read: {text[:40]!r}. Write it as in "
            "'-y, x-y, z+2/3'."
        ) from error
    return tuple(row for row, _ in rows), tuple(shift for _, shift in rows)


def _row(part: str) -> tuple[tuple[int, ...], Fraction]:
    """Coefficients of x, y and z, and the translation, of one expression of a triplet."""
    coefficients = [Fraction(0)] * 3
    shift = Fraction(0)
    place = 0
    while place < len(part):
        match = _TERM.match(part, place)
        assert match is not None  # all parts of the pattern are optional
        sign, number, divisor, letter = match.groups()
        if not (number or letter) or (place and not sign):
            raise ValueError(part)
        value = _fraction(number, divisor) if number else Fraction(1)
        value = -value if sign == "-" else value
        if letter:
            coefficients["xyz".index(letter)] += value
        else:
            shift += value
        place = match.end()
    if any(value.denominator != 1 or abs(value) > _MAX_ENTRY for value in coefficients):
        raise ValueError(part)
    return tuple(int(value) for value in coefficients), shift % 1


def _fraction(number: str, divisor: str | None) -> Fraction:
    """The value of `1/3` or `0.333`; a rounded decimal is replaced by a simple fraction."""
    if divisor is not None:
        return Fraction(number) / int(divisor)
    exact = Fraction(number)
    simple = exact.limit_denominator(24)
    digits = len(number.partition(".")[2])
    return simple if digits >= 2 and abs(simple - exact) < Fraction(1, 10**digits) else exact


def _group_of_decimals(rotations: np.ndarray, shifts: np.ndarray) -> Operations:
    """The group of operations whose translations are decimals, compared with a tolerance."""
    by_rotation: dict[bytes, list[int]] = {}
    kept: list[int] = []
    for index, rotation in enumerate(rotations):
        places = by_rotation.setdefault(rotation.tobytes(), [])
        if not _is_among(shifts[index], shifts[places]):
            places.append(index)
            kept.append(index)
    for first in kept:
        for second in kept:
            product = (rotations[first] @ rotations[second]).tobytes()
            shift = rotations[first] @ shifts[second] + shifts[first]
            if not _is_among(shift, shifts[by_rotation.get(product, [])]):
                raise OperationError(_NOT_A_GROUP)
    return Operations(rotations[kept], shifts[kept])


def _is_among(shift: np.ndarray, known: np.ndarray) -> bool:
    apart = known - shift
    return bool((np.abs(apart - np.round(apart)) < _DECIMALS).all(axis=1).any())


def _check_crystallographic(rotations: np.ndarray) -> None:
    """Checks that rotations have determinant 1 or -1 and finite order (1, 2, 3, 4 or 6)."""
    determinants = np.round(np.linalg.det(rotations)).astype(int)
    if (np.abs(determinants) != 1).any():
        raise OperationError(
            "A symmetry operation is singular or changes the volume. Correct the list."
        )
    power = np.broadcast_to(np.eye(3, dtype=np.int64), rotations.shape)
    finite = np.zeros(len(rotations), bool)
    for order in range(1, 7):
        power = power @ rotations
        if order != 5:
            finite |= (power == np.eye(3)).all(axis=(1, 2))
        power = np.clip(power, -(10**6), 10**6)
    if not finite.all():
        raise OperationError(
            "A symmetry operation is not crystallographic: its rotation does not have the order "
            "1, 2, 3, 4 or 6. Correct the list."
        )


class _OperationSet:
    """A set of distinct operations whose translations are on a grid."""

    def __init__(self, rotations: np.ndarray, steps: np.ndarray, grid: int):
        self.grid = grid
        self.rotations, self.steps = rotations[:0], steps[:0]
        self._known: set[bytes] = set()
        self._add(rotations, steps)

    def close(self, may_add: bool) -> bool:
        """Whether all products are in the set; adds missing ones if `may_add`."""
        rotations, steps = self.rotations, self.steps  # the generators
        done = 0
        while done < len(self.rotations):
            if len(self.rotations) > MAX_OPERATIONS:
                return False
            rotation, step = self.rotations[done], self.steps[done]
            is_new = self._add(rotations @ rotation, (step @ rotations.mT + steps) % self.grid)
            if is_new and not may_add:
                return False
            done += 1
        return True

    def _add(self, rotations: np.ndarray, steps: np.ndarray) -> bool:
        """Adds operations; returns whether any was new."""
        rows = np.concatenate([rotations.reshape(-1, 9), steps], axis=1)
        new = []
        for place, row in enumerate(map(bytes, np.ascontiguousarray(rows))):
            if row not in self._known:
                self._known.add(row)
                new.append(place)
        if new:
            self.rotations = np.concatenate([self.rotations, rotations[new]])
            self.steps = np.concatenate([self.steps, steps[new]])
        return bool(new)
