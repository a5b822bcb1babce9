"""Transforms that only move numbers, within an array or between arrays: all have inverses.

Both of Adam's moments move with the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from clac_jax.surgery.transform import (
    PerArray,
    Shape,
    Target,
    Transform,
    checked_axis,
    with_size,
)


@dataclass(frozen=True)
class _Moving(Transform):
    """A transform whose numbers keep their gradients, so that both moments move like them."""

    def of_moment(self, order: int) -> Transform:
        del order
        return self


@dataclass(frozen=True)
class _AlongAxis(_Moving):
    """A transform between one array and several, along an axis.

    Attributes:
        axis: the axis.
    """

    axis: int

    @classmethod
    def of(cls, *arguments: Any) -> Self:
        _check_integers(arguments)
        if len(arguments) != 1:
            raise TypeError("it takes an axis")
        return cls(*arguments)

    def apply(
        self,
        sources: Sequence[np.ndarray],
        targets: tuple[Target, ...],
        rng: np.random.Generator,
    ) -> list[np.ndarray]:
        del rng
        shapes = self.shapes(tuple(source.shape for source in sources), targets)
        return self._results(sources, shapes)

    def _results(
        self, sources: Sequence[np.ndarray], shapes: tuple[Shape, ...]
    ) -> list[np.ndarray]:
        """The results, of these shapes; none is a view of a source."""
        raise NotImplementedError


@dataclass(frozen=True)
class _Joining(_AlongAxis):
    """One array from several."""

    @property
    def several_sources(self) -> bool:
        return True


@dataclass(frozen=True)
class _Parting(_AlongAxis):
    """Several arrays from one."""

    @property
    def several_results(self) -> bool:
        return True


@dataclass(frozen=True)
class Transpose(_Moving, PerArray):
    """The axes in another order.

    Attributes:
        axes: the axis of the saved array that becomes the first one, the second one, ...; () for
            the reversed order.
    """

    axes: tuple[int, ...] = ()

    name: ClassVar[str] = "transpose"
    example: ClassVar[str] = "transpose(1, 0)"
    meaning: ClassVar[str] = "axes in another order; without numbers: reversed"

    @classmethod
    def of(cls, *arguments: Any) -> Self:  # noqa: D102
        _check_integers(arguments)
        return cls(arguments)

    def shape(self, source: Shape, target: Target) -> Shape:  # noqa: D102
        del target
        return tuple(source[axis] for axis in self._order(source))

    def result(self, source: np.ndarray, shape: Shape) -> np.ndarray:  # noqa: D102
        del shape
        return np.transpose(source, self._order(source.shape))

    def inverse(self) -> Transform:  # noqa: D102
        return Transpose(tuple(sorted(range(len(self.axes)), key=self.axes.__getitem__)))

    def _arguments(self) -> tuple[Any, ...]:
        return self.axes

    def _order(self, shape: Shape) -> tuple[int, ...]:
        axes = self.axes or tuple(reversed(range(len(shape))))
        if sorted(axes) != list(range(len(shape))):
            raise ValueError(f"{axes} are not the axes of an array of shape {shape}")
        return axes


@dataclass(frozen=True)
class Reshape(_Moving, PerArray):
    """All numbers in their order, in another shape.

    Attributes:
        sizes: the shape, with at most one -1 for what remains; () for the model's.
    """

    sizes: tuple[int, ...] = ()

    name: ClassVar[str] = "reshape"
    example: ClassVar[str] = "reshape(4, -1)"
    meaning: ClassVar[str] = "the same numbers in another shape; without numbers: the model's"

    @classmethod
    def of(cls, *arguments: Any) -> Self:  # noqa: D102
        _check_integers(arguments)
        return cls(arguments)

    def shape(self, source: Shape, target: Target) -> Shape:  # noqa: D102
        sizes = self.sizes
        if not sizes:
            if target is None:
                raise ValueError("the shape is not known between two transforms; give it")
            sizes = target
        free = [axis for axis, size in enumerate(sizes) if size == -1]
        given, count = math.prod(size for size in sizes if size != -1), math.prod(source)
        if len(free) == 1 and given > 0 and count % given == 0:
            sizes = with_size(sizes, free[0], count // given)
        if any(size < 0 for size in sizes) or math.prod(sizes) != count:
            raise ValueError(f"{count} numbers of shape {source} do not fill the shape {sizes}")
        return sizes

    def result(self, source: np.ndarray, shape: Shape) -> np.ndarray:  # noqa: D102
        return source.reshape(shape)

    def inverse(self) -> Transform:  # noqa: D102
        return Reshape()

    def _arguments(self) -> tuple[Any, ...]:
        return self.sizes


@dataclass(frozen=True)
class Stack(_Joining):
    """Several arrays of one shape along a new axis.

    Attributes:
        axis: the new axis of the result.
    """

    name: ClassVar[str] = "stack"
    example: ClassVar[str] = "stack(0)"
    meaning: ClassVar[str] = "several arrays along a new axis, such as the layers of a scan"

    def shapes(  # noqa: D102
        self, sources: tuple[Shape, ...], targets: tuple[Target, ...]
    ) -> tuple[Shape, ...]:
        del targets
        if len(set(sources)) != 1:
            raise ValueError(f"arrays of different shapes cannot be stacked: {_listed(sources)}")
        axis = checked_axis(self.axis, sources[0], extra=1)
        return ((*sources[0][:axis], len(sources), *sources[0][axis:]),)

    def _results(
        self, sources: Sequence[np.ndarray], shapes: tuple[Shape, ...]
    ) -> list[np.ndarray]:
        del shapes
        return [np.stack(sources, self.axis)]

    def inverse(self) -> Transform:  # noqa: D102
        return Unstack(self.axis)


@dataclass(frozen=True)
class Unstack(_Parting):
    """One array per index along an axis.

    Attributes:
        axis: the axis, which the results lack.
    """

    name: ClassVar[str] = "unstack"
    example: ClassVar[str] = "unstack(0)"
    meaning: ClassVar[str] = "one array per index along an axis"

    def shapes(  # noqa: D102
        self, sources: tuple[Shape, ...], targets: tuple[Target, ...]
    ) -> tuple[Shape, ...]:
        del targets
        _check_single(sources, self.name)
        axis = checked_axis(self.axis, sources[0])
        return ((*sources[0][:axis], *sources[0][axis + 1 :]),) * sources[0][axis]

    def _results(
        self, sources: Sequence[np.ndarray], shapes: tuple[Shape, ...]
    ) -> list[np.ndarray]:
        del shapes
        return [np.array(part, order="C") for part in np.moveaxis(sources[0], self.axis, 0)]

    def inverse(self) -> Transform:  # noqa: D102
        return Stack(self.axis)


@dataclass(frozen=True)
class Fuse(_Joining):
    """Several arrays one after the other along an axis.

    Attributes:
        axis: the axis along which their sizes may differ.
    """

    name: ClassVar[str] = "fuse"
    example: ClassVar[str] = "fuse(1)"
    meaning: ClassVar[str] = "several arrays one after the other, such as query, key and value"

    def shapes(  # noqa: D102
        self, sources: tuple[Shape, ...], targets: tuple[Target, ...]
    ) -> tuple[Shape, ...]:
        del targets
        axis = checked_axis(self.axis, sources[0])
        rests = {(*shape[:axis], *shape[axis + 1 :]) for shape in sources}
        if len(rests) != 1 or len({len(shape) for shape in sources}) != 1:
            raise ValueError(f"these shapes differ in more than axis {axis}: {_listed(sources)}")
        return (with_size(sources[0], axis, sum(shape[axis] for shape in sources)),)

    def _results(
        self, sources: Sequence[np.ndarray], shapes: tuple[Shape, ...]
    ) -> list[np.ndarray]:
        del shapes
        return [np.concatenate(sources, self.axis)]

    def inverse(self) -> Transform:  # noqa: D102
        return Split(self.axis)


@dataclass(frozen=True)
class Split(_Parting):
    """Several arrays out of one, by their sizes along an axis.

    Attributes:
        axis: the axis.
        parts: the sizes, or the number of equal parts; None: the sizes of the model's arrays, or
            equal parts if they are not known.
    """

    parts: int | tuple[int, ...] | None = None

    name: ClassVar[str] = "split"
    example: ClassVar[str] = "split(1, 3)"
    meaning: ClassVar[str] = "several arrays out of one: equal parts, or a tuple of sizes"

    @classmethod
    def of(cls, *arguments: Any) -> Self:  # noqa: D102
        if not 1 <= len(arguments) <= 2:
            raise TypeError("it takes an axis and the parts")
        axis, parts = (*arguments, None)[:2]
        sizes = parts if isinstance(parts, tuple) else () if parts is None else (parts,)
        _check_integers((axis, *sizes))
        if isinstance(parts, int) and parts < 1:
            raise ValueError("the number of parts is at least 1")
        return cls(axis, parts)

    def shapes(  # noqa: D102
        self, sources: tuple[Shape, ...], targets: tuple[Target, ...]
    ) -> tuple[Shape, ...]:
        _check_single(sources, self.name)
        axis = checked_axis(self.axis, sources[0])
        sizes = self._sizes(sources[0], axis, targets)
        return tuple(with_size(sources[0], axis, size) for size in sizes)

    def _results(
        self, sources: Sequence[np.ndarray], shapes: tuple[Shape, ...]
    ) -> list[np.ndarray]:
        ends = np.cumsum([shape[self.axis] for shape in shapes])[:-1]
        return [np.array(part, order="C") for part in np.split(sources[0], ends, self.axis)]

    def inverse(self) -> Transform:  # noqa: D102
        return Fuse(self.axis)

    def _sizes(self, shape: Shape, axis: int, targets: tuple[Target, ...]) -> tuple[int, ...]:
        size = shape[axis]
        known = [target for target in targets if target is not None and len(target) == len(shape)]
        parts = self.parts
        if parts is None and len(known) < len(targets):
            parts = len(targets)
        if isinstance(parts, int):
            if size % parts:
                raise ValueError(f"{size} along axis {axis} is not {parts} equal parts")
            return (size // parts,) * parts
        sizes = parts or tuple(target[axis] for target in known)
        if sum(sizes) != size or any(part < 0 for part in sizes):
            raise ValueError(f"the sizes {sizes} along axis {axis} do not add up to {size}")
        return sizes


def _check_integers(arguments: Sequence[Any]) -> None:
    if not all(type(argument) is int for argument in arguments):
        raise TypeError("its arguments are integers")


def _check_single(sources: Sequence[Shape], name: str) -> None:
    if len(sources) != 1:
        raise ValueError(f"{name} takes one array, not {len(sources)}")


def _listed(shapes: Sequence[Shape]) -> str:
    return ", ".join(map(str, dict.fromkeys(shapes)))
