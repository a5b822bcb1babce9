"""Retrieval: where the matching crystal of a text is among all crystals, and the reverse."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from clac_jax.evaluation.intervals import Estimate, Resampling, bootstrap
from clac_jax.evaluation.pool import Pool
from clac_jax.tasks.metrics import Ranks, ranks_of

KS = (1, 3, 5, 10)
REFERENCE_POOL, REFERENCE_KS = 512, (1, 3, 10)
REFERENCE_RESAMPLING = Resampling(resamples=1000, seed=42)

VARIANTS = {
    "text_to_crystal": "text → crystal",
    "crystal_to_text": "crystal → text",
    "text_to_crystal_no_formula": "text → crystal, no formula",
    "crystal_to_text_no_formula": "crystal → text, no formula",
}
"""Direction and kind of text -> the words for it. "No formula": each formula reads "material"."""

ERRORS = {
    "same_formula": "polymorph: the same formula",
    "same_elements": "the same elements in other proportions",
    "shared_element": "at least one common element",
    "no_shared_element": "no common element",
}


@dataclass(frozen=True)
class Polymorphs:
    """Ranks within the groups of crystals of the same formula.

    Attributes:
        queries: (m,) int, the examples that share their formula with a different example.
        sizes: (m,) int, number of crystals of that formula.
        ranks: rank of the own crystal of each text among them.
    """

    queries: np.ndarray
    sizes: np.ndarray
    ranks: Ranks


def pool_ranks(pool: Pool) -> dict[str, Ranks]:
    """The ranks in the entire pool, for each of VARIANTS."""
    return {
        name: _all_ranks(pool, texts_of(pool, name), name.startswith("text_to_crystal"))
        for name in VARIANTS
    }


def formula_ranks(pool: Pool, texts: np.ndarray) -> Ranks:
    """For each text, the rank of the first crystal that has the right reduced formula.

    Only crystals of other formulas can be ahead of it or tie with it.
    """
    formula = np.unique(pool.formulas, return_inverse=True)[1]
    ahead, tied = np.zeros(len(pool), np.int64), np.zeros(len(pool), np.int64)
    for block, scores in pool.score_blocks(texts):
        is_right = formula[block][:, None] == formula
        best = np.where(is_right, scores, -np.inf).max(axis=1, keepdims=True)
        ahead[block] = ((scores > best) & ~is_right).sum(axis=1)
        tied[block] = ((scores == best) & ~is_right).sum(axis=1)
    return Ranks(ahead, tied)


def reference_ranks(pool: Pool) -> tuple[Ranks, list[int]]:
    """The reference's protocol: ranks of crystals for texts, in pools of 512 in order.

    Returns:
        The rank in its own pool for each example, and the sizes of the pools, of which the last
        can be smaller.
    """
    parts, sizes = [], []
    for start in range(0, len(pool), REFERENCE_POOL):
        part = slice(start, start + REFERENCE_POOL)
        parts.append(ranks_of(pool.model.scores(pool.texts[part], pool.crystals[part])))
        sizes.append(len(parts[-1].ahead))
    ahead, tied = (np.concatenate([getattr(p, name) for p in parts]) for name in ("ahead", "tied"))
    return Ranks(ahead, tied), sizes


def polymorph_ranks(pool: Pool, texts: np.ndarray) -> Polymorphs | None:
    """For each text whose formula several crystals have: the rank of its own among these.

    Returns:
        None if all formulas are different.
    """
    members: dict[str, list[int]] = {}
    for number, formula in enumerate(pool.formulas):
        members.setdefault(formula, []).append(number)
    groups = [np.array(group) for group in members.values() if len(group) > 1]
    if not groups:
        return None
    ranks = [ranks_of(pool.model.scores(texts[g], pool.crystals[g])) for g in groups]
    return Polymorphs(
        queries=np.concatenate(groups),
        sizes=np.concatenate([np.full(len(group), len(group)) for group in groups]),
        ranks=Ranks(*(np.concatenate([getattr(r, n) for r in ranks]) for n in ("ahead", "tied"))),
    )


def first_crystals(pool: Pool, texts: np.ndarray) -> np.ndarray:
    """(n,) int64: the crystal with the highest score for each text; of equals, the earliest."""
    parts = [scores.argmax(axis=1) for _, scores in pool.score_blocks(texts)]
    return np.concatenate(parts)


def kinds_of_errors(pool: Pool, first: np.ndarray) -> dict[str, int]:
    """Relations of the crystals that texts rank first to the right ones, where they differ.

    Returns:
        Number of texts by relation: `same_formula` (a polymorph), `same_elements` (with another
        formula), `shared_element` (at least one) and `no_shared_element`.
    """
    elements = [frozenset(map(int, record.atomic_numbers)) for record in pool.records]
    counts = dict.fromkeys(ERRORS, 0)
    for own, found in enumerate(first):
        if own == found:
            continue
        if pool.formulas[own] == pool.formulas[found]:
            counts["same_formula"] += 1
        elif elements[own] == elements[found]:
            counts["same_elements"] += 1
        elif elements[own] & elements[found]:
            counts["shared_element"] += 1
        else:
            counts["no_shared_element"] += 1
    return counts


def summarize(ranks: Ranks, how: Resampling, ks: tuple[int, ...] = KS) -> dict[str, Estimate]:
    """`top1`, ..., `median_rank` and `mean_rank` (1 = first), each with its interval."""
    estimates = {f"top{k}": mean_of(ranks.credit(k), how) for k in ks}
    return estimates | {
        "median_rank": bootstrap(ranks.fair, np.median, how.groups, how.resamples, how.seed),
        "mean_rank": mean_of(ranks.fair, how),
    }


def chance(pool_size: int, ks: tuple[int, ...] = KS) -> dict[str, float]:
    """The average result of random scores in a pool of this size."""
    middle = (pool_size + 1) / 2
    return {f"top{k}": min(k, pool_size) / pool_size for k in ks} | {
        "median_rank": middle,
        "mean_rank": middle,
    }


def chance_of_formula(formulas: list[str], k: int) -> float:
    """Probability that k crystals drawn at random include one of the right formula, mean."""
    n = len(formulas)
    counts = Counter(formulas)
    draws = np.arange(min(k, n))
    missed = {
        size: float(np.prod((n - size - draws).clip(0) / (n - draws)))
        for size in set(counts.values())
    }
    return float(np.mean([1 - missed[counts[formula]] for formula in formulas]))


def mean_of(values: np.ndarray, how: Resampling) -> Estimate:
    """The mean of (n,) values with its interval."""
    return bootstrap(values, None, how.groups, how.resamples, how.seed)


def texts_of(pool: Pool, name: str) -> np.ndarray:
    """(n, d) the vectors of the texts of a variant: without formulas if its name ends so."""
    return pool.texts_no_formula if name.endswith("_no_formula") else pool.texts


def _all_ranks(pool: Pool, texts: np.ndarray, queries_are_texts: bool) -> Ranks:
    parts = [
        ranks_of(scores, np.arange(len(pool))[block])
        for block, scores in pool.score_blocks(texts, queries_are_texts)
    ]
    return Ranks(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("ahead", "tied")))
