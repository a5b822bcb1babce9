"""The step on real batches of the bundled data, on one device."""

import jax
import numpy as np
import pytest

from clac_jax.input_pipeline.run_data import RunData
from clac_jax.models import build_model, init_variables
from clac_jax.models.encoders import encoder_needs
from clac_jax.training import optim
from clac_jax.training.losses import make_loss
from clac_jax.training.schedules import Timeline, make_schedule
from clac_jax.training.state import create_train_state
from clac_jax.training.step import make_train_step
from configs import smoke


@pytest.fixture(scope="module")
def setup(data_dir):
    config = smoke.get_config()
    config.dataset.data_dir = str(data_dir)
    config.dataset.max_examples = 8
    config.graph_encoder.name = "composition"  # compiles fastest
    data = RunData(config, encoder_needs(config))
    model = build_model(config, data.vocab_size)
    variables = init_variables(model, config, data.example_batch())
    schedule = make_schedule(config, Timeline(10, 5))
    tx = optim.make_optimizer(config, variables["params"], schedule)
    trainable = optim.trainable_mask(variables["params"], config.frozen)
    state = create_train_state(model.apply, variables, tx, config.seed)
    step = jax.jit(make_train_step(trainable, schedule, make_loss(), axis_name=None))
    batch = jax.tree.map(lambda leaf: leaf[0], next(data.train_batches(0, 0)))  # no device axis
    return state, step, batch, trainable


def test_trains_what_is_trainable_and_nothing_else(setup):
    state, step, batch, trainable = setup
    after, metrics = step(state, batch)
    assert int(after.step) == 1
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), state.params, after.params)
    frozen_moved = jax.tree.map(lambda m, t: m and not t, moved, trainable)
    assert not any(jax.tree.leaves(frozen_moved))
    assert np.mean(jax.tree.leaves(moved)) > 0.5
    np.testing.assert_array_equal(after.key, state.key)
    terms = metrics["cross_modal_loss"] + metrics["visual_loss"] + metrics["textual_loss"]
    assert float(metrics["loss"]) == pytest.approx(float(terms), rel=1e-6)
    assert float(metrics["grad_norm"]) > 0


def test_accumulating_one_batch_twice_is_the_step_of_one(setup):
    state, step, batch, _ = setup
    twice = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf]), batch)
    once, metrics = step(state, batch)
    both, metrics_both = step(state, twice)
    # Adam divides by the gradient's magnitude, which amplifies tiny differences of tiny gradients:
    # compare the first moments, which are the gradients.
    for name in ("loss", "grad_norm"):
        assert float(metrics_both[name]) == pytest.approx(float(metrics[name]), rel=1e-4)
    left, right = (jax.tree.leaves(s.opt_state) for s in (once, both))
    for a, b in zip(left, right, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-6)
    # Batch statistics see both batches, one after the other.
    assert any(
        np.any(a != b)
        for a, b in zip(
            jax.tree.leaves(once.batch_stats), jax.tree.leaves(both.batch_stats), strict=True
        )
    )
