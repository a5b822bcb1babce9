"""Retrieval over a pool of crystals and their texts: ranks and summary accuracies."""

from __future__ import annotations

import numpy as np


def retrieval_ranks(similarity: np.ndarray) -> np.ndarray:
    """Rank (0 = first) of the correct candidate for each query.

    Args:
        similarity: (N, N) float; row = query, column = candidate, correct pairs on the diagonal.

    Returns:
        (N,) int64. Candidates that tie with the correct one rank ahead of it, so a model whose
        vectors have all collapsed to one point gets no credit.
    """
    right = np.diagonal(similarity)[:, None]
    ranks: np.ndarray = (similarity >= right).sum(axis=1) - 1
    return ranks


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
