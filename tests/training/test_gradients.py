"""Gradient caching gives the gradient of the full batch, on real batches of the bundled data."""

import functools

import jax
import numpy as np
import pytest

from clac_jax.errors import ConfigError
from clac_jax.input_pipeline.run_data import RunData
from clac_jax.models import abstract_variables, build_model
from clac_jax.models.encoders import encoder_needs
from clac_jax.training import optim
from clac_jax.training.gradients import GradientFunction
from clac_jax.training.losses import loss_options, make_loss
from configs import smoke

BATCH = 8
# Reduced optimization: everything runs once.
FAST = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
CASES = {
    "infonce": {},
    "jsd": {"loss.name": "jsd", "graph_encoder.name": "composition"},
}


def config_of(data_dir, **changes):
    """Two views of both, dropout, all the losses, and a part that is not trained."""
    config = smoke.get_config()
    config.dataset.data_dir = str(data_dir)
    config.dataset.max_examples = config.batch_size = BATCH
    config.text_encoder.max_length = 16
    config.augment.mask_prob, config.lm_weight = 0.3, 0.5
    config.graph_encoder.add_descriptors, config.structure_weight = True, 0.5
    config.text_encoder.numbers_at = (0,)
    config.frozen = ("text_encoder/position_embedding/.*",)
    config.update_from_flattened_dict(changes)
    return config


def run_data(data_dir, chunks):
    config = config_of(data_dir, gradient_cache_chunks=chunks)
    return RunData(config, encoder_needs(config))


@pytest.fixture(scope="module")
def batches(data_dir):
    """(chunks) -> one device's batch in that number of chunks, with the same examples."""

    @functools.cache
    def build(chunks):
        data = run_data(data_dir, chunks)
        batch = next(data.train_batches(0, 0))
        split = (BATCH,) if chunks == 1 else (chunks, BATCH // chunks)
        assert batch.example_mask.shape == (1, 1, *split)
        return jax.tree.map(lambda leaf: leaf[0, 0], batch)

    return build


# Slow with the default loss, whose runs in chunks are also those of `end_to_end/test_changes.py`.
@pytest.fixture(scope="module", params=[pytest.param("infonce", marks=pytest.mark.slow), "jsd"])
def setup(request, data_dir, batches):
    """(batch, axis_name) -> BatchGradient, and the gradient of the full batch."""
    config = config_of(data_dir, **CASES[request.param])
    model = build_model(config, vocab_size=30522)
    rng = np.random.default_rng(0)

    def random(path, x):
        width = x.shape[0] if x.ndim == 2 else 25
        is_scale = path[-1].key in ("scale", "log_scale", "var")
        return rng.normal(is_scale, width**-0.5, x.shape)

    variables = jax.tree.map_with_path(random, abstract_variables(model, batches(1)))
    trainable = optim.trainable_mask(variables["params"], config.frozen)

    def gradient_of(batch, axis_name=None):
        loss = make_loss(loss_options(config))
        function = GradientFunction(model.apply, loss, trainable, axis_name)
        call = functools.partial(function, variables["params"], variables["batch_stats"])
        if axis_name is not None:
            call = jax.vmap(call, (0, None), axis_name=axis_name)
        # In float64, because batch norm amplifies float32 rounding.
        batch = jax.tree.map(lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, batch)
        with jax.enable_x64(True):
            found = jax.jit(call, compiler_options=FAST)(batch, jax.random.key(7))
        return jax.tree.map(np.asarray, found)

    return gradient_of, gradient_of(batches(1))


def norm(tree):
    return np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree)))


def assert_same(found, expected):
    contrasts = {"cross_modal_loss", "visual_loss", "textual_loss"}
    assert expected.terms.keys() >= contrasts | {"lm_loss", "structure_loss"}
    for name, value in expected.terms.items():
        np.testing.assert_allclose(found.terms[name], value, rtol=1e-5, err_msg=name)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5),
        found.batch_stats,
        expected.batch_stats,
    )
    difference = jax.tree.map(np.subtract, found.grads, expected.grads)
    total = norm(expected.grads)
    assert norm(expected.grads["text_encoder"]["position_embedding"]) == 0  # not trained
    assert norm(difference) < 1e-6 * total
    for (path, leaf), error in zip(
        jax.tree.leaves_with_path(expected.grads), jax.tree.leaves(difference), strict=True
    ):
        # A gradient that is zero in exact arithmetic consists of rounding errors.
        assert norm(error) < 1e-6 * max(norm(leaf), 1e-6 * total), jax.tree_util.keystr(path)


@pytest.mark.parametrize("chunks", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_gradient_in_chunks_equals_that_of_the_batch(setup, batches, chunks):
    gradient_of, expected = setup
    assert_same(gradient_of(batches(chunks)), expected)


@pytest.mark.slow
@pytest.mark.parametrize("setup", ["jsd"], indirect=True)
def test_gradient_in_chunks_sums_over_devices(setup, batches):
    gradient_of, expected = setup
    devices = jax.tree.map(lambda leaf: leaf.reshape(2, 2, *leaf.shape[1:]), batches(4))
    found = gradient_of(devices, axis_name="data")
    of_first = jax.tree.map(lambda leaf: leaf[0], found)
    assert_same(
        of_first._replace(grads=jax.tree.map(lambda leaf: leaf.sum(0), found.grads)), expected
    )


def test_chunks_that_do_not_divide_a_devices_examples_are_refused(data_dir):
    with pytest.raises(ConfigError, match="Use one of 1, 2, 4, 8, or another batch_size"):
        run_data(data_dir, 3)
