"""BERT: reference outputs, packing, pooling and dropout."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.packed_texts import pack, packed_inputs, random_texts
from helpers.parity_fixtures import (
    GRADIENT_TOLERANCE,
    OUTPUT_TOLERANCE,
    PARITY,
    Fixture,
    relative_error,
    text_functions,
    tree_errors,
)

from clac_jax.models.dropout import DropoutStream, drop, keep_mask, threefry
from clac_jax.models.text.bert import Bert, BertSettings, MaskedLmHead
from clac_jax.models.text.pooling import AttentionPooling, text_features

# Tiles of tokens: one text in each, or in one of them two.
SEPARATE = ((20, 4),)
PACKED = ((20, 2), (40, 1))


@pytest.fixture(scope="module")
def fixture():
    return Fixture("bert_mlm")


@pytest.fixture(scope="module")
def settings():
    return BertSettings.from_huggingface(
        json.loads((PARITY / "bert_mlm.json").read_text())["config"]
    )


@pytest.mark.parametrize(
    ("dtype", "suffix", "tiles"),
    [
        (np.float32, "", PACKED),
        pytest.param(np.float64, "64", PACKED, marks=pytest.mark.slow),
        pytest.param(np.float32, "", SEPARATE, marks=pytest.mark.slow),
        pytest.param(np.float64, "64", SEPARATE, marks=pytest.mark.slow),
    ],
)
def test_features_loss_and_gradients_equal_the_reference(fixture, settings, dtype, suffix, tiles):
    texts, types, lengths = packed_inputs(fixture, tiles)
    with jax.enable_x64(dtype is np.float64):
        params = settings.huggingface_params(fixture.section("w", dtype))
        model = Bert(settings, feature="first", with_lm_loss=True)

        encode, lm_loss, feature_loss = text_functions(model, texts, token_types=types)

        output = jax.jit(encode)(params)
        out = fixture.section("out" + suffix)
        assert output.features.dtype == dtype
        assert relative_error(output.features, out["feature_cls"]) < OUTPUT_TOLERANCE[dtype]
        if suffix == "":
            for row, n in enumerate(lengths):
                first = texts.first_token[row]
                hidden = output.hidden[first : first + n]
                assert relative_error(hidden, out["last_hidden"][row, :n]) < 2e-5
        for name, function in (("grad_lm", lm_loss), ("grad_feat", feature_loss)):
            expected = fixture.section(name + suffix)
            if name == "grad_feat":
                absent = {k: v for k, v in fixture.section("w").items() if k.startswith("cls.")}
                expected |= {k: np.zeros_like(v) for k, v in absent.items()}
            expected = settings.huggingface_params(expected)
            value, grads = jax.jit(jax.value_and_grad(function))(params)
            if name == "grad_lm":
                assert relative_error(value, out["mlm_loss"]) < OUTPUT_TOLERANCE[dtype]
            for path, error in tree_errors(grads, expected):
                # The bias of keys shifts all scores of a query equally: its true gradient is zero.
                if "key" in path and "bias" in path:
                    continue
                assert error < GRADIENT_TOLERANCE[dtype], path


def test_lm_logits_equal_the_reference(fixture, settings):
    params = settings.huggingface_params(fixture.section("w"))
    logits = jax.jit(MaskedLmHead(settings).apply)(
        {"params": params["lm_head"]},
        fixture.section("out")["last_hidden"],
        params["word_embedding"]["embedding"],
    )
    assert relative_error(logits, fixture.section("out")["logits"]) < 2e-5


@pytest.mark.parametrize(
    "feature",
    [
        "attention",  # which is at the other end of the program from "first"
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("first", "last", "mean")),
    ],
)
def test_packing_and_padding_change_nothing(fixture, settings, feature):
    params = settings.huggingface_params(fixture.section("w"))
    texts = random_texts(0, [3, 12, 7, 1, 9])
    model = Bert(settings, feature=feature)
    fresh = jax.jit(model.init)(jax.random.key(0), pack(texts, ((12, 5),)))["params"]
    params = {**fresh, **params}

    @jax.jit
    def encode(texts):
        return model.apply({"params": params}, texts).features

    separate = np.stack([encode(pack([text], ((len(text), 1),)))[0] for text in texts])
    for tiles in [((12, 5),), ((32, 1),), ((8, 2), (24, 2))]:
        together = encode(pack(texts, tiles, num_examples=6))
        np.testing.assert_allclose(together[:5], separate, rtol=1e-4, atol=1e-5)
        assert np.isfinite(together).all()


def test_features_are_pooled_over_the_texts_own_tokens():
    texts = pack(random_texts(0, [3, 2]), ((4, 2),), num_examples=3)
    hidden = np.arange(16, dtype=np.float32).reshape(8, 2)
    rows = {k: np.flatnonzero(texts.text_index == k) for k in (0, 1)}
    for feature, pick in (
        ("first", lambda r: hidden[r[0]]),
        ("last", lambda r: hidden[r[-1]]),
        ("mean", lambda r: hidden[r].mean(0)),
    ):
        features = text_features(jnp.asarray(hidden), texts, feature)
        for k, tokens in rows.items():
            np.testing.assert_allclose(features[k], pick(tokens))
    with pytest.raises(ValueError, match="Use one of first, last, mean"):
        text_features(jnp.asarray(hidden), texts, "middle")


def test_attention_pools_each_head_over_the_own_tokens():
    texts = pack(random_texts(0, [3, 2]), ((4, 2),), num_examples=3)
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(8, 4)).astype(np.float32)
    pooling = AttentionPooling(num_heads=2)
    variables = jax.jit(pooling.init)(jax.random.key(0), hidden, texts)
    values, scores = (variables["params"][name] for name in ("values", "scores"))
    scores["kernel"] = scores["kernel"] * 40  # far from equal weights, and no overflow
    pooled = jax.jit(pooling.apply)(variables, hidden, texts)
    for k in (0, 1):
        own = hidden[texts.text_index == k].astype(np.float64)
        weights = jax.nn.softmax(own @ scores["kernel"], axis=0)
        by_head = (own @ values["kernel"] + values["bias"]).reshape(-1, 2, 2)
        heads = np.einsum("th,thw->hw", weights, by_head).reshape(-1)
        np.testing.assert_allclose(pooled[k], [*own.mean(0), *heads], rtol=1e-4, atol=1e-5)


def test_dropout_masks_follow_the_example_and_not_the_layout(fixture, settings):
    params = settings.huggingface_params(fixture.section("w"))
    texts = random_texts(1, [5, 9, 4])
    model = Bert(settings, feature="mean")

    @jax.jit
    def encode(texts, ids, key):
        stream = DropoutStream(key, ids)
        return model.apply({"params": params}, texts, stream=stream).features

    key = jax.random.key(3)
    ids = np.array([10, 11, 12], np.uint32)
    together = encode(pack(texts, ((18, 1),)), ids, key)
    permuted = encode(pack([texts[2], texts[0], texts[1]], ((10, 3),)), ids[[2, 0, 1]], key)
    np.testing.assert_allclose(permuted[jnp.array([1, 2, 0])], together, rtol=1e-4, atol=1e-5)
    plain = jax.jit(model.apply)({"params": params}, pack(texts, ((18, 1),))).features
    assert relative_error(together, plain) > 0.01
    other = encode(pack(texts, ((18, 1),)), ids, jax.random.key(4))
    assert relative_error(other, together) > 0.01


def test_threefry_equals_jax():
    # Known value of jax.random: bits of a key are threefry of a counter under that key.
    key = jax.random.key(7)
    words = jax.random.key_data(key)
    with jax.threefry_partitionable(False):
        expected = jax.random.bits(key, (6,), jnp.uint32)
    counter = jnp.arange(6, dtype=jnp.uint32)
    ours = jnp.concatenate(threefry((words[0], words[1]), (counter[:3], counter[3:])))
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_drops_the_asked_share_independently(rate):
    x = jnp.ones((8, 200, 50))
    example = jnp.arange(8, dtype=jnp.uint32)[:, None, None]
    element = jnp.arange(200, dtype=jnp.uint32)[None, :, None]
    site = (jnp.uint32(1), jnp.uint32(2))
    y = np.asarray(drop(x, keep_mask(50, 2, rate, site, example, element), rate))
    kept = y != 0
    np.testing.assert_allclose(y[kept], 1 / (1 - rate), rtol=1e-6)
    assert abs((1 - kept.mean()) - rate) < 5 * np.sqrt(rate * (1 - rate) / kept.size)
    flat = (kept - kept.mean()).reshape(8, -1)
    for shift in (1, 2, 13, 26, 50):
        correlation = (flat[:, shift:] * flat[:, :-shift]).mean() / flat.var()
        assert abs(correlation) < 5 / np.sqrt(flat.size)
    assert abs((flat[1:] * flat[:-1]).mean() / flat.var()) < 5 / np.sqrt(flat.size)


def test_a_size_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="cannot be split over 5"):
        BertSettings(hidden_size=48, num_attention_heads=5)
