"""Exact search by blocks, compared with sorting all scores in float64."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clac_jax.index.exact import MAX_QUERIES, ExactSearch

DIM = 4
BLOCK = 8


def scores_of(vectors, query):
    """Products in float64 with the vectors divided by their lengths."""
    wide = vectors.astype(np.float64)
    return wide @ query.astype(np.float64) / np.maximum(np.linalg.norm(wide, axis=1), 1e-6)


def brute_force(vectors, query, k, mask):
    scores = scores_of(vectors, query).astype(np.float32)
    order = sorted(np.flatnonzero(mask), key=lambda row: (-scores[row], row))[:k]
    return order, scores[order]


@st.composite
def cases(draw):
    """Shards, queries and a mask; small multiples of 1/8, so that ties are frequent and exact."""
    sizes = draw(st.lists(st.integers(1, 30), min_size=1, max_size=3))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    shards = [(rng.integers(-2, 3, (n, DIM)) / 8).astype(np.float16) for n in sizes]
    queries = (rng.integers(-2, 3, (draw(st.integers(1, 4)), DIM)) / 8).astype(np.float32)
    mask = rng.random(sum(sizes)) < draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    return shards, queries, draw(st.integers(1, 40)), mask


@settings(max_examples=60, deadline=None)
@given(cases(), st.booleans())
def test_the_best_rows_are_those_of_a_full_sort(case, is_masked):
    shards, queries, k, mask = case
    vectors = np.concatenate(shards)
    top = ExactSearch(shards, BLOCK).top(queries, k, mask if is_masked else None)
    assert top.rows.shape == top.scores.shape == (len(queries), k)
    allowed = mask if is_masked else np.ones(len(vectors), bool)
    for number, query in enumerate(queries):
        rows, scores = brute_force(vectors, query, k, allowed)
        np.testing.assert_array_equal(top.rows[number, : len(rows)], rows)
        np.testing.assert_array_equal(top.scores[number, : len(rows)], scores)
        assert (top.rows[number, len(rows) :] == -1).all()
        assert (top.scores[number, len(rows) :] == -np.inf).all()


@settings(max_examples=30, deadline=None)
@given(cases())
def test_rows_above_a_score_are_counted(case):
    shards, queries, _, _ = case
    vectors = np.concatenate(shards)
    scores = np.stack([scores_of(vectors, query) for query in queries])
    counted = ExactSearch(shards, BLOCK).count_above(queries, scores[:, :3].astype(np.float32))
    expected = (scores[:, :, None] > scores[:, None, :3] + 1e-6).sum(axis=1)
    np.testing.assert_array_equal(counted, expected)


def unit_vectors(n, dim=64, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(n, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def test_a_score_depends_on_its_row_and_the_query_only():
    vectors = unit_vectors(500)
    queries = unit_vectors(3, seed=1).astype(np.float32)
    together = ExactSearch([vectors], 512).top(queries, 20)
    for shards, block in (([vectors[:123], vectors[123:]], 64), ([vectors], 16)):
        parts = ExactSearch(shards, block).top(queries, 20)
        np.testing.assert_array_equal(parts.rows, together.rows)
        np.testing.assert_array_equal(parts.scores, together.scores)


def test_equal_vectors_are_in_the_order_of_their_rows():
    vectors = np.tile(unit_vectors(1), (100, 1))
    top = ExactSearch([vectors[:37], vectors[37:]], 16).top(vectors[:1].astype(np.float32), 7)
    assert top.rows.tolist() == [list(range(7))]


def test_any_number_of_queries():
    vectors = unit_vectors(50)
    queries = vectors[: MAX_QUERIES + 9].astype(np.float32)
    top = ExactSearch([vectors]).top(queries, 1)
    assert top.rows[:, 0].tolist() == list(range(MAX_QUERIES + 9))
    above = ExactSearch([vectors]).count_above(queries, top.scores)
    assert (above == 0).all() and above.shape == (MAX_QUERIES + 9, 1)


def test_shards_on_disk_are_searched_and_read_by_row(tmp_path):
    vectors = unit_vectors(70)
    np.save(tmp_path / "a.npy", vectors)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    search = ExactSearch([mapped[:40], mapped[40:]], 16)
    query = vectors[55].astype(np.float32)
    assert search.top(query[None], 1).rows.tolist() == [[55]]
    np.testing.assert_allclose(search.scores(query), scores_of(vectors, query), atol=1e-6)
    rows = np.array([69, 0, 41, 0])
    np.testing.assert_allclose(search.vectors(rows), vectors[rows], atol=2e-4)
    np.testing.assert_allclose(np.linalg.norm(search.vectors(rows), axis=1), 1, atol=1e-6)


def test_the_rounding_of_stored_vectors_does_not_change_their_length():
    vectors = unit_vectors(200)
    vectors[7] = 0
    search, wide = ExactSearch([vectors], 64), vectors.astype(np.float64)
    assert np.abs(np.linalg.norm(np.delete(wide, 7, 0), axis=1) - 1).max() > 1e-5
    own = search.vectors(np.arange(200))
    top = search.top(own, 1)
    assert np.delete(top.rows[:, 0], 7).tolist() == [*range(7), *range(8, 200)]
    np.testing.assert_allclose(np.delete(top.scores[:, 0], 7), 1, atol=2e-7)
    assert not own[7].any() and search.scores(own[0])[7] == 0


def test_all_devices_take_part(monkeypatch):
    used = []
    put = jax.device_put

    def recorded(value, device):
        used.append(device)
        return put(value, jax.devices()[0])

    monkeypatch.setattr(jax, "device_put", recorded)
    search = ExactSearch([unit_vectors(64)], 16)
    search._devices = ["first", "second"]
    search.top(unit_vectors(1).astype(np.float32), 3)
    assert used[2:] == ["first", "second"] * 2  # the first two receive the queries


@pytest.mark.parametrize("shards", [[], [np.zeros((2, 3)), np.zeros((2, 4))]])
def test_shards_that_do_not_fit_together(shards):
    with pytest.raises(ValueError, match="of the same dimension"):
        ExactSearch(shards)
