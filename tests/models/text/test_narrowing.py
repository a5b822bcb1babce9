"""Pretrained text encoders with narrower perceptrons."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from helpers.small_models import small_config

from clac_jax.models import ModelError, build_model
from clac_jax.models.encoders import text_settings
from clac_jax.models.text.narrowing import with_fewer_units


def random_params(rng):
    """Parameters of two perceptrons and of something else, as float32."""
    shapes = {
        "layer_0_intermediate": {"kernel": (8, 16), "bias": (16,)},
        "layer_0_output": {"kernel": (16, 8), "bias": (8,)},
        "layer_1_intermediate": {"kernel": (8, 16), "bias": (16,)},
        "layer_1_output": {"kernel": (16, 8), "bias": (8,)},
        "layer_1_output_norm": {"scale": (8,)},
    }
    draw = lambda shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return jax.tree.map(draw, shapes, is_leaf=lambda x: isinstance(x, tuple))


def perceptron(params, layer, x):
    """tanh in place of GELU: the order and the number of the units are what is tested."""
    into, out = params[f"layer_{layer}_intermediate"], params[f"layer_{layer}_output"]
    return np.tanh(x @ into["kernel"] + into["bias"]) @ out["kernel"] + out["bias"]


def test_units_without_weights_go_first_and_nothing_else_changes():
    rng = np.random.default_rng(0)
    params, x = random_params(rng), rng.normal(size=(5, 8)).astype(np.float32)
    for layer, empty in ((0, [1, 4, 15]), (1, [0, 7, 8])):
        params[f"layer_{layer}_output"]["kernel"][empty] = 0
    before = jax.tree.map(np.copy, params)
    narrow = with_fewer_units(params, 13)
    jax.tree.map(np.testing.assert_array_equal, params, before)
    for layer in (0, 1):
        assert narrow[f"layer_{layer}_intermediate"]["kernel"].shape == (8, 13)
        assert narrow[f"layer_{layer}_output"]["kernel"].shape == (13, 8)
        expected = perceptron(params, layer, x)
        np.testing.assert_allclose(perceptron(narrow, layer, x), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(
        narrow["layer_1_output_norm"]["scale"], params["layer_1_output_norm"]["scale"]
    )


def test_all_units_are_the_encoder_itself():
    params = random_params(np.random.default_rng(1))
    jax.tree.map(np.testing.assert_array_equal, with_fewer_units(params, 16), params)


def test_more_units_than_there_are_is_refused():
    config = small_config(**{"text_encoder.feed_forward_units": 5000})
    with pytest.raises(ModelError, match=r"feed_forward_units = 5000 is more .* Lower it, or"):
        text_settings(config, vocab_size=100)


def test_gemma_cannot_be_narrowed():
    changes = {"text_encoder.config.model_type": "gemma3_text"}
    config = small_config(**changes, **{"text_encoder.feed_forward_units": 4})
    with pytest.raises(ModelError, match="this kind of encoder cannot be narrowed"):
        build_model(config, vocab_size=100)
