"""Transforms of one array that change how many numbers it has, or their scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from clac_jax.surgery.transform import (
    PerArray,
    Shape,
    Target,
    Transform,
    checked_axis,
    in_float64,
    target_size,
    with_size,
)


@dataclass(frozen=True)
class AlongAxis(PerArray):
    """A transform along one axis, by a number or to the model's size.

    Attributes:
        axis: the axis.
        number: how many entries are added or removed; None: up to the model's size.
    """

    axis: int
    number: int | None = None

    @classmethod
    def of(cls, *arguments: Any) -> Self:  # noqa: D102
        if not 1 <= len(arguments) <= 2:
            raise TypeError("it takes an axis and, if it is not the model's, a number")
        check_integer(arguments[0], "the axis")
        for number in arguments[1:]:
            if number is not None:
                check_integer(number, "the number", low=0)
        return cls(*arguments)


@dataclass(frozen=True)
class Pad(AlongAxis):
    """Zeros after the end of an axis.

    The moments start over: zeros with a full count of steps would give the new numbers
    a first update of three times the learning rate.
    """

    name: ClassVar[str] = "pad"
    example: ClassVar[str] = "pad(0)"
    meaning: ClassVar[str] = "zeros after the end, as many as given or up to the model's size"

    def shape(self, source: Shape, target: Target) -> Shape:  # noqa: D102
        axis = checked_axis(self.axis, source)
        if self.number is None:
            size = target_size(source, axis, target, "padding")
        else:
            size = source[axis] + self.number
        if size < source[axis]:
            raise ValueError(
                f"padding cannot shorten axis {axis} from {source[axis]} to {size}; use cut"
            )
        return with_size(source, axis, size)

    def result(self, source: np.ndarray, shape: Shape) -> np.ndarray:  # noqa: D102
        widths = [(0, after - before) for before, after in zip(source.shape, shape, strict=True)]
        return np.pad(source, widths)

    def inverse(self) -> Transform:  # noqa: D102
        return Cut(self.axis, self.number)


@dataclass(frozen=True)
class Cut(AlongAxis):
    """Without the last entries of an axis; the others keep their moments."""

    name: ClassVar[str] = "cut"
    example: ClassVar[str] = "cut(0)"
    meaning: ClassVar[str] = "without the last entries: as many as given, or to the model's size"

    def shape(self, source: Shape, target: Target) -> Shape:  # noqa: D102
        axis = checked_axis(self.axis, source)
        if self.number is None:
            size = target_size(source, axis, target, "cutting")
        else:
            size = source[axis] - self.number
        if size > source[axis]:
            raise ValueError(
                f"cutting cannot lengthen axis {axis} from {source[axis]} to {size}; use pad"
            )
        if size < 1:
            raise ValueError(f"nothing would be left of axis {axis}, which has {source[axis]}")
        return with_size(source, axis, size)

    def result(self, source: np.ndarray, shape: Shape) -> np.ndarray:  # noqa: D102
        return source[tuple(slice(size) for size in shape)]

    def of_moment(self, order: int) -> Transform:  # noqa: D102
        del order
        return self


@dataclass(frozen=True)
class _Copies(PerArray):
    """Between single entries of an axis and copies of them.

    Attributes:
        axis: the axis.
        number: count of the copies of each entry.
        power: exponent of `number` in the factor between an entry and its copies.
    """

    axis: int
    number: int
    power: float = 0.0

    @classmethod
    def of(cls, *arguments: Any) -> Self:
        _check_repeat(arguments)
        return cls(*arguments[:2], *map(float, arguments[2:]))

    def of_moment(self, order: int) -> Transform:
        return type(self)(self.axis, self.number, order * (1 - self.power))


@dataclass(frozen=True)
class Repeat(_Copies):
    """Each entry of an axis several times in succession, if asked divided by a power of the number.

    Units that are copied `n` times have incoming weights `repeat(axis, n)` and outgoing weights
    `repeat(axis, n, 1.0)`, divided by n, so that the sum over the copies is what the unit gave.

    With weights divided by n**p, the n copies of a number have n**(p - 1) of its gradient each,
    since the sum of gradient times weight over the copies is that of the number.

    Attributes:
        axis: the axis.
        number: count of the copies of each entry.
        power: the numbers are divided by `number` to this power.
    """

    name: ClassVar[str] = "repeat"
    example: ClassVar[str] = "repeat(0, 2)"
    meaning: ClassVar[str] = "each entry n times; repeat(axis, n, 1.0): and divided by n"

    def shape(self, source: Shape, target: Target) -> Shape:  # noqa: D102
        del target
        axis = checked_axis(self.axis, source)
        return with_size(source, axis, source[axis] * self.number)

    def result(self, source: np.ndarray, shape: Shape) -> np.ndarray:  # noqa: D102
        del shape
        if self.power:
            factor = float(self.number) ** -self.power
            source = (in_float64(source) * factor).astype(source.dtype)
        return np.repeat(source, self.number, self.axis)

    def inverse(self) -> Transform:  # noqa: D102
        return Merge(self.axis, self.number, self.power)


@dataclass(frozen=True)
class Merge(_Copies):
    """One entry for every `number` successive ones: their mean, times a power of the number.

    The inverse of `repeat`. The moments are those of copies that are equal.

    Attributes:
        axis: the axis.
        number: how many entries become one.
        power: the mean is multiplied by `number` to this power.
    """

    name: ClassVar[str] = "merge"
    example: ClassVar[str] = "merge(0, 2)"
    meaning: ClassVar[str] = "the mean of n successive entries; merge(axis, n, 1.0): their sum"

    def shape(self, source: Shape, target: Target) -> Shape:  # noqa: D102
        del target
        axis = checked_axis(self.axis, source)
        if source[axis] % self.number:
            raise ValueError(f"{source[axis]} along axis {axis} is not a multiple of {self.number}")
        return with_size(source, axis, source[axis] // self.number)

    def result(self, source: np.ndarray, shape: Shape) -> np.ndarray:  # noqa: D102
        axis = checked_axis(self.axis, source.shape)
        grouped = in_float64(source).reshape(*shape[: axis + 1], self.number, *shape[axis + 1 :])
        factor = float(self.number) ** self.power
        return np.asarray(grouped.mean(axis + 1) * factor).astype(source.dtype)

    def inverse(self) -> Transform:  # noqa: D102
        return Repeat(self.axis, self.number, self.power)


@dataclass(frozen=True)
class Scale(PerArray):
    """All numbers times a factor; their gradients are divided by it.

    Attributes:
        factor: any number but 0.
    """

    factor: float

    name: ClassVar[str] = "scale"
    example: ClassVar[str] = "scale(0.5)"
    meaning: ClassVar[str] = "all numbers times a factor"

    @classmethod
    def of(cls, *arguments: Any) -> Self:  # noqa: D102
        if len(arguments) != 1 or not isinstance(arguments[0], int | float):
            raise TypeError("it takes one number")
        if not (np.isfinite(arguments[0]) and arguments[0]):
            raise ValueError("the factor is a finite number other than 0")
        return cls(float(arguments[0]))

    def shape(self, source: Shape, target: Target) -> Shape:  # noqa: D102
        del target
        return source

    def result(self, source: np.ndarray, shape: Shape) -> np.ndarray:  # noqa: D102
        del shape
        return np.asarray(in_float64(source) * self.factor).astype(source.dtype)

    def inverse(self) -> Transform:  # noqa: D102
        return Scale(1 / self.factor)

    def of_moment(self, order: int) -> Transform:  # noqa: D102
        return Scale(self.factor**-order)


@dataclass(frozen=True)
class Fill(PerArray):
    """One value for all numbers, whatever they were; in the model's shape, if it is known.

    Attributes:
        value: a finite number.
    """

    value: float

    name: ClassVar[str] = "fill"
    example: ClassVar[str] = "fill(0.0)"
    meaning: ClassVar[str] = "one value for all numbers"

    @classmethod
    def of(cls, *arguments: Any) -> Self:  # noqa: D102
        if len(arguments) != 1 or type(arguments[0]) not in (int, float):
            raise TypeError("it takes one number")
        if not np.isfinite(arguments[0]):
            raise ValueError("the value is finite")
        return cls(float(arguments[0]))

    def shape(self, source: Shape, target: Target) -> Shape:  # noqa: D102
        return source if target is None else target

    def result(self, source: np.ndarray, shape: Shape) -> np.ndarray:  # noqa: D102
        return np.full(shape, self.value, source.dtype)


@dataclass(frozen=True)
class Interpolate(PerArray):
    """Linear interpolation along an axis; the first and the last entry stay.

    For learned positions: those of a longer text lie between those of the shorter one. The moments
    start over, since the function changes.

    Attributes:
        axis: the axis.
        size: its new size; None: the model's.
    """

    axis: int
    size: int | None = None

    name: ClassVar[str] = "interpolate"
    example: ClassVar[str] = "interpolate(0)"
    meaning: ClassVar[str] = "linear interpolation along an axis, such as that of positions"

    @classmethod
    def of(cls, *arguments: Any) -> Self:  # noqa: D102
        if not 1 <= len(arguments) <= 2:
            raise TypeError("it takes an axis and, if it is not the model's, a size")
        check_integer(arguments[0], "the axis")
        for size in arguments[1:]:
            if size is not None:
                check_integer(size, "the size", low=1)
        return cls(*arguments)

    def shape(self, source: Shape, target: Target) -> Shape:  # noqa: D102
        axis = checked_axis(self.axis, source)
        size = self.size
        if size is None:
            size = target_size(source, axis, target, "the interpolation")
        if source[axis] < 1 or size < 1:
            raise ValueError(f"there is nothing to interpolate along axis {axis} of {source}")
        return with_size(source, axis, size)

    def result(self, source: np.ndarray, shape: Shape) -> np.ndarray:  # noqa: D102
        axis = checked_axis(self.axis, source.shape)
        before, after = source.shape[axis], shape[axis]
        place = np.linspace(0, before - 1, after) if after > 1 else np.zeros(1)
        left = np.minimum(np.floor(place).astype(int), before - 1)
        right = np.minimum(left + 1, before - 1)
        weight = (place - left).reshape(-1, *(1,) * (source.ndim - axis - 1))
        values = in_float64(source)
        mixed = values.take(left, axis) * (1 - weight) + values.take(right, axis) * weight
        return np.asarray(mixed).astype(source.dtype)


def check_integer(value: Any, what: str, low: int | None = None) -> None:
    """Raises TypeError or ValueError for an argument that is not an integer of at least `low`."""
    if type(value) is not int:
        raise TypeError(f"{what} is an integer")
    if low is not None and value < low:
        raise ValueError(f"{what} is at least {low}")


def _check_repeat(arguments: tuple[Any, ...]) -> None:
    if not 2 <= len(arguments) <= 3:
        raise TypeError("it takes an axis, a number and, if any, a power")
    check_integer(arguments[0], "the axis")
    check_integer(arguments[1], "the number", low=1)
    if not all(type(power) in (int, float) and np.isfinite(power) for power in arguments[2:]):
        raise TypeError("the power is a number")
