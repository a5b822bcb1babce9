"""Estimates of a part of the pool, and nested results as plain JSON."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from clac_jax.evaluation.intervals import Estimate, Resampling, Statistic, bootstrap


def estimate(values: np.ndarray, how: Resampling, statistic: Statistic | None = None) -> Estimate:
    """A statistic of the values, by default the mean, with its interval.

    Args:
        values: (n, ...) one row per example; n may be 0, which gives NaN.
        how: how to draw; its groups belong to these rows.
        statistic: see `clac_jax.evaluation.intervals.bootstrap`.
    """
    if not len(values):
        return Estimate(math.nan, math.nan, math.nan, 0)
    return bootstrap(values, statistic, how.groups, how.resamples, how.seed)


def for_rows(how: Resampling, rows: np.ndarray) -> Resampling:
    """A resampling restricted to some of the examples, in any order and number.

    Args:
        how: the resampling of all examples.
        rows: (m,) int, which examples.
    """
    if how.groups is None:
        return how
    return dataclasses.replace(how, groups=how.groups[rows])


def plain(values: Any) -> Any:
    """Nested results as JSON: estimates as dicts, NaN as null, NumPy numbers as Python's."""
    if isinstance(values, Estimate):
        return values.to_json()
    if isinstance(values, dict):
        return {str(name): plain(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [plain(value) for value in values]
    if isinstance(values, np.ndarray | np.generic):
        return plain(values.tolist())
    if isinstance(values, float) and not math.isfinite(values):
        return None
    return values
