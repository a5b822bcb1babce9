"""Means of arrays, weights, and the greedy choice against a reckoning by hand."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from clac_jax.surgery.mixing import Mean, decaying_weights, greedy_soup, normalized


def mean_of(arrays, weights):
    mean = Mean(arrays[0], weights[0])
    for array, weight in zip(arrays[1:], weights[1:], strict=True):
        mean.add(array, weight)
    return mean.result()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, jnp.bfloat16])
def test_a_mean_is_numpys_in_float64_rounded_once(dtype):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(5, 3)).astype(dtype) for _ in range(4)]
    weights = normalized([0.1, 0.2, 3.0, 0.7])
    wide = [array.astype(np.float64) for array in arrays]
    expected = sum(w * a for w, a in zip(weights, wide, strict=True)).astype(dtype)
    result = mean_of(arrays, weights)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, expected)


def test_small_terms_are_not_lost_next_to_large_ones():
    arrays = [np.float32([1e8]), *[np.float32([1.0])] * 100]
    naive = np.float32(1e8)
    for one in arrays[1:]:
        naive += one[0]
    result = mean_of(arrays, [1 / 101] * 101)
    assert naive == np.float32(1e8), "what float32 would give"
    assert result[0] == np.float32((1e8 + 100) / 101)


def test_the_arrays_given_are_not_changed():
    arrays = [np.float64([1.0]), np.float64([3.0])]
    assert mean_of(arrays, [0.5, 0.5]) == 2.0
    assert [array[0] for array in arrays] == [1.0, 3.0]


def test_equal_arrays_stay_bit_for_bit():
    special = np.array([-0.0, np.nan, np.inf, 0.1, 5e-324])
    third = [special.copy() for _ in range(3)]
    assert mean_of(third, [1 / 3] * 3).tobytes() == special.tobytes()
    other = special.copy()
    other[0] = 0.0  # a different bit
    assert mean_of([special, other], [0.5, 0.5]).tobytes() != special.tobytes()


def test_whole_numbers_have_a_mean_only_if_they_are_equal():
    counts = np.int32([3, 4])
    assert mean_of([counts, counts.copy()], [0.5, 0.5]).tolist() == [3, 4]
    with pytest.raises(ValueError, match="int32 differ"):
        mean_of([counts, counts + 1], [0.5, 0.5])


def test_weights_add_up_to_one():
    assert normalized([1, 3]) == (0.25, 0.75)
    assert normalized([1e308, 1e308]) == (0.5, 0.5)
    assert normalized([5e-324, 5e-324]) == (0.5, 0.5)
    for wrong in ([0.0, 0.0], [-1.0, 2.0], [float("nan"), 1.0], [float("inf"), 1.0], []):
        with pytest.raises(ValueError, match="at least 0, and not all 0"):
            normalized(wrong)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 1.0])
def test_decaying_weights_are_the_recursion_of_an_exponential_average(decay):
    values = np.array([1.0, -2.0, 5.0, 0.25])
    average = values[0]
    for value in values[1:]:
        average = decay * average + (1 - decay) * value
    weights = decaying_weights(decay, len(values))
    assert np.isclose(sum(weights), 1.0)
    assert np.isclose(np.dot(weights, values), average)


def test_a_decay_outside_0_to_1_is_refused():
    with pytest.raises(ValueError, match="from 0 to 1"):
        decaying_weights(1.5, 3)


# The value of an average is that of the nearest to a target: greedy can be followed by hand.
MODELS = np.array([0.9, 1.4, -3.0, 0.5, 1.0])


def value_of(numbers, sign):
    return sign * -abs(float(np.mean(MODELS[list(numbers)])) - 1.02)


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::5])
def test_a_greedy_soup_is_what_the_definition_says(mode, order):
    sign = 1.0 if mode == "max" else -1.0
    names = list(order)

    def value(numbers):
        return value_of([names[k] for k in numbers], sign)

    own = [value([k]) for k in range(len(names))]
    # By the definition, written out: sort, then add what does not make it worse.
    expected, best = [], None
    for k in sorted(range(len(names)), key=lambda k: -sign * own[k]):
        candidate = value([*expected, k])
        if best is None or sign * candidate >= sign * best:
            expected, best = [*expected, k], candidate
    tried = greedy_soup(own, value, mode)
    assert [each.number for each in tried if each.is_kept] == expected
    assert len({each.number for each in tried}) == len(names)
    assert tried[0].is_kept and tried[0].together == tried[0].own_value
    for each in tried:
        assert each.own_value == own[each.number]


def test_a_soup_that_only_gets_worse_has_one_ingredient():
    tried = greedy_soup([0.5, 0.7, 0.6], lambda numbers: 0.1 * len(numbers), "max")
    assert [(each.number, each.is_kept) for each in tried] == [(1, True), (2, False), (0, False)]


def test_equal_candidates_are_tried_in_the_order_given_and_equal_averages_are_kept():
    tried = greedy_soup([0.5, 0.7, 0.7, 0.5], lambda numbers: 0.7, "max")
    assert [each.number for each in tried] == [1, 2, 0, 3]
    assert all(each.is_kept for each in tried)


def test_candidates_that_are_not_a_number_are_tried_last_and_left_out():
    nan = float("nan")
    tried = greedy_soup([nan, 0.2], lambda numbers: nan, "min")
    assert [(each.number, each.is_kept) for each in tried] == [(1, True), (0, False)]
    with pytest.raises(ValueError, match="no candidate has a finite value"):
        greedy_soup([nan, nan], lambda numbers: 0.0, "min")
