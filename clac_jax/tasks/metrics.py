"""Retrieval over a pool of crystals and their texts: ranks and summary accuracies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ranks:
    """Where the correct candidate of each query is in the order by score.

    Candidates that have exactly its score could be listed before or after it. `fair` and `credit`
    take the mean over all these orders; `last` lists all of them before it. A score that is not a
    number is behind all others.

    Attributes:
        ahead: (N,) int64, number of candidates with a higher score.
        tied: (N,) int64, number of other candidates with the same score.
    """

    ahead: np.ndarray
    tied: np.ndarray

    @property
    def last(self) -> np.ndarray:
        """(N,) int64, 0 = first: ties go to the others, so collapsed vectors get no credit."""
        return np.asarray(self.ahead + self.tied)

    @property
    def fair(self) -> np.ndarray:
        """(N,) float64, 1 = first: the expected rank if ties are broken at random (mid-rank)."""
        return np.asarray(1.0 + self.ahead + self.tied / 2)

    def credit(self, k: int) -> np.ndarray:
        """(N,) float64: probability of being in the top k if ties are broken at random.

        It is 0 or 1 without ties. The mean over queries is the top-k accuracy; a model whose
        vectors have all collapsed to one point gets k / N, as chance does.
        """
        return np.asarray(np.clip((k - self.ahead) / (self.tied + 1), 0.0, 1.0))


def ranks_of(similarity: np.ndarray, correct: np.ndarray | None = None) -> Ranks:
    """The rank of the correct candidate for each query.

    Args:
        similarity: (N, M) float; row = query, column = candidate.
        correct: (N,) int column of each query's correct candidate; by default its own number.
    """
    rows = np.arange(len(similarity))
    right = similarity[rows, rows if correct is None else correct][:, None]
    others = similarity.shape[1] - 1
    # No comparison with NaN is true, which would put the correct candidate first.
    ahead = np.where(np.isnan(right[:, 0]), others, (similarity > right).sum(axis=1))
    level = (similarity == right).sum(axis=1) - 1
    return Ranks(ahead, np.maximum(level, 0))


def retrieval_ranks(similarity: np.ndarray) -> np.ndarray:
    """Rank (0 = first) of the correct candidate for each query.

    Args:
        similarity: (N, N) float; row = query, column = candidate, correct pairs on the diagonal.

    Returns:
        (N,) int64. Candidates that tie with the correct one rank ahead of it, so a model whose
        vectors have all collapsed to one point gets no credit.
    """
    return ranks_of(similarity).last


def top_k_accuracies(ranks: np.ndarray, ks: tuple[int, ...] = (1, 3, 10)) -> dict[str, float]:
    """The share of queries whose correct candidate is in the top k, as {"top1": ...}."""
    return {f"top{k}": float(np.mean(ranks < k)) for k in ks}


def pool_metrics(similarity: np.ndarray, suffix: str = "") -> dict[str, float]:
    """Retrieval accuracies over an entire pool, in both directions.

    Args:
        similarity: (N, N) score of each text (row) with each crystal (column), in the same order.
        suffix: appended to each name ("_no_formula").

    Returns:
        `text_to_crystal_top1`, `_top3`, `_top10` and `crystal_to_text_top1`, `_top3`, `_top10`.
    """
    both = {"text_to_crystal": similarity, "crystal_to_text": similarity.T}
    return {
        f"{direction}_{name}{suffix}": accuracy
        for direction, matrix in both.items()
        for name, accuracy in top_k_accuracies(retrieval_ranks(matrix)).items()
    }
