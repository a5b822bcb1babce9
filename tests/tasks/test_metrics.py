"""Retrieval metrics on small examples."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clac_jax.tasks.metrics import pool_metrics, ranks_of, retrieval_ranks


@given(hnp.arrays(np.float64, st.integers(1, 8).map(lambda n: (n, n)), elements=st.floats(-1, 1)))
def test_ranks_equal_a_sort_by_hand(similarity):
    for query, rank in enumerate(retrieval_ranks(similarity)):
        others = np.delete(similarity[query], query)
        assert rank == np.sum(others >= similarity[query, query])


def test_directions_are_not_mixed_up():
    # Both texts are nearest to crystal 0; each crystal is nearest to its own text.
    crystals = np.array([[1.0, 0.0], [0.0, 1.0]])
    texts = np.array([[1.0, 0.0], [0.8, 0.6]])
    metrics = pool_metrics(texts @ crystals.T)
    assert metrics["text_to_crystal_top1"] == 0.5
    assert metrics["crystal_to_text_top1"] == 1.0
    assert metrics["text_to_crystal_top3"] == 1.0


def test_collapsed_vectors_score_nothing():
    same = np.ones((20, 3)) / np.sqrt(3)
    assert pool_metrics(same @ same.T)["text_to_crystal_top10"] == 0.0


def test_scores_that_are_not_numbers_earn_nothing():
    similarity = np.eye(50)
    assert pool_metrics(similarity)["text_to_crystal_top1"] == 1.0
    similarity[2] = similarity[:, 2] = np.nan  # one example
    metrics = pool_metrics(similarity)
    assert retrieval_ranks(similarity).tolist() == [0, 0, 49, *[0] * 47]
    assert metrics["text_to_crystal_top1"] == metrics["crystal_to_text_top10"] == 49 / 50
    assert set(pool_metrics(np.full((50, 50), np.nan)).values()) == {0.0}
    ranks = ranks_of(similarity)
    assert ranks.fair[2] == 50 and ranks.credit(10)[2] == 0
