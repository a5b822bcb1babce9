"""Adapters of text encoders: their names, the function before the first step, merging, freezing."""

import dataclasses
import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.small_models import batch_of, examples, random_variables, small_config

from clac_jax.config.adapters import frozen_patterns, is_adapter
from clac_jax.errors import ConfigError
from clac_jax.models import build_model
from clac_jax.models.dropout import DropoutStream
from clac_jax.models.encoders import build_text_encoder, text_settings
from clac_jax.models.settings import ModelError
from clac_jax.models.text import attention, bert, decoder, gemma, layers
from clac_jax.models.text.lora import LoraDense
from clac_jax.surgery.adapters import merged
from clac_jax.training import optim
from clac_jax.training.gradients import GradientFunction
from clac_jax.training.losses import make_loss

KINDS = {
    "bert": ("query", "value", "intermediate"),
    "opt": ("key", "out", "output"),
    "gemma3_text": ("query", "value", "gate", "down"),
}
RANK, ALPHA = 2, 6.0


def config_with(kind="bert", rank=RANK, targets=None, **changes):
    return small_config(**{
        "text_encoder.config.model_type": kind,
        "text_encoder.lora.rank": rank,
        "text_encoder.lora.alpha": ALPHA,
        "text_encoder.lora.targets": targets or KINDS[kind],
        **changes,
    })  # fmt: skip


@functools.cache
def batch():
    return batch_of(examples())


def encoder(kind="bert", rank=RANK, **changes):
    return build_text_encoder(config_with(kind, rank, **changes), vocab_size=100)


def flat(params):
    return flax.traverse_util.flatten_dict(params, sep="/")


def nested(params):
    return flax.traverse_util.unflatten_dict(params, sep="/")


@functools.cache
def initial(kind, rank=RANK):
    """Slash path -> initial parameter of a text encoder."""
    init = jax.jit(functools.partial(encoder(kind, rank).init, texts=batch().texts))
    return {
        path: np.asarray(leaf) for path, leaf in flat(init(jax.random.key(1))["params"]).items()
    }


def features(module, params):
    apply = jax.jit(lambda p: module.apply({"params": p}, batch().texts).features)
    return np.asarray(apply(nested(params)))


def is_new(path):
    return is_adapter(f"text_encoder/{path}")


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_lie_next_to_their_kernels_and_all_else_is_as_without(kind):
    with_, without = initial(kind), initial(kind, rank=0)
    new = {path: leaf for path, leaf in with_.items() if path not in without}
    assert set(without) == {path for path in with_ if path not in new}
    assert all(is_new(path) for path in new) and not any(map(is_new, without))
    for path, leaf in without.items():
        np.testing.assert_array_equal(with_[path], leaf, err_msg="drawn from the same keys")
    targeted = {path.rpartition("/")[0] for path in new}
    assert {name.replace("_", "/").rpartition("/")[2] for name in targeted} == set(KINDS[kind])
    for module in targeted:
        a, b = new[f"{module}/lora_a"], new[f"{module}/lora_b"]
        rows, columns = without[f"{module}/kernel"].shape
        assert a.shape == (rows, RANK) and b.shape == (RANK, columns)
        assert not b.any() and 0 < np.abs(a).max() <= rows**-0.5


@pytest.mark.parametrize("kind", KINDS)
def test_before_the_first_step_the_function_is_that_of_the_base_and_later_that_of_the_sum(kind):
    with_, without = initial(kind), initial(kind, rank=0)
    plain, adapted = encoder(kind, rank=0), encoder(kind)
    np.testing.assert_array_equal(features(adapted, with_), features(plain, without))
    rng = np.random.default_rng(3)
    trained = {
        path: rng.normal(0, 0.3, leaf.shape).astype(leaf.dtype) if is_new(path) else leaf
        for path, leaf in with_.items()
    }
    prefixed = {f"params/text_encoder/{path}": leaf for path, leaf in trained.items()}
    one = {
        path.removeprefix("params/text_encoder/"): leaf
        for path, leaf in merged(prefixed, ALPHA / RANK).items()
    }
    assert set(one) == set(without)
    expected, result = features(adapted, trained), features(plain, one)
    assert np.abs(expected - features(plain, without)).max() > 1e-2, "they do something"
    np.testing.assert_allclose(result, expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("kind", KINDS)
def test_without_adapters_the_program_is_the_one_from_before_there_were_any(kind, monkeypatch):
    """Equal operations in equal order, dropout included, give equal bits."""
    module = encoder(kind, rank=0)
    ids = jnp.arange(6, dtype=jnp.uint32)

    def program():
        def init_and_apply(key):
            params = module.init(key, batch().texts)
            stream = DropoutStream(key, ids)
            return params, module.apply(params, batch().texts, stream=stream).features

        return str(jax.make_jaxpr(init_and_apply)(jax.random.key(0)))

    now = program()
    for file in (attention, bert, decoder, gemma):
        if hasattr(file, "adapted_dense"):
            monkeypatch.setattr(file, "adapted_dense", layers.dense)
    assert program() == now


def test_a_map_with_an_adapter_computes_in_the_requested_precision():
    dense = LoraDense(3, dtype=jnp.bfloat16, rank=1, scale=2.0)
    x = jnp.ones((2, 4), jnp.float32)
    params = dense.init(jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert dense.apply(params, x).dtype == jnp.bfloat16


@pytest.fixture(scope="module")
def setup():
    """Config, model and variables with adapters, of which B is not zero."""
    config = config_with(**{
        "graph_encoder.name": "composition",
        "text_encoder.feature": "attention",
        "use_visual_intramodal_loss": False,
        "use_textual_intramodal_loss": False,
    })  # fmt: skip
    model = build_model(config, vocab_size=100)
    return config, model, random_variables(model, batch())


def test_only_the_adapters_and_modules_that_begin_at_random_are_trained(setup):
    config, model, variables = setup
    mask = flat(optim.trainable_parameters(config, variables["params"]))
    of_text = {path for path, is_trained in mask.items() if is_trained and "text_enc" in path}
    assert {path for path in of_text if "/pooling/" not in path} == set(filter(is_adapter, mask))
    assert any("/pooling/" in path for path in of_text)
    assert all(is_trained for path, is_trained in mask.items() if "text_enc" not in path)
    # And so are the gradients.
    gradient = GradientFunction(
        model.apply,
        make_loss(),
        optim.trainable_parameters(config, variables["params"]),
        axis_name=None,
    )
    inputs = variables["params"], variables["batch_stats"], batch(), jax.random.key(0)
    grads, _, _ = jax.jit(gradient)(*inputs)
    moved = {path for path, leaf in flat(grads).items() if np.any(leaf)}
    assert {path for path in moved if "text_enc" in path} == of_text
    tx = optim.make_optimizer(config, variables["params"], lambda step: 1.0)
    moments = jax.eval_shape(tx.init, variables["params"]).inner_state["adam"].mu
    with_moments = {path for path, leaf in flat(moments).items() if hasattr(leaf, "shape")}
    assert {path for path in with_moments if "text_enc" in path} == of_text


def test_weights_may_be_frozen_besides(setup):
    config, _, variables = setup
    more = config.copy_and_resolve_references()
    more.frozen = ("graph_encoder/.*", "text_encoder/layer_0_attention/query/.*")
    mask = flat(optim.trainable_parameters(more, variables["params"]))
    assert not any(is_trained for path, is_trained in mask.items() if path.startswith("graph"))
    left = {path.split("/")[2] for path, is_on in mask.items() if is_adapter(path) and is_on}
    assert "value" in left and "query" not in left


def test_freezing_all_adapters_is_an_error_and_a_property_has_none(setup):
    config, _, variables = setup
    all_frozen = config.copy_and_resolve_references()
    all_frozen.frozen = ("text_encoder/.*",)
    with pytest.raises(ConfigError, match="freezes all adapters"):
        optim.trainable_parameters(all_frozen, variables["params"])
    of_property = config.copy_and_resolve_references()
    of_property.task = "property"
    assert frozen_patterns(of_property) == () and len(frozen_patterns(config)) == 1


@pytest.mark.parametrize(
    ("kind", "targets", "words"),
    [
        ("bert", ("query", "gate"), "has 'gate', which this text encoder lacks"),
        ("gemma3_text", ("intermediate",), "Name some of query, key, value, out, gate, up, down"),
        ("bert", (), "is empty"),
    ],
)
def test_targets_that_an_encoder_lacks_are_refused(kind, targets, words):
    config = config_with(kind)
    config.text_encoder.lora.targets = targets
    with pytest.raises(ModelError, match=words):
        text_settings(config, vocab_size=100)


def test_the_settings_hold_no_adapters_unless_their_rank_is_set():
    assert text_settings(config_with(rank=0), 100).lora is None
    settings = text_settings(config_with(), 100)
    assert settings.lora == (RANK, ALPHA, KINDS["bert"]) and settings.lora.scale == 3.0
    assert dataclasses.replace(settings, lora=None) == text_settings(config_with(rank=0), 100)
