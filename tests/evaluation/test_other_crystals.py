"""The crystals that take another's place."""

import numpy as np
import pytest

from clac_jax.evaluation.other_crystals import derangements, rng_of


@pytest.mark.parametrize("count", [2, 3, 10, 632])
def test_no_crystal_keeps_its_place_or_gets_a_partner_twice(count):
    orders = derangements(count, 10, "questions")
    assert len(orders) == min(10, count - 1)
    for order in orders:
        assert sorted(order) == list(range(count))
        assert (order != np.arange(count)).all()
    for partners in orders.T:
        assert len(set(partners)) == len(orders)


@pytest.mark.parametrize("count", [0, 1])
def test_a_single_crystal_has_no_other(count):
    assert derangements(count, 10, "questions").shape == (0, count)


def test_the_same_purpose_has_the_same_reorderings():
    np.testing.assert_array_equal(derangements(20, 3, "a"), derangements(20, 3, "a"))
    assert (derangements(20, 3, "a") != derangements(20, 3, "b")).any()
    assert rng_of("a").random() == rng_of("a").random() != rng_of("a", seed=1).random()
