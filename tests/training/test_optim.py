"""Optimizers, weight decay, learning-rate factors and frozen parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clac_jax.config.schema import default_config
from clac_jax.errors import ConfigError
from clac_jax.training import optim
from clac_jax.training.schedules import Timeline, make_schedule


@pytest.fixture(scope="module")
def params():
    return {
        "graph": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
        "text": {"kernel": jnp.ones((4, 4))},
    }


@pytest.fixture(scope="module")
def grads(params):
    return jax.tree.map(lambda leaf: 0.1 * jnp.arange(leaf.size).reshape(leaf.shape), params)


def updated(config, params, grads, steps=3):
    tx = optim.make_optimizer(config, params, make_schedule(config, Timeline(10, 5)))
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


def config(**changes):
    result = default_config()
    result.learning_rate = 0.1
    result.gradient_clip = 0.0
    for key, value in changes.items():
        result[key] = value
    return result


def assert_equal(left, right):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), left, right)


def test_is_adamw(params, grads):
    ours = updated(config(weight_decay=0.3), params, grads)
    tx = optax.adamw(0.1, weight_decay=0.3, mask=lambda p: jax.tree.map(lambda a: a.ndim > 1, p))
    state = tx.init(params)
    for _ in range(3):
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert_equal(ours, params)


def test_frozen_parameters_do_not_move_and_have_no_state(params, grads):
    frozen = config(frozen=("text/.*",), weight_decay=0.1)
    tx = optim.make_optimizer(frozen, params, lambda _: 0.1)
    assert all(leaf.shape != (4, 4) for leaf in jax.tree.leaves(tx.init(params)))
    trainable = optim.trainable_mask(params, frozen.frozen)
    grads = jax.tree.map(lambda g, keep: g * keep, grads, trainable)  # as passed by the step
    updates, _ = tx.update(grads, tx.init(params), params)
    assert not np.any(updates["text"]["kernel"])
    assert np.any(updates["graph"]["kernel"])


def test_learning_rate_factors_scale_the_first_match(params, grads):
    factors = config()
    factors.optimizer.learning_rate_factors = (("text/.*", 0.5), (".*kernel", 0.0))
    scaled, plain = (updated(changed, params, grads) for changed in (factors, config()))
    np.testing.assert_allclose(
        scaled["text"]["kernel"] - 1, 0.5 * (plain["text"]["kernel"] - 1), rtol=1e-5
    )
    np.testing.assert_array_equal(scaled["graph"]["kernel"], params["graph"]["kernel"])
    np.testing.assert_array_equal(scaled["graph"]["bias"], plain["graph"]["bias"])


@pytest.mark.parametrize("key", ["frozen", "learning_rate_factors", "weight_decays"])
def test_a_pattern_that_matches_nothing_is_refused(key, params):
    changed = config()
    if key == "frozen":
        changed.frozen = ("txt/.*",)
    else:
        changed.optimizer[key] = (("txt/.*", 0.1),)
    with pytest.raises(ConfigError, match=r"'txt/\.\*'.*matches no parameter"):
        optim.make_optimizer(changed, params, lambda _: 0.1)


def test_weight_decay_by_path(params):
    by_path = config(weight_decay=0.3)
    by_path.optimizer.weight_decays = (("text/.*", 0.0), (".*bias", 0.2))
    zeros = jax.tree.map(jnp.zeros_like, params)
    tx = optim.make_optimizer(by_path, params, lambda _: 0.1)
    updates, _ = tx.update(zeros, tx.init(params), params)
    np.testing.assert_allclose(updates["graph"]["kernel"], -0.1 * 0.3, rtol=1e-6)
    np.testing.assert_allclose(updates["graph"]["bias"], -0.1 * 0.2, rtol=1e-6)
    np.testing.assert_array_equal(updates["text"]["kernel"], 0)
