"""Are numbers understood? One number of a sentence is changed, and nothing else.

The sentences are the records' own. Two questions are asked: is a sentence less similar to itself
the more its number is changed, and does the crystal prefer the sentence with its own number?
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clac_jax.evaluation.estimates import estimate, for_rows
from clac_jax.evaluation.intervals import Estimate, Resampling
from clac_jax.evaluation.measures import fair_credit, spearman
from clac_jax.evaluation.other_crystals import derangements, rng_of
from clac_jax.evaluation.pool import Pool, text_of
from clac_jax.evaluation.quantities import Quantity, quantities_of
from clac_jax.evaluation.text_vectors import vectors_of
from clac_jax.text.sentences import split_sentences

SIZES = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
"""Sizes of the changes, in standard deviations of the property between its 5th and 95th
percentile in the pool."""
MAX_SENTENCES = 40
"""Largest number of sentences per property; more are sampled."""
MIN_SENTENCES = 10
"""Smallest number of sentences for which a property is evaluated."""
OTHER_CRYSTALS = 10
"""Number of other crystals shown instead of the right one."""
GRID = 12
"""Number of values, evenly spaced, of the queries that are compared with each other."""

_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w]|\.\d)")


@dataclass(frozen=True)
class Changed:
    """A sentence and the same with another number.

    Attributes:
        row: the crystal whose text has the sentence, as an index into the pool.
        own: the sentence.
        changed: the sentence with the other number.
        size: the size that was wanted, one of SIZES.
        difference: absolute difference of the two numbers as they are written, in the same unit.
    """

    row: int
    own: str
    changed: str
    size: float
    difference: float


def number_span(sentence: str, value: float) -> tuple[int, int] | None:
    """Where a sentence states a value, rounded to any number of decimals, without its sign.

    Returns:
        Start and end of the first such number; None if there is none.
    """
    for match in _NUMBER.finditer(sentence):
        decimals = len(match.group().partition(".")[2])
        if abs(float(match.group()) - abs(value)) <= 0.5 * 10**-decimals + 1e-9:
            return match.span()
    return None


def stated(text: str, quantity: Quantity, value: float) -> tuple[str, tuple[int, int]] | None:
    """The first sentence of a text that states a value of a quantity, and where it does.

    A value that is written as zero is not used: its sentence has other words ("no band gap").
    """
    pattern = re.compile(quantity.pattern)
    for sentence in split_sentences(text):
        span = number_span(sentence, value) if pattern.search(sentence) else None
        if span and float(sentence[slice(*span)]) > 0:
            return sentence, span
    return None


def changed_number(number: str, by: float, limits: tuple[float, float]) -> str | None:
    """A number increased or reduced, with the same number of decimals.

    Args:
        number: the number as written, without a sign.
        by: the change; the opposite one is used where the result would be beyond the limits.
        limits: smallest and largest magnitude allowed.

    Returns:
        The new number; None if both results are beyond the limits, or equal the old number.
    """
    decimals = len(number.partition(".")[2])
    for step in (by, -by):
        shown = f"{float(number) + step:.{decimals}f}"
        if limits[0] <= float(shown) <= limits[1] and float(shown) != float(number):
            return shown
    return None


def changes_of(
    quantity: Quantity, texts: Sequence[str], values: np.ndarray, rows: np.ndarray
) -> list[Changed]:
    """Sentences about a quantity, each with changes of all sizes.

    Args:
        quantity: the quantity.
        texts: text of each record of the pool.
        values: (n,) values of the records, NaN where unknown.
        rows: (m,) int records of which sentences are taken, in this order, up to MAX_SENTENCES.
    """
    known = values[np.isfinite(values)]
    unit = spread_of(known)
    magnitudes = np.abs(known)
    limits = (float(magnitudes.min()), float(magnitudes.max()))
    signs = rng_of(f"signs of changes of {quantity.name}")
    result: list[Changed] = []
    sentences = 0
    for row in rows:
        if sentences == MAX_SENTENCES:
            break
        place = stated(texts[row], quantity, values[row])
        if place is None:
            continue
        sentences += 1
        sentence, (start, end) = place
        for size in SIZES:
            by = size * unit * signs.choice((-1, 1))
            number = changed_number(sentence[start:end], by, limits)
            if number is not None:
                other = sentence[:start] + number + sentence[end:]
                difference = abs(float(number) - float(sentence[start:end])) / unit
                result.append(Changed(int(row), sentence, other, size, difference))
    return result


def spread_of(known: np.ndarray) -> float:
    """Standard deviation of the values between their 5th and 95th percentile."""
    low, high = np.percentile(known, (5, 95))
    inner = known[(low <= known) & (known <= high)]
    return float(inner.std()) or float(known.std())


@dataclass(frozen=True)
class Compared:
    """The results of all changes of a quantity.

    Attributes:
        rows: (c,) int64, the crystal of each change.
        sizes: (c,) float64, see `Changed.size`.
        differences: (c,) float64, in standard deviations.
        similarity: (c,) float64, cosine of the two sentences; NaN for a model without cosines.
        prefers_own: (c,) float64, 1 if the crystal is more similar to its own sentence, 0 if to
            the changed one, 1/2 if to both.
        others_prefer: (c,) float64, the same for other crystals, mean.
    """

    rows: np.ndarray
    sizes: np.ndarray
    differences: np.ndarray
    similarity: np.ndarray
    prefers_own: np.ndarray
    others_prefer: np.ndarray

    def estimates(self, how: Resampling) -> dict[str, Any]:
        """Estimates over all changes, and `by_size`.

        Args:
            how: resampling of the crystals of the pool.
        """
        how = for_rows(how, self.rows)
        pairs = np.stack([self.differences, self.similarity], axis=1)
        nothing = Estimate(np.nan, np.nan, np.nan, len(pairs))
        return {
            "sentences": len(set(self.rows.tolist())),
            "changes": len(self.rows),
            "spearman": estimate(pairs, how, lambda drawn: spearman(*drawn.T))
            if np.isfinite(self.similarity).all()
            else nothing,
            "accuracy": estimate(self.prefers_own, how),
            "other_crystals": estimate(self.others_prefer, how),
            "by_size": {size: self._of_size(size, how) for size in SIZES},
        }

    def _of_size(self, size: float, how: Resampling) -> dict[str, Any]:
        chosen = np.flatnonzero(self.sizes == size)
        similarity = self.similarity[chosen]
        return {
            "accuracy": estimate(self.prefers_own[chosen], for_rows(how, chosen)),
            "other_crystals": estimate(self.others_prefer[chosen], for_rows(how, chosen)),
            "median_similarity": float(np.median(similarity)) if len(chosen) else np.nan,
        }


def compare(pool: Pool, changes: list[Changed]) -> Compared:
    """Scores the sentences of some changes with each other and with the crystals."""
    texts = sorted({text for change in changes for text in (change.own, change.changed)})
    place = {text: number for number, text in enumerate(texts)}
    vectors = vectors_of(pool.model, texts)
    scores = pool.scores(vectors)
    own = np.array([place[change.own] for change in changes])
    other = np.array([place[change.changed] for change in changes])
    rows = np.array([change.row for change in changes])
    orders = derangements(len(pool.records), OTHER_CRYSTALS, "numbers")
    prefers = [_preference(scores, own, other, order[rows]) for order in orders]
    cosines = np.einsum("ij,ij->i", vectors[own], vectors[other], dtype=np.float64)
    return Compared(
        rows=rows,
        sizes=np.array([change.size for change in changes]),
        differences=np.array([change.difference for change in changes]),
        similarity=cosines if pool.model.is_dot_product else np.full(len(changes), np.nan),
        prefers_own=_preference(scores, own, other, rows),
        others_prefer=np.mean(prefers, axis=0) if prefers else np.full(len(changes), np.nan),
    )


def _preference(
    scores: np.ndarray, own: np.ndarray, other: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    pairs = np.stack([scores[own, columns], scores[other, columns]], axis=1)
    return np.array([fair_credit(pair) for pair in pairs])


def joined(parts: list[Compared]) -> Compared:
    """The changes of several quantities together."""
    return Compared(*(np.concatenate([getattr(p, name) for p in parts]) for name in vars(parts[0])))


@dataclass(frozen=True)
class Grid:
    """Queries that differ in their number only, compared with each other.

    Attributes:
        values: (g,) float64, the numbers.
        cosines: (g, g) float64.
    """

    values: np.ndarray
    cosines: np.ndarray

    @property
    def spearman(self) -> float:
        """Correlation of cosine and difference over all pairs of values; -1 is perfect order."""
        first, second = np.triu_indices(len(self.values), 1)
        return spearman(
            np.abs(self.values[first] - self.values[second]), self.cosines[first, second]
        )


def grid_of(pool: Pool, quantity: Quantity, known: np.ndarray) -> Grid:
    """Queries for values between the 5th and 95th percentile of the known ones."""
    low, high = np.percentile(known, (5, 95))
    values = np.unique(quantity.rounded(np.linspace(low, high, GRID)))
    vectors = vectors_of(pool.model, [quantity.equal_to(float(value))[0] for value in values])
    return Grid(values, np.asarray(vectors, np.float64) @ vectors.T)


def measure(pool: Pool) -> dict[str, tuple[Quantity, Compared, Grid | None]]:
    """The comparisons for each quantity that enough texts state."""
    texts = [text_of(record, pool.model.config) for record in pool.records]
    results = {}
    for quantity, values in quantities_of(pool.records).items():
        known = np.flatnonzero(np.isfinite(values))
        rows = rng_of(f"sentences about {quantity.name}").permutation(known)
        changes = changes_of(quantity, texts, values, rows)
        if len({change.row for change in changes}) < MIN_SENTENCES:
            continue
        grid = grid_of(pool, quantity, values[known]) if pool.model.is_dot_product else None
        results[quantity.name] = (quantity, compare(pool, changes), grid)
    return results
