"""The transform that widens an array without changing what its model computes.

Each unit of the old model becomes one or several of the new one: copies, next to each other and as
equally often as the sizes allow (Net2Net, Chen et al., arXiv:1511.05641). An array that makes the
unit gives each copy the same numbers; one that uses it divides each of its numbers among the
copies, in shares of which each is drawn for itself. So the copies have different gradients from the
first step on. With one share per copy their gradients would differ only by a factor, which Adam
divides out again: the copies would stay almost equal for a long time.

**Moments.** The gradient of a number that uses a copy is that of the number that used the unit, so
its moments are equal to the old ones. The gradients of what makes the copies are other sums of the
same terms, and do not follow from the old ones: those moments start over.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from clac_jax.surgery.transform import PerArray, Shape, Target, Transform, in_float64, with_size

Sizes = Mapping[str, tuple[int, int]]
"""Units -> their number in the old model and in the new one."""

CONSTANT = "_"
_MARKS = "~=^"


class Factor(NamedTuple):
    """Units in an axis, and their mark, see `models.anatomy`."""

    units: str
    mark: str


class Term(NamedTuple):
    """A part of an axis: `times` vectors of the product of some units."""

    times: int
    factors: tuple[Factor, ...]


class ArrayAxes(NamedTuple):
    """The axes of an array, as `models.anatomy` describes them.

    Attributes:
        axes: the terms of each axis.
        uses: the number of the axis whose units the array uses, or None.
        makes: the number of the axis whose units it makes, or None.
    """

    axes: tuple[tuple[Term, ...], ...]
    uses: int | None
    makes: int | None

    def units(self, axis: int | None) -> set[str]:
        """The units along an axis; none for None."""
        terms = () if axis is None else self.axes[axis]
        return {factor.units for term in terms for factor in term.factors} - {CONSTANT}


class _Copies(NamedTuple):
    """The entries of a widened axis, each a copy of an old one.

    Attributes:
        old: the old entry.
        share: its share of that.
        value: factor of a number where the array makes the units.
        is_part: whether the copies of the old entry add up to it.
    """

    old: np.ndarray
    share: np.ndarray
    value: np.ndarray
    is_part: np.ndarray


@dataclass(frozen=True)
class Widen(PerArray):
    """Copies of units, as the text of the axes says.

    Attributes:
        axes: the axes, in the words of `models.anatomy`: "features -> 3 features".
        sizes: (units, number in the old model, number in the new one) of all units in `axes`.
        order: 0 for the parameter itself; 1 and 2 for its moments.
    """

    axes: str
    sizes: tuple[tuple[str, int, int], ...]
    order: int = 0

    name: ClassVar[str] = "widen"
    example: ClassVar[str] = "widen('inputs -> units', (('inputs', 4, 4), ('units', 8, 16)))"
    meaning: ClassVar[str] = "copies of units that leave the function as it is"

    @classmethod
    def of(cls, *arguments: Any) -> Self:  # noqa: D102
        if not 2 <= len(arguments) <= 3 or not isinstance(arguments[0], str):
            raise TypeError("it takes the axes and the sizes of their units")
        found = cls(*arguments)
        units = set().union(*(found.read.units(axis) for axis in range(len(found.read.axes))))
        if not isinstance(found.sizes, tuple) or not all(map(_is_size, found.sizes)):
            raise TypeError("the sizes are triples of a name and two numbers, the second not less")
        if missing := units - set(found.known):
            raise ValueError(f"the sizes lack {', '.join(sorted(missing))}")
        return found

    @property
    def read(self) -> ArrayAxes:
        """The axes."""
        return read_axes(self.axes)

    @property
    def known(self) -> Sizes:
        """The sizes by name."""
        return {units: (old, new) for units, old, new in self.sizes}

    def shape(self, source: Shape, target: Target) -> Shape:  # noqa: D102
        del target
        axes = self.read.axes
        if len(source) != len(axes):
            raise ValueError(f"an array of shape {source} does not have the axes {self.axes!r}")
        result = source
        for axis, terms in enumerate(axes):
            if is_constant(terms):
                continue
            before, after = (axis_size(terms, self.known, which) for which in (0, 1))
            if source[axis] != before:
                raise ValueError(
                    f"axis {axis} of an array of shape {source} is not {before} as {self.axes!r} "
                    "says"
                )
            result = with_size(result, axis, after)
        return result

    def result(self, source: np.ndarray, shape: Shape) -> np.ndarray:  # noqa: D102
        read, values = self.read, in_float64(source)
        # What is made comes first: the shares by entry differ for each copy of it.
        for axis, terms in reversed([*enumerate(read.axes)]):
            if is_constant(terms):
                continue
            copies = _copies(terms, self.known)
            values = values.take(copies.old, axis)
            if self.order:
                # The gradients of what uses a unit are those of its copies; where these are only
                # parts of the unit, they are parts of the gradient.
                if axis == read.makes:
                    continue
                factor = np.where(copies.is_part, copies.share, 1) ** self.order
            else:
                factor = copies.value if axis == read.makes else self._shares(copies, shape, axis)
            values = values * factor.reshape(
                -1, *factor.shape[1:], *(1,) * (len(shape) - axis - factor.ndim)
            )
        return values.astype(source.dtype)

    def of_moment(self, order: int) -> Transform | None:  # noqa: D102
        read, sizes = self.read, self.known
        if any(sizes[units][0] != sizes[units][1] for units in read.units(read.makes)):
            return None
        return Widen(self.axes, self.sizes, order)

    def _shares(self, copies: _Copies, shape: Shape, axis: int) -> np.ndarray:
        """The share of each copy: for each entry of a kernel, or of each unit of a vector."""
        if len(shape) == 1 or np.all(copies.share == 1):
            return np.where(copies.is_part, 1, copies.share)
        # In a kernel the units used come first; the last axis has those that are made.
        weights = _generator(f"{self.axes} {self.sizes}").uniform(0.5, 1.5, shape[axis:])
        totals = np.zeros((copies.old.max() + 1, *shape[axis + 1 :]))
        np.add.at(totals, copies.old, weights)
        weights /= totals[copies.old]
        weights[copies.is_part] = 1
        return weights


def read_axes(text: str) -> ArrayAxes:
    """Reads the axes of an array: "features -> out", "-> 3 features", "hidden ->".

    Raises:
        ValueError: the text cannot be read; one sentence says why.
    """
    sides = text.split("->")
    if len(sides) != 2:
        raise ValueError(f"the axes {text!r} do not have one arrow")
    left, right = (_terms(side, text) for side in sides)
    if not left and not right:
        raise ValueError(f"the axes {text!r} name no units")
    return ArrayAxes(
        axes=tuple(side for side in (left, right) if side),
        uses=0 if left else None,
        makes=(1 if left else 0) if right else None,
    )


def axis_size(terms: Sequence[Term], sizes: Sizes, which: int) -> int:
    """The length of an axis in the old model (0) or the new one (1)."""
    total = 0
    for term in terms:
        size = term.times
        for factor in term.factors:
            size *= sizes[factor.units][which]
        total += size
    return total


def is_constant(terms: Sequence[Term]) -> bool:
    """Whether an axis never grows."""
    return any(factor.units == CONSTANT for term in terms for factor in term.factors)


def _terms(side: str, text: str) -> tuple[Term, ...]:
    if not side.strip():
        return ()
    terms = []
    for part in side.split("+"):
        found = re.fullmatch(r"\s*(?:(\d+)\s+)?([~=^]?[\w/]+(?:\*[~=^]?[\w/]+)*)\s*", part)
        if not found:
            raise ValueError(f"{part.strip()!r} in the axes {text!r} is not a name of units")
        factors = tuple(
            Factor(name.lstrip(_MARKS), name[0] if name[0] in _MARKS else "")
            for name in found[2].split("*")
        )
        terms.append(Term(int(found[1] or 1), factors))
    if is_constant(terms) and len(terms) + len(terms[0].factors) > 2:
        raise ValueError(f"an axis in {text!r} has more than {CONSTANT!r}")
    return tuple(terms)


def _copies(terms: Sequence[Term], sizes: Sizes) -> _Copies:
    """The entries of an axis, term by term."""
    parts: list[_Copies] = []
    start = 0
    for term in terms:
        product = _Copies(np.zeros(1, int), np.ones(1), np.ones(1), np.zeros(1, bool))
        length = 1
        for factor in term.factors:
            before, after = sizes[factor.units]
            length *= before
            old, share = copies_of(factor.units, before, after)
            product = _Copies(
                (product.old[:, None] * before + old).ravel(),
                np.outer(product.share, share).ravel(),
                np.outer(product.value, _made(factor.mark, share, after / before)).ravel(),
                np.repeat(product.is_part | (factor.mark == "="), after),
            )
        for _ in range(term.times):
            parts.append(product._replace(old=product.old + start))
            start += length
    return _Copies(*map(np.concatenate, zip(*parts, strict=True)))


def _made(mark: str, share: np.ndarray, growth: float) -> np.ndarray:
    """By what the copies of a unit are multiplied where they are made."""
    if mark == "=":
        return share
    if mark == "~":
        return np.asarray(share * growth**0.5)
    return np.full(share.shape, growth**-0.5 if mark == "^" else 1.0)


def copies_of(units: str, before: int, after: int) -> tuple[np.ndarray, np.ndarray]:
    """(the old unit of each new one, its share of that unit), for `before` units grown to `after`.

    These shares are the same in all arrays in which they divide the units themselves.
    """
    old = np.arange(after) * before // after
    weights = _generator(f"{units} {before} {after}").uniform(0.5, 1.5, after)
    return old, weights / np.bincount(old, weights)[old]


def _generator(text: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(text.encode()))


def _is_size(entry: Any) -> bool:
    return (
        isinstance(entry, tuple)
        and len(entry) == 3
        and isinstance(entry[0], str)
        and all(type(number) is int for number in entry[1:])
        and 0 < entry[1] <= entry[2]
    )
