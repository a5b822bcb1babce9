"""Gemma 3, compared with the outputs of transformers."""

from __future__ import annotations

import dataclasses
import json

import jax
import ml_dtypes
import numpy as np
import pytest
from helpers.packed_texts import pack, random_texts
from helpers.parity_fixtures import TORCH, Fixture, relative_error, text_functions, tree_errors
from helpers.small_models import batch_of, examples, small_config
from safetensors.numpy import save_file

from clac_jax.errors import UserError
from clac_jax.models import build_model, init_variables
from clac_jax.models.dropout import DropoutStream
from clac_jax.models.encoders import text_kind
from clac_jax.models.text.gemma import Gemma, GemmaSettings
from clac_jax.models.text.pretrained import load_huggingface

# The config.json of the fixture's model (tools/torch_references.py), as transformers 4 wrote it.
VALUES = {
    "model_type": "gemma3_text",
    "vocab_size": 60,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "query_pre_attn_scalar": 12,
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "max_position_embeddings": 32,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": None,
    "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh",
}
SETTINGS = GemmaSettings.from_huggingface(VALUES)


@pytest.fixture(scope="module")
def fixture():
    return Fixture("gemma3", TORCH)


@pytest.mark.parametrize("tiles", [pytest.param(((13, 3),), marks=pytest.mark.slow), ((20, 1),)])
def test_equals_transformers(fixture, tiles):
    ids = [fixture.arrays[f"ids/{k}"] for k in range(3)]
    texts = pack([(text, text) for text in ids], tiles)
    params = SETTINGS.huggingface_params(fixture.section("w"))
    model = Gemma(SETTINGS, feature="last", with_lm_loss=True)

    encode, lm_loss, feature_loss = text_functions(model, texts)

    output = jax.jit(encode)(params)
    for k, text in enumerate(ids):
        first = texts.first_token[k]
        hidden = fixture.arrays[f"hidden/{k}"]
        assert relative_error(output.hidden[first : first + len(text)], hidden) < 2e-5
        assert relative_error(output.features[k], hidden[-1]) < 2e-5
    value, lm_grads = jax.jit(jax.value_and_grad(lm_loss))(params)
    assert relative_error(value, fixture.arrays["lm_loss"]) < 2e-5
    feature_grads = jax.jit(jax.grad(feature_loss))(params)
    for name, grads in (("grad_lm", lm_grads), ("grad_features", feature_grads)):
        expected = SETTINGS.huggingface_params(fixture.section(name))
        for path, error in tree_errors(grads, expected):
            assert error < 2e-4, path


def test_packing_changes_nothing_and_what_follows_neither():
    ids = random_texts(0, [3, 12, 7, 1, 9])
    ids = [text % 60 for text in ids]
    model = Gemma(SETTINGS, feature="last")
    apply = jax.jit(model.apply)
    params = jax.jit(model.init)(jax.random.key(0), pack([ids[0]], ((12, 1),)))["params"]
    together = apply({"params": params}, pack(ids, ((12, 2), (16, 1)), num_examples=7))
    for row, text in enumerate(ids):
        one = apply({"params": params}, pack([text], ((12, 1),)))
        np.testing.assert_allclose(together.features[row], one.features[0], rtol=1e-4, atol=1e-5)
    longer = apply({"params": params}, pack([ids[1]], ((12, 1),))).hidden
    shorter = apply({"params": params}, pack([ids[1][:5]], ((12, 1),))).hidden
    np.testing.assert_allclose(longer[:5], shorter[:5], rtol=1e-4, atol=1e-5)


def test_dropout_of_attention():
    settings = dataclasses.replace(SETTINGS, attention_probs_dropout_prob=0.5)
    texts = pack([np.arange(9, dtype=np.int32)], ((12, 1),))
    model = Gemma(settings)
    params = jax.jit(model.init)(jax.random.key(0), texts)["params"]
    plain = jax.jit(model.apply)({"params": params}, texts).features

    @jax.jit
    def drop(key):
        stream = DropoutStream(key, np.array([3], np.uint32))
        return model.apply({"params": params}, texts, stream=stream).features

    dropped = drop(jax.random.key(0))
    assert relative_error(dropped, plain) > 1e-2
    assert settings.with_dropout(0.0).attention_probs_dropout_prob == 0


def test_config_of_newer_transformers():
    newer = {name: value for name, value in VALUES.items() if not name.startswith("rope")}
    newer["rope_parameters"] = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
    }
    assert GemmaSettings.from_huggingface(newer) == dataclasses.replace(SETTINGS, rope_scaling=8.0)
    older = {name: value for name, value in VALUES.items() if name != "layer_types"}
    older |= {"num_hidden_layers": 7, "sliding_window_pattern": 3}
    read = GemmaSettings.from_huggingface(older)
    assert read.local_layers == (True, True, False, True, True, False, True)
    with pytest.raises(ValueError, match="rope_type 'yarn' is unknown"):
        GemmaSettings.from_huggingface(VALUES | {"rope_scaling": {"rope_type": "yarn"}})


def test_a_folder_of_bfloat16_weights(tmp_path, fixture):
    tensors = fixture.section("w")
    (tmp_path / "config.json").write_text(json.dumps(VALUES))
    rounded = {
        name: np.ascontiguousarray(value.astype(ml_dtypes.bfloat16))
        for name, value in tensors.items()
    }
    save_file(rounded, tmp_path / "model.safetensors")
    loaded = load_huggingface(tmp_path)
    assert loaded.has_lm_head
    assert loaded.settings == SETTINGS
    expected = SETTINGS.huggingface_params({k: v.astype(np.float32) for k, v in rounded.items()})
    jax.tree.map(np.testing.assert_array_equal, loaded.params, expected)
    config = small_config(
        **{
            "text_encoder.pretrained": str(tmp_path),
            "text_encoder.max_length": 32,
            "text_encoder.feature": "last",
            "graph_encoder.name": "composition",
            "lm_weight": 0.1,
        }
    )
    assert text_kind(config.text_encoder).causal
    batch = batch_of(examples(with_labels=True))
    variables = init_variables(build_model(config, vocab_size=60), config, batch)
    jax.tree.map(np.testing.assert_array_equal, variables["params"]["text_encoder"], expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping = 50.0"),
        ({"num_key_value_heads": 3}, "num_key_value_heads 3 does not divide"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_type 'yarn' is unknown"),
    ],
)
def test_a_config_that_cannot_be_used(tmp_path, change, words):
    (tmp_path / "config.json").write_text(json.dumps(VALUES | change))
    with pytest.raises(UserError, match=words):
        load_huggingface(tmp_path)
