"""Where two states differ: arrays, elements, and by how many units in the last place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from clac_jax.digests.digest import SCALE, Digest, odd_numbers, salt_of
from clac_jax.digests.host import words_of

SHOWN = 5
"""Elements that are listed of an array."""
_MODULUS = 1 << 32


@dataclass(frozen=True)
class Element:
    """One element that differs.

    Attributes:
        index: its place in the array.
        left: its value on one side.
        right: its value on the other one.
        ulps: number of representable numbers between the two, of a float; else their difference.
            None if one of them is not a number.
        bits: number of bits that differ.
    """

    index: tuple[int, ...]
    left: float
    right: float
    ulps: int | None
    bits: int

    @property
    def words(self) -> str:
        """The element in words."""
        by = f"{self.ulps:,} ulp{'s' * (self.ulps != 1)}" if self.ulps is not None else "not finite"
        bits = f", {self.bits} bit{'s' * (self.bits != 1)}"
        place = ", ".join(map(str, self.index))
        return f"[{place}]  {self.left!r} and {self.right!r}  ({by}{bits})"


@dataclass(frozen=True)
class ArrayDifference:
    """An array that differs.

    Attributes:
        path: its slash path.
        count: number of elements that differ; 0 if the shapes or dtypes do.
        size: number of its elements.
        largest: largest difference in units in the last place.
        elements: the first elements by that difference.
        reason: why the elements cannot be compared; "" if they can.
    """

    path: str
    count: int
    size: int
    largest: int
    elements: tuple[Element, ...]
    reason: str = ""

    @property
    def words(self) -> str:
        """The array in words."""
        if self.reason:
            return f"{self.path}: {self.reason}"
        return f"{self.path}: {self.count:,} of {self.size:,} elements, by up to {self.largest:,}"


def differences(
    left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]
) -> list[ArrayDifference]:
    """The arrays whose bits differ, in the order of their paths; signs of zero count."""
    found = []
    for path in sorted(left.keys() | right.keys()):
        if path not in left or path not in right:
            found.append(_incomparable(path, "exists on one side only"))
            continue
        difference = _difference(path, np.asarray(left[path]), np.asarray(right[path]))
        if difference is not None:
            found.append(difference)
    return found


def unlike_saved(
    state: Mapping[str, np.ndarray], saved: Mapping[str, np.ndarray]
) -> list[ArrayDifference]:
    """The arrays in which the checkpoint of a step is not the state of that step.

    `SCALE` is not compared: a validation sets it after the step and before the checkpoint, and
    healing after the checkpoint.
    """
    return [each for each in differences(state, saved) if each.path != SCALE]


def _incomparable(path: str, reason: str) -> ArrayDifference:
    return ArrayDifference(path, 0, 0, 0, (), reason)


def _difference(path: str, left: np.ndarray, right: np.ndarray) -> ArrayDifference | None:
    if left.shape != right.shape or left.dtype != right.dtype:
        sides = [f"{each.dtype}{list(each.shape)}" for each in (left, right)]
        return _incomparable(path, f"is {sides[0]} and {sides[1]}")
    differ = _bits(left) != _bits(right)
    if not differ.any():
        return None
    places = np.flatnonzero(differ)
    pair = left.ravel()[places], right.ravel()[places]
    distances = _distances(*pair)
    order = np.argsort(-distances, kind="stable")[:SHOWN]
    elements = tuple(
        _element(left.shape, int(places[k]), pair[0][k], pair[1][k]) for k in order.tolist()
    )
    largest = int(distances.max(initial=0.0))
    return ArrayDifference(path, len(places), left.size, largest, elements)


def _bits(array: np.ndarray) -> np.ndarray:
    """(n,) unsigned integers, the bits of each element."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(f"u{flat.dtype.itemsize}")


def _ordered(array: np.ndarray) -> np.ndarray:
    """(n,) int64 that grow with the elements, by 1 from each representable number to the next."""
    if array.dtype.kind in "iub":
        return array.astype(np.int64)
    bits, width = _bits(array).astype(np.int64), 8 * array.dtype.itemsize
    magnitude = bits & ((1 << (width - 1)) - 1)
    return np.where(np.signbit(array.astype(np.float64)), -magnitude, magnitude)


def _distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(n,) float64, the distances in units in the last place."""
    distances = np.abs(_ordered(left).astype(np.float64) - _ordered(right))
    return np.asarray(distances, np.float64)


def _element(shape: tuple[int, ...], place: int, left: np.generic, right: np.generic) -> Element:
    sides = np.asarray(left).reshape(1), np.asarray(right).reshape(1)
    numbers = [float(side[0]) for side in sides]
    ulps = None
    if all(map(math.isfinite, numbers)):
        ulps = abs(int(_ordered(sides[0])[0]) - int(_ordered(sides[1])[0]))
    changed = int(_bits(sides[0])[0]) ^ int(_bits(sides[1])[0])
    index = tuple(int(k) for k in np.unravel_index(place, shape))
    return Element(index, numbers[0], numbers[1], ulps, changed.bit_count())


def changed_elements(
    arrays: Mapping[str, np.ndarray], digest: Digest, other: Digest
) -> list[tuple[str, Element]]:
    """The single elements whose change explains a digest of arrays that no longer exist.

    A digest is a sum over the elements with factors that depend on their place, so the difference
    of two digests gives, for each place, the only value with which the first half is explained.
    The second half is then wrong for nearly all places. A flip of a high bit of one half of a word
    leaves the least information, so that among millions of elements several may remain.

    Args:
        arrays: slash path -> array, all of a part of the state.
        digest: the digest of the part with these arrays.
        other: the digest of the part with the others.

    Returns:
        (path, element), `left` as in `arrays`: flips of one bit if there are any.
    """
    wanted = [(b - a) % _MODULUS for a, b in zip(_words(digest), _words(other), strict=True)]
    if wanted == [0, 0]:
        return []
    found = [
        (path, element)
        for path, array in arrays.items()
        for element in _explaining(path, np.asarray(array), wanted)
    ]
    return [each for each in found if each[1].bits == 1] or found


def _words(digest: Digest) -> tuple[int, int]:
    return digest.first, digest.second


def _explaining(path: str, array: np.ndarray, wanted: list[int]) -> list[Element]:
    """The changes of one element of an array of words that explain a difference of digests."""
    if array.dtype.itemsize != 4:
        return []
    salt = salt_of(path, array.shape, array.dtype)
    old = words_of(array).reshape(-1)
    factors = [_factors(array.shape, word, salt.multiply[word]) for word in (0, 1)]
    new = old + np.uint32(wanted[0]) * _inverse(factors[0])
    change = _swapped(new) - _swapped(old)
    places = np.flatnonzero((change * factors[1] == np.uint32(wanted[1])) & (new != old))
    values = new[places].view(array.dtype) if array.dtype.kind != "b" else new[places]
    flat = array.reshape(-1)
    return [
        _element(array.shape, int(place), flat[place], value)
        for place, value in zip(places, values, strict=True)
    ]


def _factors(shape: tuple[int, ...], word: int, multiply: int) -> np.ndarray:
    """(n,) uint32, what each element is multiplied by in a word of the digest."""
    product = np.full(1, multiply, np.uint32)
    for axis, size in enumerate(shape):
        row = odd_numbers(word, len(shape) - 1 - axis, size)
        product = (product[:, None] * row).reshape(-1)
    return product


def _inverse(odd: np.ndarray) -> np.ndarray:
    """The inverses of odd numbers modulo 2**32, by Newton's method."""
    inverse = odd.copy()  # right in the last 3 bits; each step doubles them
    for _ in range(4):
        inverse *= np.uint32(2) - odd * inverse
    return inverse


def _swapped(words: np.ndarray) -> np.ndarray:
    return (words << np.uint32(16)) | (words >> np.uint32(16))
