"""The base class of transforms, and several of them one after the other.

A transform makes arrays of a model from saved arrays: it knows the shapes, the values, its inverse
if there is one, and what becomes of Adam's moments.

**Moments.** Let w be the saved numbers, T w the new ones, and let the new model compute with T w
what the old one computes with w, for every w. Then the chain rule gives the gradients:
transposed(T) g_new = g_old. Where T only moves numbers (transpose, stack, split), g_new = T g_old,
and both moments move like the parameter. Where T makes copies, the gradient of the old number is
divided among them, see the classes. A running mean of gradients is linear in them, and that of
their squares is as long as each new gradient is a multiple of one old gradient; so the transformed
moments are those that the new model would have after the same training. Where numbers are new,
their moments have no past, and Adam has one count of steps per array, so those of the entire array
start over.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

Shape = tuple[int, ...]
Target = Shape | None
"""The shape in the model; None where it is not known, between two transforms."""

PARAMETER, FIRST_MOMENT, SECOND_MOMENT = 0, 1, 2


@dataclass(frozen=True)
class Transform:
    """Makes new arrays from saved ones; the fields are the arguments in its text, in order.

    Attributes:
        name: its name in texts such as "transpose(1, 0)".
        example: a text of it, for messages and documentation.
        meaning: what it does, in a few words.
    """

    name: ClassVar[str] = ""
    example: ClassVar[str] = ""
    meaning: ClassVar[str] = ""

    @classmethod
    def of(cls, *arguments: Any) -> Self:
        """The transform with the arguments of its text.

        Raises:
            TypeError, ValueError: these are not its arguments.
        """
        return cls(*arguments)

    def shapes(self, sources: tuple[Shape, ...], targets: tuple[Target, ...]) -> tuple[Shape, ...]:
        """Shapes of the results.

        Args:
            sources: shapes of the saved arrays, at least one.
            targets: shapes in the model.

        Raises:
            ValueError: the transform cannot be applied; one sentence says why.
        """
        raise NotImplementedError

    def apply(
        self,
        sources: Sequence[np.ndarray],
        targets: tuple[Target, ...],
        rng: np.random.Generator,
    ) -> list[np.ndarray]:
        """The results, with the dtype of the sources.

        Args:
            sources: the saved arrays; they are not changed.
            targets: shapes in the model.
            rng: source of whatever is random.

        Raises:
            ValueError: as for `shapes`.
        """
        raise NotImplementedError

    def inverse(self) -> Transform | None:
        """The transform that undoes this one; None if there is none."""
        return None

    def of_moment(self, order: int) -> Transform | None:
        """The transform of Adam's first (1) or second (2) moment; None: they start over."""
        del order
        return None

    @property
    def several_results(self) -> bool:
        """Whether it makes several arrays from one."""
        return False

    @property
    def several_sources(self) -> bool:
        """Whether it makes one array from several."""
        return False

    def _arguments(self) -> tuple[Any, ...]:
        values = [getattr(self, field.name) for field in dataclasses.fields(self)]
        defaults = [field.default for field in dataclasses.fields(self)]
        while values and values[-1] == defaults[-1] and type(values[-1]) is type(defaults[-1]):
            values.pop()
            defaults.pop()
        return tuple(values)

    def __str__(self) -> str:
        """The text that `transforms.parse` reads."""
        return f"{self.name}({', '.join(map(repr, self._arguments()))})"


@dataclass(frozen=True)
class PerArray(Transform):
    """A transform of one array; of several, it transforms each."""

    def shapes(  # noqa: D102
        self, sources: tuple[Shape, ...], targets: tuple[Target, ...]
    ) -> tuple[Shape, ...]:
        return tuple(
            self.shape(source, target)
            for source, target in zip(sources, _each(targets, sources), strict=True)
        )

    def apply(  # noqa: D102
        self,
        sources: Sequence[np.ndarray],
        targets: tuple[Target, ...],
        rng: np.random.Generator,
    ) -> list[np.ndarray]:
        results = []
        for source, target in zip(sources, _each(targets, sources), strict=True):
            shape = self.shape(source.shape, target)
            results.append(np.array(self.result(source, shape), order="C"))
        return results

    def shape(self, source: Shape, target: Target) -> Shape:
        """Shape of the result of one array; raises as for `shapes`."""
        raise NotImplementedError

    def result(self, source: np.ndarray, shape: Shape) -> np.ndarray:
        """The result of one array, of this shape."""
        raise NotImplementedError


@dataclass(frozen=True)
class Chain(Transform):
    """Transforms one after the other; the text has them in this order, separated by "|".

    Attributes:
        members: at least two of them.
    """

    members: tuple[Transform, ...] = ()

    name: ClassVar[str] = "|"
    example: ClassVar[str] = "transpose(1, 0) | stack(0)"
    meaning: ClassVar[str] = "one after the other"

    def shapes(  # noqa: D102
        self, sources: tuple[Shape, ...], targets: tuple[Target, ...]
    ) -> tuple[Shape, ...]:
        for member in self.members[:-1]:
            sources = member.shapes(sources, (None,) * max(len(targets), len(sources)))
        return self.members[-1].shapes(sources, targets)

    def apply(  # noqa: D102
        self,
        sources: Sequence[np.ndarray],
        targets: tuple[Target, ...],
        rng: np.random.Generator,
    ) -> list[np.ndarray]:
        arrays = list(sources)
        for member in self.members[:-1]:
            arrays = member.apply(arrays, (None,) * max(len(targets), len(arrays)), rng)
        return self.members[-1].apply(arrays, targets, rng)

    def inverse(self) -> Transform | None:  # noqa: D102
        inverses = [member.inverse() for member in reversed(self.members)]
        found = tuple(inverse for inverse in inverses if inverse is not None)
        return Chain(found) if len(found) == len(inverses) else None

    def of_moment(self, order: int) -> Transform | None:  # noqa: D102
        moments = [member.of_moment(order) for member in self.members]
        found = tuple(moment for moment in moments if moment is not None)
        return Chain(found) if len(found) == len(moments) else None

    @property
    def several_results(self) -> bool:  # noqa: D102
        return any(member.several_results for member in self.members)

    @property
    def several_sources(self) -> bool:  # noqa: D102
        return any(member.several_sources for member in self.members)

    def __str__(self) -> str:
        """The text that `transforms.parse` reads."""
        return " | ".join(map(str, self.members))


def checked_axis(axis: int, shape: Shape, extra: int = 0) -> int:
    """The axis as a number from 0 on; `extra` is 1 if a new axis may be the last one.

    Raises:
        ValueError: the array has no such axis.
    """
    if not -len(shape) - extra <= axis < len(shape) + extra:
        raise ValueError(f"an array of shape {shape} has no axis {axis}")
    return axis % (len(shape) + extra)


def with_size(shape: Shape, axis: int, size: int) -> Shape:
    """The shape with another size along an axis."""
    return (*shape[:axis], size, *shape[axis + 1 :])


def target_size(shape: Shape, axis: int, target: Target, what: str) -> int:
    """The model's size along an axis.

    Raises:
        ValueError: it is not known, or the model's array has other axes.
    """
    if target is None:
        raise ValueError(
            f"the size after {what} is not known between two transforms; give it as a number"
        )
    if len(target) != len(shape):
        raise ValueError(f"the model's array has shape {target}, and the saved one {shape}")
    return target[axis]


def in_float64(source: np.ndarray) -> np.ndarray:
    """The numbers in double precision, in which results are computed before they are rounded."""
    return source.astype(np.float64)


def _each(targets: tuple[Target, ...], sources: Sequence[Any]) -> tuple[Target, ...]:
    return targets if len(targets) == len(sources) else (None,) * len(sources)
