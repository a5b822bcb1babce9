"""Measures of a score that should rank one class before another; equal scores share their credit.

Both take any real scores: only their order counts. Definitions: Fawcett, Pattern Recognition
Letters 27, 861 (2006) for the area under the ROC curve; Manning, Raghavan and Schuetze,
Introduction to Information Retrieval, section 8.4, for the average precision.
"""

from __future__ import annotations

import numpy as np


def roc_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve.

    This is the probability that a positive has a higher score than a negative, where both are drawn
    at random; a tie counts half.

    Args:
        labels: (n,) bool or 0 and 1.
        scores: (n,) float, higher for examples that look positive.

    Returns:
        0 to 1, and 0.5 for scores without information; NaN where one of the classes is missing.
    """
    positives, negatives = _counts(labels, scores)
    if not positives.sum() or not negatives.sum():
        return float("nan")
    below = np.cumsum(negatives) - negatives
    wins = positives @ (below + negatives / 2)
    return float(wins / (positives.sum() * negatives.sum()))


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Precision averaged over the recall, without interpolation.

    Examples with equal scores are retrieved together, so their order in the data has no influence.

    Args:
        labels: (n,) bool or 0 and 1.
        scores: (n,) float, higher for examples that look positive.

    Returns:
        0 to 1, and about the share of positives for scores without information; NaN without
        positives.
    """
    positives, negatives = (counts[::-1] for counts in _counts(labels, scores))
    if not positives.sum():
        return float("nan")
    found = np.cumsum(positives)
    precision = found / (found + np.cumsum(negatives))
    return float(precision @ positives / found[-1])


def fair_credit(scores: np.ndarray, correct: int = 0) -> float:
    """Credit for choosing the highest score where `correct` is the right choice.

    Args:
        scores: (choices,) float.
        correct: index of the right choice.

    Returns:
        1 / (number of choices with the highest score) if the right one is among them, otherwise 0:
        what a random choice among the highest earns on average. The first of equal scores is not
        preferred, since the data store the right choice first.
    """
    highest = scores == scores.max()
    return float(highest[correct] / highest.sum())


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation, from mid-ranks of equal values; NaN if one of the two is constant.

    Args:
        a: (n,) float.
        b: (n,) float.
    """
    return pearson(_mid_ranks(a), _mid_ranks(b))


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Linear correlation; NaN if one of the two is constant or there are fewer than two pairs.

    Args:
        a: (n,) float.
        b: (n,) float.
    """
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    a, b = a - np.mean(a), b - np.mean(b)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def _counts(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of positives and of negatives with each distinct score, in ascending order."""
    level = np.unique(scores, return_inverse=True)[1]
    everything = np.bincount(level).astype(np.float64)
    positives = np.bincount(level, weights=np.asarray(labels, np.float64))
    return positives, everything - positives


def _mid_ranks(values: np.ndarray) -> np.ndarray:
    """(n,) float64 ranks from 0; equal values have the mean of their ranks."""
    level, counts = np.unique(values, return_inverse=True, return_counts=True)[1:]
    return np.asarray((np.cumsum(counts) - counts + (counts - 1) / 2)[level], np.float64)
