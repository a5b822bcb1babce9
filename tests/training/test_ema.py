"""The average of the parameters, updated by the step that updates these."""

import jax
import numpy as np
import optax
import pytest

from clac_jax.config.schema import default_config
from clac_jax.training.ema import Averaging
from clac_jax.training.state import create_train_state, with_average

PARAMS = {"trained": np.float32([1.0, 2.0]), "frozen": np.float32([5.0])}
TRAINABLE = {"trained": True, "frozen": False}


def make_state(averaging):
    tx = optax.masked(optax.sgd(0.5), TRAINABLE)
    state = create_train_state(None, {"params": PARAMS}, tx, seed=0)
    return with_average(state, averaging, TRAINABLE)


def steps(state, count):
    """The state after some steps, and the trained parameters after each."""
    grads, history = {"trained": np.float32([1.0, -1.0]), "frozen": np.float32([0.0])}, []
    step = jax.jit(lambda state: state.apply_gradients(grads=grads))
    for _ in range(count):
        state = step(state)
        history.append(np.asarray(state.params["trained"]))
    return state, history


def test_each_step_adds_a_share_of_the_parameters():
    state, history = steps(make_state(Averaging(0.75, warmup=False)), 3)
    expected = PARAMS["trained"]
    for params in history:
        expected = 0.75 * expected + 0.25 * params
    np.testing.assert_allclose(state.ema["trained"], expected, rtol=1e-6)


def test_the_warmup_forgets_the_first_parameters_soon():
    state, history = steps(make_state(Averaging(0.75, warmup=True)), 2)
    expected = 0.1 * PARAMS["trained"] + 0.9 * history[0]
    expected = 2 / 11 * expected + 9 / 11 * history[1]
    np.testing.assert_allclose(state.ema["trained"], expected, rtol=1e-6)


def test_frozen_parameters_are_not_averaged():
    state, _ = steps(make_state(Averaging(0.9)), 1)
    assert [leaf.shape for leaf in jax.tree.leaves(state.ema)] == [(2,)]
    evaluated = state.evaluated(use_average=True)
    np.testing.assert_array_equal(evaluated.params["frozen"], PARAMS["frozen"])
    np.testing.assert_array_equal(evaluated.params["trained"], state.ema["trained"])
    assert evaluated.ema is None


def test_the_parameters_are_evaluated_if_the_average_is_not():
    state, history = steps(make_state(Averaging(0.9)), 1)
    np.testing.assert_array_equal(state.evaluated(use_average=False).params["trained"], history[0])
    plain = make_state(None)
    assert plain.evaluated(use_average=True).params is plain.params


def test_averaging_moves_no_bit_of_the_parameters():
    averaged, _ = steps(make_state(Averaging(0.9)), 3)
    plain, _ = steps(make_state(None), 3)
    np.testing.assert_array_equal(averaged.params["trained"], plain.params["trained"])


@pytest.mark.parametrize("decay, expected", [(0.0, None), (0.9, Averaging(0.9, True))])
def test_a_decay_of_zero_averages_nothing(decay, expected):
    options = default_config().ema
    options.decay = decay
    assert Averaging.from_config(options) == expected


def test_a_state_without_an_average_has_the_leaves_that_it_always_had():
    names = {str(path[0]) for path, _ in jax.tree.leaves_with_path(make_state(None))}
    assert ".ema" not in names
