"""Retrieval over a pool of crystals and their texts: ranks and their summaries."""

from __future__ import annotations

import numpy as np


def retrieval_ranks(similarity: np.ndarray) -> np.ndarray:
    """Rank (0 = first) of the right candidate for each query.

    Args:
        similarity: (N, N) float; row = query, column = candidate, the right one on the diagonal.

    Returns:
        (N,) int64. Candidates that score exactly like the right one count as before it, so that a
        model whose vectors have collapsed to one point scores nothing.
    """
    right = np.diagonal(similarity)[:, None]
    return np.asarray(np.sum(similarity >= right, axis=1) - 1)


def top_k_accuracies(ranks: np.ndarray, ks: tuple[int, ...] = (1, 3, 10)) -> dict[str, float]:
    """The share of queries whose right candidate is among the first k, as {"top1": ...}."""
    return {f"top{k}": float(np.mean(ranks < k)) for k in ks}


def pool_metrics(similarity: np.ndarray, suffix: str = "") -> dict[str, float]:
    """Both-way retrieval accuracies over a whole pool.

    Args:
        similarity: (N, N) score of each text (row) with each crystal (column), same order.
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
