"""Transforms of tables whose rows belong to tokens or positions."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from clac_jax.surgery.resizing import AlongAxis, Pad
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
class AddMeans(AlongAxis):
    """Entries after the end of an axis that are the mean of the others.

    For the embeddings of new tokens: among the others, and of about their size.
    """

    name: ClassVar[str] = "add_means"
    example: ClassVar[str] = "add_means(0)"
    meaning: ClassVar[str] = "means of the others after the end, such as rows of new tokens"

    def shape(self, source: Shape, target: Target) -> Shape:  # noqa: D102
        return Pad(self.axis, self.number).shape(source, target)

    def result(self, source: np.ndarray, shape: Shape) -> np.ndarray:  # noqa: D102
        axis = checked_axis(self.axis, source.shape)
        mean = in_float64(source).mean(axis, keepdims=True).astype(source.dtype)
        new = np.repeat(mean, shape[axis] - source.shape[axis], axis)
        return np.concatenate([source, new], axis)

    def inverse(self) -> Transform:  # noqa: D102
        return Pad(self.axis, self.number).inverse()


@dataclass(frozen=True)
class Vocabulary(PerArray):
    """Rows by token: those of tokens that both tokenizers have move, the others are their mean.

    Attributes:
        old: folder of the saved model's tokenizer.
        new: folder of the model's tokenizer.
        axis: the axis of the token ids.
    """

    old: str
    new: str
    axis: int = 0

    name: ClassVar[str] = "vocabulary"
    example: ClassVar[str] = "vocabulary('old_folder', 'new_folder')"
    meaning: ClassVar[str] = "rows by token, for a model with another tokenizer"

    @classmethod
    def of(cls, *arguments: Any) -> Self:  # noqa: D102
        if not 2 <= len(arguments) <= 3 or not all(isinstance(x, str) for x in arguments[:2]):
            raise TypeError("it takes the folders of two tokenizers")
        if not all(type(axis) is int for axis in arguments[2:]):
            raise TypeError("the axis is an integer")
        return cls(*arguments)

    def shape(self, source: Shape, target: Target) -> Shape:  # noqa: D102
        axis = checked_axis(self.axis, source)
        places = self._places(source[axis])
        size = len(places) if target is None else target_size(source, axis, target, "the change")
        if size < len(places):
            raise ValueError(f"the tokenizer in {self.new} has {len(places)} tokens, not {size}")
        return with_size(source, axis, size)

    def result(self, source: np.ndarray, shape: Shape) -> np.ndarray:  # noqa: D102
        axis = checked_axis(self.axis, source.shape)
        places = self._places(source.shape[axis])
        places = np.pad(places, (0, shape[axis] - len(places)), constant_values=-1)
        if (places >= 0).any():
            source = np.concatenate([source, _mean_row(source, places, axis)], axis)
        else:
            source = np.concatenate([source, np.zeros_like(source.take([0], axis))], axis)
        return source.take(places, axis)

    def _places(self, size: int) -> np.ndarray:
        """For each new token its row in the old table of this size; -1 for those without one."""
        old, new = _ids(self.old), _ids(self.new)
        places = np.full(max(new.values(), default=-1) + 1, -1)
        for token, number in new.items():
            place = old.get(token, -1)
            places[number] = place if place < size else -1
        return places


def _mean_row(source: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
    kept = in_float64(source).take(places[places >= 0], axis)
    return np.asarray(kept.mean(axis, keepdims=True)).astype(source.dtype)


@functools.lru_cache(maxsize=4)
def _ids(folder: str) -> dict[str, int]:
    from clac_jax.text.sentences import Tokenizer  # loads the tokenizers' library

    return Tokenizer.from_folder(folder).ids()
