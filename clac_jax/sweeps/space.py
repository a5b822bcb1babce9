"""The space of a sweep: for each config key, the values that it may take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clac_jax.errors import one_line

Value = Any
"""A value of a config key: a number, a text, True, False, None, or a tuple of these."""
When = Mapping[str, Value]


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, both included.

    Attributes:
        low: smallest value.
        high: largest value.
        is_log: whether equal ratios are equally likely, rather than equal differences.
        is_integer: whether only whole numbers are meant.
        when: values of other keys with which the key has an effect; a list means any of them.
    """

    low: float
    high: float
    is_log: bool = False
    is_integer: bool = False
    when: When = field(default_factory=dict)

    def problem(self) -> str:
        """The mistake in it, as a sentence; "" if there is none."""
        kind = int if self.is_integer else (int, float)
        for bound in (self.low, self.high):
            if isinstance(bound, bool) or not isinstance(bound, kind) or not math.isfinite(bound):
                what = "a whole number" if self.is_integer else "a number"
                return f"The bound {one_line(repr(bound))} must be {what}."
        if self.low >= self.high:
            return f"The lower bound {self.low} must be below the upper one, {self.high}."
        if self.is_log and self.low <= 0:
            return f"The lower bound {self.low} of a logarithmic range must be above 0."
        return ""

    def contains(self, value: Value) -> bool:
        """Whether it is one of the values."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        is_kind = not self.is_integer or isinstance(value, int)
        return is_kind and self.low <= value <= self.high

    def at(self, share: float) -> Value:
        """The value at a position from 0 to 1; equal lengths are equally likely.

        Example:
            >>> log(1e-4, 1e-2).at(0.5), integer(1, 4).at(0.99)
            (0.001, 4)
        """
        low, high = float(self.low), float(self.high)
        if self.is_integer:  # each has the same share, also the first and the last
            low, high = low - 0.5, high + 0.5
        if self.is_log:
            value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        else:
            value = low + share * (high - low)
        value = round(value) if self.is_integer else float(f"{value:.12g}")
        return min(max(value, self.low), self.high)

    def grid(self, size: int) -> tuple[Value, ...]:
        """At most `size` values at equal distances, with the bounds."""
        if self.is_integer and self.high - self.low < size:
            return tuple(range(int(self.low), int(self.high) + 1))
        if size == 1:
            return (self.at(0.5),)
        bounds_included = Range(self.low, self.high, self.is_log)
        values = [bounds_included.at(each / (size - 1)) for each in range(size)]
        values = [round(value) for value in values] if self.is_integer else values
        return tuple(dict.fromkeys(values))


@dataclass(frozen=True)
class Choice:
    """A few values.

    Attributes:
        values: the values.
        when: see `Range`.
    """

    values: tuple[Value, ...]
    when: When = field(default_factory=dict)

    def problem(self) -> str:
        """The mistake in it, as a sentence; "" if there is none."""
        if len(self.values) < 2:
            number = len(self.values) or "no"
            return (
                f"It has {number} value{'s' * (not self.values)} to choose from; give two or more."
            )
        for place, value in enumerate(self.values):
            if any(_same(value, other) for other in self.values[:place]):
                return f"The value {one_line(repr(value))} is there twice."
        return ""

    def contains(self, value: Value) -> bool:
        """Whether it is one of the values."""
        return any(_same(value, other) for other in self.values)

    def at(self, share: float) -> Value:
        """The value at a position from 0 to 1; equal lengths are equally likely."""
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]

    def grid(self, size: int) -> tuple[Value, ...]:
        """All values, whatever the size."""
        del size
        return self.values


Domain = Range | Choice


def log(low: float, high: float, *, when: When | None = None) -> Range:
    """Numbers whose ratios matter, such as a learning rate: 1e-5 to 1e-4 is as likely as to 1e-3.

    Args:
        low: smallest value, above 0.
        high: largest value.
        when: values of other keys with which this one has an effect, {"schedule": "cosine"}; a
            list of values means any of them. Otherwise the key is left as the config has it.
    """
    return Range(low, high, is_log=True, when=when or {})


def uniform(low: float, high: float, *, when: When | None = None) -> Range:
    """Numbers from `low` to `high`, all equally likely; `when` as for `log`."""
    return Range(low, high, when=when or {})


def integer(low: int, high: int, *, is_log: bool = False, when: When | None = None) -> Range:
    """Whole numbers from `low` to `high`, both included; `when` as for `log`."""
    return Range(low, high, is_log=is_log, is_integer=True, when=when or {})


def choice(*values: Value, when: When | None = None) -> Choice:
    """One of the values, of any type that the config key takes; `when` as for `log`."""
    given = tuple(tuple(value) if isinstance(value, list) else value for value in values)
    return Choice(given, when or {})


def is_active(domain: Domain, values: Mapping[str, Value]) -> bool:
    """Whether a key has an effect.

    Args:
        domain: the domain of the key.
        values: of all other keys of the space and of the config, by dotted name; a key of the
            space that has no effect itself is missing.
    """
    return all(
        name in values and any(_same(values[name], each) for each in _any_of(wanted))
        for name, wanted in domain.when.items()
    )


def ordered(space: Mapping[str, Domain]) -> tuple[str, ...]:
    """The keys of a space, those first on which others depend; () if they depend in a circle."""
    done: list[str] = []
    left = list(space)
    while left:
        free = [name for name in left if not any(parent in left for parent in space[name].when)]
        if not free:
            return ()
        done.append(free[0])
        left.remove(free[0])
    return tuple(done)


def _any_of(wanted: Value) -> tuple[Value, ...]:
    return tuple(wanted) if isinstance(wanted, list) else (wanted,)


def _same(one: Value, other: Value) -> bool:
    """Equality in which True is not 1, and a list equals a tuple."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
