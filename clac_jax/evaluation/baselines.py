"""Predictions of a property without the structure: a constant, and the composition only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clac_jax.crystals.elements import MAX_ATOMIC_NUMBER
from clac_jax.datasets.record import Record

PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Penalties of the ridge regression per example, of which leave-one-out chooses the best."""


def element_fractions(records: Sequence[Record]) -> np.ndarray:
    """(n, 100) float64: share of each element among the atoms of the cell."""
    rows = np.zeros((len(records), MAX_ATOMIC_NUMBER))
    for row, record in zip(rows, records, strict=True):
        numbers = np.asarray(record.atomic_numbers)
        row += np.bincount(numbers - 1, minlength=MAX_ATOMIC_NUMBER) / len(numbers)
    return rows


def ridge(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Ridge regression with an intercept, its penalty chosen by the leave-one-out error.

    Args:
        x: (n, d) float64 training examples.
        y: (n,) float64 labels.
        new: (m, d) float64 examples to predict.

    Returns:
        (m,) float64.
    """
    center, mean = x.mean(axis=0), y.mean()
    u, s, v = np.linalg.svd(x - center, full_matrices=False)
    kept = s > 1e-10 * s.max(initial=0.0)
    u, s, v = u[:, kept], s[kept], v[kept]
    target = u.T @ (y - mean)
    best, weights = np.inf, np.zeros(x.shape[1])
    for penalty in PENALTIES:
        shrink = s**2 / (s**2 + penalty * len(x))
        residual = y - mean - u @ (shrink * target)
        leverage = (u**2) @ shrink + 1 / len(x)
        error = float(np.mean((residual / np.maximum(1 - leverage, 1e-9)) ** 2))
        if error < best:
            best, weights = error, v.T @ (shrink / s * target)
    return np.asarray(mean + (new - center) @ weights)


def nearest_class(x: np.ndarray, y: np.ndarray, new: np.ndarray, k: int = 5) -> np.ndarray:
    """The most frequent class among the nearest examples; in a tie, that of the nearer one.

    Args:
        x: (n, d) float64 training examples.
        y: (n,) class numbers.
        new: (m, d) float64 examples to classify.
        k: number of neighbours by the sum of absolute differences.

    Returns:
        (m,) class numbers.
    """
    classes, numbers = np.unique(y, return_inverse=True)
    result = np.empty(len(new), classes.dtype)
    for place, example in enumerate(new):
        near = np.argsort(np.abs(x - example).sum(axis=1), kind="stable")[:k]
        # Each vote counts one; the small part that falls with the distance decides ties.
        votes = np.bincount(
            numbers[near], weights=1 + 1e-3 / (1 + np.arange(len(near))), minlength=len(classes)
        )
        result[place] = classes[votes.argmax()]
    return result
