"""Bootstrap intervals: of a statistic over examples, and of the difference of two models.

Percentile intervals (Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13): the
examples, or entire groups of them, are drawn with replacement, and the statistic of each draw is
computed. Groups are for examples that are not independent, such as the polymorphs of a composition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 1000
SEED = 42
_BLOCK = 1 << 22  # draws held in memory at a time

Statistic = Callable[[np.ndarray], Any]
"""(m, ...) examples in any number and order -> a number."""


@dataclass(frozen=True)
class Resampling:
    """How intervals are computed.

    Attributes:
        resamples: number of draws; 0 computes no intervals (they are NaN).
        seed: seed of the draws.
        groups: (n,) any labels; examples with equal labels are drawn together. None: each example
            is drawn on its own.
    """

    resamples: int = RESAMPLES
    seed: int = SEED
    groups: np.ndarray | None = None


@dataclass(frozen=True)
class Estimate:
    """A statistic with its 95 % interval.

    Attributes:
        value: the statistic of all examples.
        low: lower end of the interval.
        high: upper end.
        n: number of examples.
    """

    value: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, float | int | None]:
        """`value`, `low`, `high` and `n`; what is not finite is null."""
        ends = {name: getattr(self, name) for name in ("value", "low", "high")}
        shown = {name: x if np.isfinite(x) else None for name, x in ends.items()}
        return {**shown, "n": self.n}

    def scaled(self, factor: float) -> Estimate:
        """The same in another unit, such as percent."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor, self.n)


@dataclass(frozen=True)
class Difference:
    """The difference of a statistic between two models on the same examples.

    Attributes:
        estimate: statistic of A minus that of B, with its interval.
        p_positive: share of the draws in which the difference is positive; equal ones count half.
    """

    estimate: Estimate
    p_positive: float

    @property
    def p_value(self) -> float:
        """Two-sided: twice the share of the draws with the rarer sign.

        0 means that all draws have one sign: the value is below 2 / resamples.
        """
        return 2 * min(self.p_positive, 1 - self.p_positive)

    def to_json(self) -> dict[str, Any]:
        """`difference` (see `Estimate.to_json`), `p_positive` and `p_value`."""
        return {
            "difference": self.estimate.to_json(),
            "p_positive": self.p_positive,
            "p_value": self.p_value,
        }


def bootstrap(
    values: np.ndarray,
    statistic: Statistic | None = None,
    groups: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Estimate:
    """A statistic with its percentile interval.

    Args:
        values: (n, ...) one row per example.
        statistic: function of the rows of a draw; None is the mean of (n,) values, which is fast.
        groups: see `Resampling.groups`.
        resamples: number of draws.
        seed: seed of the draws.

    Raises:
        ValueError: there are no examples.
    """
    draws = draws_of(np.asarray(values), statistic, Resampling(resamples, seed, groups))
    whole = float(np.mean(values) if statistic is None else statistic(np.asarray(values)))
    return _estimate(whole, draws, len(values))


def paired(
    a: np.ndarray,
    b: np.ndarray,
    statistic: Statistic | None = None,
    resampling: Resampling | None = None,
) -> Difference:
    """The difference of a statistic between two models, from the same draws of examples for both.

    Args:
        a: (n, ...) values of model A, one row per example.
        b: (n, ...) values of model B for the same examples in the same order.
        statistic: as in `bootstrap`.
        resampling: how to draw; by default 1000 draws of single examples.

    Raises:
        ValueError: there are no examples, or not as many in `a` as in `b`.
    """
    a, b, resampling = np.asarray(a), np.asarray(b), resampling or Resampling()
    if len(a) != len(b):
        raise ValueError(f"{len(a)} values of A and {len(b)} of B are not pairs")
    draws = draws_of(a, statistic, resampling) - draws_of(b, statistic, resampling)
    wholes = [float(np.mean(x) if statistic is None else statistic(x)) for x in (a, b)]
    above = float(np.mean(draws > 0) + np.mean(draws == 0) / 2) if len(draws) else float("nan")
    return Difference(_estimate(wholes[0] - wholes[1], draws, len(a)), above)


def draws_of(values: np.ndarray, statistic: Statistic | None, how: Resampling) -> np.ndarray:
    """(resamples,) float64: the statistic of each draw, the same draws for every call.

    Raises:
        ValueError: there are no examples, or not one group label for each.
    """
    if not len(values):
        raise ValueError("there are no examples to draw from")
    if how.groups is not None and len(how.groups) != len(values):
        raise ValueError(f"{len(how.groups)} group labels for {len(values)} examples")
    if statistic is None:
        return _means(values.astype(np.float64), how)
    members = _members(len(values), how.groups)
    drawn = (
        statistic(values[np.concatenate([members[k] for k in chosen])])
        if how.groups is not None
        else statistic(values[chosen])
        for block in _chosen(len(members), how)
        for chosen in block
    )
    return np.fromiter(drawn, np.float64, how.resamples)


def _means(values: np.ndarray, how: Resampling) -> np.ndarray:
    """Means of the draws, from the sum and size of each group."""
    if how.groups is None:
        sums, sizes = values, np.ones(len(values))
    else:
        group = _numbered(how.groups)
        sums, sizes = np.bincount(group, weights=values), np.bincount(group).astype(np.float64)
    blocks = [
        sums[block].sum(axis=1) / sizes[block].sum(axis=1) for block in _chosen(len(sums), how)
    ]
    return np.concatenate(blocks) if blocks else np.zeros(0)


def _members(count: int, groups: np.ndarray | None) -> list[np.ndarray]:
    """The examples of each group, in order of the groups' first examples."""
    if groups is None:
        return [np.array([k]) for k in range(count)]
    group = _numbered(groups)
    order = np.argsort(group, kind="stable")
    return np.split(order, np.cumsum(np.bincount(group))[:-1])


def _numbered(labels: np.ndarray) -> np.ndarray:
    """Numbers of the labels in order of first appearance, so that groups of one change nothing."""
    _, first, number = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[number]


def _chosen(count: int, how: Resampling) -> Iterator[np.ndarray]:
    """(draws, count) int64 numbers of the groups drawn, in blocks of limited size."""
    rng = np.random.default_rng(how.seed)
    rows = max(1, _BLOCK // count)
    for start in range(0, how.resamples, rows):
        yield rng.integers(count, size=(min(rows, how.resamples - start), count))


def _estimate(value: float, draws: np.ndarray, n: int) -> Estimate:
    finite = draws[np.isfinite(draws)]  # a draw may lack a class, say
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(finite, (tail, 1 - tail)) if len(finite) else (np.nan, np.nan)
    return Estimate(value, float(low), float(high), n)
