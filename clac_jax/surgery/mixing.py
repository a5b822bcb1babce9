"""Averages of models, and the greedy choice of what goes into one; nothing is read here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


class Mean:
    """A weighted mean of arrays of one shape, which are added one by one, in float64.

    Arrays that are equal bit for bit have themselves as their mean, whatever the weights round to.
    """

    def __init__(self, first: np.ndarray, weight: float):
        """The mean of one array.

        Args:
            first: it determines shape and dtype.
            weight: its weight; those of all arrays add up to 1.
        """
        self._first = first
        self._are_equal = True
        self._total = _times(first, weight) if _is_float(first) else None

    def add(self, array: np.ndarray, weight: float) -> None:
        """Adds an array.

        Raises:
            ValueError: it differs from the first, and they are not floating-point numbers.
        """
        self._are_equal = self._are_equal and array.tobytes() == self._first.tobytes()
        if self._total is not None:
            self._total += _times(array, weight)
        elif not self._are_equal:
            raise ValueError(f"values of type {array.dtype} differ, and have no mean")

    def result(self) -> np.ndarray:
        """The mean, in the dtype of the first array."""
        if self._are_equal or self._total is None:
            return self._first
        return self._total.astype(self._first.dtype)


def normalized(weights: Sequence[float]) -> tuple[float, ...]:
    """The weights, divided by their sum.

    Raises:
        ValueError: one is negative or not a finite number, or all are 0.
    """
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
        raise ValueError("weights must be numbers of at least 0, and not all 0")
    # Their sum may be too large for a float. A power of two changes no digit.
    exponent = math.frexp(max(weights))[1]
    scaled = [math.ldexp(weight, -exponent) for weight in weights]
    return tuple(weight / math.fsum(scaled) for weight in scaled)


def decaying_weights(decay: float, count: int) -> tuple[float, ...]:
    """The weight of each of `count` models in their exponential average, oldest first.

    It begins at the first model, and with each further one becomes decay * average +
    (1 - decay) * model.

    Raises:
        ValueError: the decay is not from 0 to 1.
    """
    if not 0 <= decay <= 1:
        raise ValueError("the decay of an average must be from 0 to 1")
    later = [(1 - decay) * decay ** (count - 1 - number) for number in range(1, count)]
    return (decay ** (count - 1), *later)


@dataclass(frozen=True)
class Tried:
    """A candidate of a greedy soup.

    Attributes:
        number: its number among the candidates, from 0.
        own_value: its own value.
        together: value of the average of the ingredients so far and this candidate.
        is_kept: whether it has become an ingredient.
    """

    number: int
    own_value: float
    together: float
    is_kept: bool


def greedy_soup(
    own_values: Sequence[float], together: Callable[[tuple[int, ...]], float], mode: str
) -> list[Tried]:
    """Chooses the ingredients of an average, best candidate first (arXiv:2203.05482).

    Each candidate in turn is kept if the average with it is not worse than the one without.

    Args:
        own_values: value of each candidate.
        together: numbers of some candidates -> value of their average; not called for a single one.
        mode: "max" if larger values are better, otherwise "min".

    Returns:
        The candidates in the order in which they were tried; equal ones in the order given.

    Raises:
        ValueError: no candidate has a finite value.
    """
    sign = 1.0 if mode == "max" else -1.0
    gains = [sign * value if math.isfinite(value) else -math.inf for value in own_values]
    if max(gains, default=-math.inf) == -math.inf:
        raise ValueError("no candidate has a finite value")
    first, *others = sorted(range(len(own_values)), key=lambda number: -gains[number])
    tried = [Tried(first, own_values[first], own_values[first], True)]
    kept: tuple[int, ...] = (first,)
    best = gains[first]
    for number in others:
        value = together((*kept, number))
        is_kept = sign * value >= best  # false if it is not a number
        tried.append(Tried(number, own_values[number], value, is_kept))
        if is_kept:
            kept, best = (*kept, number), sign * value
    return tried


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def _times(array: np.ndarray, weight: float) -> np.ndarray:
    product: np.ndarray = array.astype(np.float64)
    product *= weight
    return product
