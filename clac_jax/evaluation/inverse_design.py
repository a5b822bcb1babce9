"""Inverse design: do the crystals found for "a band gap of 2 eV" have that band gap?

There are three kinds of queries: a target value, a threshold, and two target values together. Each
is worded in several ways whose scores are averaged, and answered by the best crystals of the pool
whose value is known.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from clac_jax.evaluation.estimates import estimate, for_rows
from clac_jax.evaluation.intervals import Estimate, Resampling
from clac_jax.evaluation.measures import pearson, spearman
from clac_jax.evaluation.other_crystals import rng_of
from clac_jax.evaluation.pool import Pool
from clac_jax.evaluation.quantities import MIN_KNOWN, Quantity, both, quantities_of
from clac_jax.evaluation.text_vectors import vectors_of

K = 10
"""Number of crystals retrieved per query."""
TARGETS = 9
"""Number of target values of a quantity, evenly spaced."""
TARGET_RANGE = (5, 95)
"""Percentiles of the known values between which the targets lie."""
THRESHOLDS = {"greater than": (50, 75, 90), "less than": (50, 25, 10)}
"""Percentiles of the known values that serve as thresholds."""
PAIR_TARGETS = (20, 50, 80)
"""Percentiles of each of two quantities that are combined to nine pairs of targets."""
PAIRS = (
    ("band gap", "formation energy per atom"),
    ("band gap", "density"),
    ("band gap", "refractive index"),
    ("formation energy per atom", "density"),
    ("bulk modulus", "density"),
    ("bulk modulus", "shear modulus"),
)
"""Pairs of quantities that are combined in a query, where the data have them."""

Score = Callable[[list[str]], np.ndarray]
"""n texts -> (n, candidates) scores."""


@dataclass(frozen=True)
class Candidates:
    """The crystals of the pool that can be retrieved for a quantity, and how queries rank them.

    Attributes:
        rows: (m,) int64, their rows in the pool.
        scores: searcher -> score of texts with these crystals: "crystals" compares with the
            crystals, "text only" with the crystals' own texts.
        how: how intervals are computed: by composition.
    """

    rows: np.ndarray
    scores: Mapping[str, Score]
    how: Resampling

    def retrieve(self, searcher: str, queries: list[list[str]]) -> np.ndarray:
        """(queries, k) int64 the best crystals of each query, as indices into `rows`.

        Args:
            searcher: a key of `scores`.
            queries: the wordings of each query, whose scores are averaged.
        """
        return top_k(self.averaged(searcher, queries), K)

    def averaged(self, searcher: str, queries: list[list[str]]) -> np.ndarray:
        """(queries, m) float32 scores, each the mean over the wordings of the query."""
        scores = self.scores[searcher]([text for texts in queries for text in texts])
        ends = np.cumsum([len(texts) for texts in queries])
        return np.stack([part.mean(axis=0) for part in np.split(scores, ends[:-1])])


def candidates_of(pool: Pool, known: np.ndarray) -> Candidates:
    """The crystals with known values.

    Args:
        pool: the pool.
        known: (n,) bool, whether the value of each crystal of the pool is known.
    """
    rows = np.flatnonzero(known)

    def to_crystals(texts: list[str]) -> np.ndarray:
        return pool.scores(vectors_of(pool.model, texts))[:, rows]

    def to_texts(texts: list[str]) -> np.ndarray:
        return np.asarray(vectors_of(pool.model, texts) @ pool.texts[rows].T)

    scores: dict[str, Score] = {"crystals": to_crystals}
    if pool.model.is_dot_product:
        scores["text only"] = to_texts
    return Candidates(rows, scores, for_rows(pool.by_formula, rows))


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """The highest k of each row, the best first.

    Args:
        scores: (m, n) float. Equal scores are taken in an order drawn once, not that of the data.
        k: number wanted; at most n are returned.

    Returns:
        (m, min(k, n)) int64 columns.
    """
    order = rng_of("order of ties").permutation(scores.shape[1])
    best = np.argsort(-scores[:, order], axis=1, kind="stable")[:, :k]
    return np.asarray(order[best], np.int64)


def targets_of(quantity: Quantity, known: np.ndarray) -> np.ndarray:
    """(t,) float64 distinct target values over the range of the known values, ascending."""
    low, high = np.percentile(known, TARGET_RANGE)
    return np.unique(quantity.rounded(np.linspace(low, high, TARGETS)))


@dataclass(frozen=True)
class Found:
    """The values of retrieved crystals, and the targets.

    Attributes:
        targets: (t,) float64.
        values: (t, k) float64 values of the crystals retrieved for each target.
        hits: (t, k) int64 which candidates they are.
    """

    targets: np.ndarray
    values: np.ndarray
    hits: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """(t,) mean value of the crystals retrieved for each target."""
        return np.asarray(self.values.mean(axis=1))

    @property
    def spread(self) -> np.ndarray:
        """(t,) their standard deviation."""
        return np.asarray(self.values.std(axis=1))

    def estimates(self, how: Resampling) -> dict[str, Estimate]:
        """`mae` to the target, and `pearson` and `spearman` of the targets with the means.

        Args:
            how: resampling of the candidates; a composition that is drawn keeps or loses all its
                hits together.
        """
        t, k = self.values.shape
        number = np.repeat(np.arange(t), k)
        rows = np.stack([number, self.values.ravel()], axis=1)
        how = for_rows(how, self.hits.ravel())
        errors = np.abs(self.values - self.targets[:, None]).ravel()

        def of_means(measure: Callable[[np.ndarray, np.ndarray], float]) -> Estimate:
            def statistic(drawn: np.ndarray) -> float:
                index = drawn[:, 0].astype(np.int64)
                counts = np.bincount(index, minlength=t)
                sums = np.bincount(index, weights=drawn[:, 1], minlength=t)
                there = counts > 0
                return measure(self.targets[there], sums[there] / counts[there])

            return estimate(rows, how, statistic)

        return {
            "mae": estimate(errors, how),
            "pearson": of_means(pearson),
            "spearman": of_means(spearman),
        }


def found(values: np.ndarray, targets: np.ndarray, hits: np.ndarray) -> Found:
    """The values (m,) of the candidates that were retrieved (t, k) for the targets (t,)."""
    return Found(targets, values[hits], hits)


def best_possible(values: np.ndarray, targets: np.ndarray) -> Found:
    """The k candidates closest to each target: what no search can improve on."""
    return found(values, targets, top_k(-np.abs(values - targets[:, None]), K))


def random_error(values: np.ndarray, targets: np.ndarray) -> float:
    """Mean absolute error of candidates drawn at random, exactly: over all of them."""
    return float(np.abs(values - targets[:, None]).mean())


def target_queries(
    quantity: Quantity, values: np.ndarray, candidates: Candidates
) -> dict[str, Any]:
    """Queries for target values of a quantity.

    Args:
        quantity: the quantity that the queries state.
        values: (m,) values of the candidates.
        candidates: the crystals that can be retrieved.

    Returns:
        Searcher -> `Found` and its estimates; also "random" and "best possible", the limits.
    """
    targets = targets_of(quantity, values)
    queries = [quantity.equal_to(float(target)) for target in targets]
    best = best_possible(values, targets)
    result: dict[str, Any] = {
        "crystals_known": len(values),
        "targets": targets,
        "random": {
            "mae": random_error(values, targets),
            "mean": float(values.mean()),
            "std": float(values.std()),
        },
        "best possible": {"found": best, **best.estimates(candidates.how)},
    }
    for searcher in candidates.scores:
        hits = found(values, targets, candidates.retrieve(searcher, queries))
        result[searcher] = {"found": hits, **hits.estimates(candidates.how)}
    return result


def threshold_queries(
    quantity: Quantity, values: np.ndarray, candidates: Candidates
) -> dict[str, Any]:
    """Queries for values above and below thresholds.

    Thresholds that all or none of the candidates satisfy are left out.

    Returns:
        `queries`: one dict per threshold with its base rate and precision by searcher; and for each
        searcher the mean `precision`; also the mean `base_rate` and the `best possible`, which is
        less than 1 where fewer than k crystals satisfy a threshold.
    """
    asked: list[dict[str, Any]] = []
    texts, masks = [], []
    for (kind, percentiles), make in zip(
        THRESHOLDS.items(), (quantity.greater_than, quantity.less_than), strict=True
    ):
        for threshold in quantity.rounded(np.percentile(values, percentiles)):
            right = values > threshold if kind == "greater than" else values < threshold
            query: dict[str, Any] = {
                "kind": kind,
                "threshold": float(threshold),
                "base_rate": float(right.mean()),
                "best possible": min(int(right.sum()), K) / min(len(values), K),
            }
            if 0 < query["base_rate"] < 1 and not any(
                query["kind"] == q["kind"] and threshold == q["threshold"] for q in asked
            ):
                asked.append(query)
                texts.append(make(float(threshold)))
                masks.append(right)
    result: dict[str, Any] = {"queries": asked}
    if not asked:
        return result
    for name in ("base_rate", "best possible"):
        result[name] = float(np.mean([query[name] for query in asked]))
    for searcher in candidates.scores:
        hits = candidates.retrieve(searcher, texts)
        right = np.stack([mask[row] for mask, row in zip(masks, hits, strict=True)])
        for query, share in zip(asked, right.mean(axis=1), strict=True):
            query[f"precision, {searcher}"] = float(share)
        result[searcher] = {
            "precision": estimate(
                right.astype(np.float64).ravel(), for_rows(candidates.how, hits.ravel())
            )
        }
    return result


def pair_queries(
    quantities: tuple[Quantity, Quantity], values: np.ndarray, candidates: Candidates
) -> dict[str, Any]:
    """Queries that state values of two quantities, on a grid of 3 x 3 targets.

    Args:
        quantities: the two quantities.
        values: (2, m) their values.
        candidates: the crystals that can be retrieved.

    Returns:
        For each way to search the `error`: mean absolute error in standard deviations of the
        quantity, mean of both, with interval; and `mae`, that of each in its unit. "both": one
        sentence with both values; "sum": the sum of the scores of two sentences with one value
        each; "first only" and "second only": one of these sentences; with "text only", the texts
        of the crystals are searched instead. "random" and "best possible" are the limits.
    """
    scale = values.std(axis=1)
    levels = [
        np.unique(quantity.rounded(np.percentile(known, PAIR_TARGETS)))
        for quantity, known in zip(quantities, values, strict=True)
    ]
    grid = np.array(list(itertools.product(*levels)))  # (g, 2)
    errors = np.abs(values.T[None] - grid[:, None]) / scale  # (g, m, 2)
    scored: dict[str, np.ndarray] = {}
    for searcher in candidates.scores:
        first, second, joint = (
            candidates.averaged(searcher, queries)
            for queries in (
                [quantities[0].equal_to(float(a)) for a, _ in grid],
                [quantities[1].equal_to(float(b)) for _, b in grid],
                [both(quantities[0], float(a), quantities[1], float(b)) for a, b in grid],
            )
        )
        if searcher == "crystals":
            scored |= {"both": joint, "sum": first + second, "first only": first,
                       "second only": second}  # fmt: skip
        else:
            scored[f"both, {searcher}"] = joint
    scored["best possible"] = -errors.mean(axis=2)
    result: dict[str, Any] = {"crystals_known": values.shape[1], "targets": grid}
    for name, scores in scored.items():
        hits = top_k(scores, K)
        off = np.take_along_axis(errors, hits[..., None], axis=1)  # (g, k, 2)
        result[name] = {
            "error": estimate(off.mean(axis=2).ravel(), for_rows(candidates.how, hits.ravel())),
            "mae": off.mean(axis=(0, 1)) * scale,
        }
    result["random"] = {"error": float(errors.mean()), "mae": errors.mean(axis=(0, 1)) * scale}
    return result


def measure(pool: Pool) -> dict[str, dict[str, Any]]:
    """All results of a pool: `targets` and `thresholds` by quantity, `pairs` by their names."""
    quantities = quantities_of(pool.records)
    results: dict[str, dict[str, Any]] = {"targets": {}, "thresholds": {}, "pairs": {}}
    for quantity, values in quantities.items():
        known = np.isfinite(values)
        candidates = candidates_of(pool, known)
        results["targets"][quantity.name] = target_queries(quantity, values[known], candidates)
        results["thresholds"][quantity.name] = threshold_queries(
            quantity, values[known], candidates
        )
    for pair in pairs_of(list(quantities)):
        values = np.stack([quantities[quantity] for quantity in pair])
        known = np.isfinite(values).all(axis=0)
        if known.sum() >= MIN_KNOWN:
            name = " and ".join(quantity.name for quantity in pair)
            candidates = candidates_of(pool, known)
            results["pairs"][name] = pair_queries(pair, values[:, known], candidates)
    return results


def pairs_of(quantities: list[Quantity]) -> list[tuple[Quantity, Quantity]]:
    """The pairs to combine: those of PAIRS, or if there are none all pairs, at most six."""
    by_name = {quantity.name: quantity for quantity in quantities}
    listed = [(by_name[a], by_name[b]) for a, b in PAIRS if a in by_name and b in by_name]
    return listed or list(itertools.combinations(quantities, 2))[: len(PAIRS)]
