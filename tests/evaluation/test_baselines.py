"""Baselines of property models on examples with a known answer."""

import numpy as np
from helpers.pools import records_of

from clac_jax.evaluation.baselines import element_fractions, nearest_class, ridge


def test_fractions_are_shares_of_the_atoms():
    (record,) = records_of(["H2O"])
    object.__setattr__(record, "atomic_numbers", np.array([1, 8, 1], np.int32))
    (row,) = element_fractions([record])
    assert row[0] == 2 / 3 and row[7] == 1 / 3 and row.sum() == 1.0


def test_ridge_recovers_a_linear_law_although_fractions_are_dependent():
    rng = np.random.default_rng(0)
    x = rng.dirichlet(np.ones(4), size=200)  # rows that sum to 1, and a column that never varies
    x = np.hstack([x, np.zeros((200, 1))])
    weights = np.array([1.0, -2.0, 0.5, 3.0, 7.0])
    predicted = ridge(x, x @ weights + 4.0, x[:20])
    np.testing.assert_allclose(predicted, x[:20] @ weights + 4.0, atol=1e-3)


def test_ridge_shrinks_to_the_mean_where_nothing_can_be_learned():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(60, 50)), rng.normal(3.0, 1.0, size=60)
    new = rng.normal(size=(500, 50))
    plain = new @ np.linalg.lstsq(x - x.mean(0), y - y.mean(), rcond=None)[0]
    assert np.std(ridge(x, y, new)) < 0.5 * np.std(plain)
    np.testing.assert_allclose(ridge(np.zeros((3, 2)), np.array([1.0, 2.0, 6.0]), new[:2, :2]), 3.0)


def test_the_penalty_is_that_of_the_smallest_leave_one_out_error():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(15, 6))
    y = x @ rng.normal(size=6) + rng.normal(size=15)
    new = rng.normal(size=(3, 6))

    def fit(x, y, new, penalty):
        center, mean = x.mean(axis=0), y.mean()
        a = (x - center).T @ (x - center) + penalty * np.eye(6)
        return mean + (new - center) @ np.linalg.solve(a, (x - center).T @ (y - mean))

    # Centred once, as the closed form is: leaving one out moves the center only a little.
    errors = {}
    for penalty in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0):
        left_out = [
            fit(np.delete(x, k, 0), np.delete(y, k), x[k : k + 1], penalty * 15)[0]
            for k in range(15)
        ]
        errors[penalty] = np.mean((left_out - y) ** 2)
    best = min(errors, key=errors.get)
    np.testing.assert_allclose(ridge(x, y, new), fit(x, y, new, best * 15), atol=1e-8)


def test_the_nearest_examples_vote_and_the_nearer_decide_ties():
    x = np.array([[0.0], [0.1], [1.0], [1.1], [1.2], [5.0]])
    y = np.array([2, 2, 0, 0, 0, 1])
    found = nearest_class(x, y, np.array([[0.05], [1.1], [4.9]]), k=3)
    np.testing.assert_array_equal(found, [2, 0, 0])  # two votes of three each
    np.testing.assert_array_equal(nearest_class(x, y, np.array([[4.0]]), k=2), [1])
