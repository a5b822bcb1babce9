"""OPT, compared with the reference, and GPT-2, with its published equations."""

from __future__ import annotations

import functools
import json

import jax
import numpy as np
import pytest
from helpers.packed_texts import pack, random_texts
from helpers.parity_fixtures import (
    GRADIENT_TOLERANCE,
    OUTPUT_TOLERANCE,
    PARITY,
    Fixture,
    relative_error,
    text_functions,
    tree_errors,
)
from helpers.small_models import batch_of, examples, small_config
from safetensors.numpy import save_file

from clac_jax.models import build_model, init_variables
from clac_jax.models.dropout import DropoutStream
from clac_jax.models.encoders import text_kind
from clac_jax.models.text.decoder import Decoder, DecoderSettings, Gpt2Settings, OptSettings
from clac_jax.models.text.lm_loss import next_token_labels
from clac_jax.models.text.pretrained import load_huggingface

# Tiles of tokens: one text in each, or in one of them two.
SEPARATE = ((20, 4),)
PACKED = ((20, 2), (40, 1))


@functools.cache
def opt_config():
    """The config.json of the fixture's model; not to be modified."""
    return json.loads((PARITY / "opt_clm_relu.json").read_text())["config"]


@pytest.fixture(scope="module")
def fixture():
    return Fixture("opt_clm_relu")


def packed_inputs(fixture, tiles):
    """The rows of the fixture, which are padded on the left, and the starts of their tokens."""
    inputs = fixture.section("in")
    starts = (inputs["attention_mask"] == 0).sum(1)
    rows = zip(inputs["input_ids"], inputs["labels_clean"], starts, strict=True)
    texts = [(ids[n:].astype(np.int32), labels[n:].astype(np.int32)) for ids, labels, n in rows]
    return pack(texts, tiles), starts


@pytest.mark.parametrize(
    ("dtype", "suffix", "tiles"),
    [
        (np.float32, "", PACKED),
        (np.float64, "64", PACKED),
        pytest.param(np.float32, "", SEPARATE, marks=pytest.mark.slow),
        pytest.param(np.float64, "64", SEPARATE, marks=pytest.mark.slow),
    ],
)
def test_opt_equals_the_reference(fixture, dtype, suffix, tiles):
    settings = OptSettings.from_huggingface(opt_config())
    texts, starts = packed_inputs(fixture, tiles)
    with jax.enable_x64(dtype is np.float64):
        params = settings.huggingface_params(fixture.section("w", dtype))
        model = Decoder(settings, feature="last", with_lm_loss=True)

        encode, lm_loss, feature_loss = text_functions(model, texts)

        output = jax.jit(encode)(params)
        out = fixture.section("out" + suffix)
        assert output.features.dtype == dtype
        assert relative_error(output.features, out["feature_last"]) < OUTPUT_TOLERANCE[dtype]
        # The reference computes its loss from float32 logits, whatever the dtype of the model.
        bar = OUTPUT_TOLERANCE[np.float32] / (1 if dtype is np.float32 else 100)
        value, lm_grads = jax.jit(jax.value_and_grad(lm_loss))(params)
        assert relative_error(value, out["clm_loss_clean"]) < bar
        if suffix == "":
            for row, n in enumerate(starts):
                first = texts.first_token[row]
                hidden = output.hidden[first : first + 20 - n]
                assert relative_error(hidden, out["last_hidden"][row, n:]) < 2e-5
        feature_grads = jax.jit(jax.grad(feature_loss))(params)
        for name, grads in (("grad_lm", lm_grads), ("grad_feat", feature_grads)):
            expected = settings.huggingface_params(fixture.section(name + suffix))
            bar = GRADIENT_TOLERANCE[dtype] * (100 if name + suffix == "grad_lm64" else 1)
            for path, error in tree_errors(grads, expected):
                # The bias of keys shifts all scores of a query equally: its true gradient is zero.
                if "key" in path and "bias" in path:
                    continue
                assert error < bar, path


GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 200,
    "n_embd": 24,
    "n_layer": 2,
    "n_head": 3,
    "n_positions": 32,
}


def gpt2_tensors(rng):
    """Random weights under the names of a GPT2LMHeadModel."""
    shapes = {"wte.weight": (200, 24), "wpe.weight": (32, 24), "ln_f.weight": 24, "ln_f.bias": 24}
    for k in range(2):
        for name, fan_in, fan_out in (
            ("attn.c_attn", 24, 72),
            ("attn.c_proj", 24, 24),
            ("mlp.c_fc", 24, 96),
            ("mlp.c_proj", 96, 24),
        ):
            shapes |= {f"h.{k}.{name}.weight": (fan_in, fan_out), f"h.{k}.{name}.bias": fan_out}
        for name in ("ln_1", "ln_2"):
            shapes |= {f"h.{k}.{name}.weight": 24, f"h.{k}.{name}.bias": 24}
    return {f"transformer.{name}": rng.normal(0, 0.3, shape) for name, shape in shapes.items()}


def gpt2_by_hand(tensors, ids):
    """Last hidden states of one text: the published equations, in float64, head by head."""
    w = {name.removeprefix("transformer."): value for name, value in tensors.items()}

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    x = w["wte.weight"][ids] + w["wpe.weight"][: len(ids)]
    for k in range(2):
        query, key, value = np.split(linear(norm(x, f"h.{k}.ln_1"), f"h.{k}.attn.c_attn"), 3, -1)
        mixed = np.zeros_like(x)
        for head in range(3):
            part = slice(8 * head, 8 * head + 8)
            for t in range(len(ids)):
                scores = query[t, part] @ key[: t + 1, part].T / np.sqrt(8)
                weights = np.exp(scores - scores.max())
                mixed[t, part] = weights / weights.sum() @ value[: t + 1, part]
        x = x + linear(mixed, f"h.{k}.attn.c_proj")
        y = linear(norm(x, f"h.{k}.ln_2"), f"h.{k}.mlp.c_fc")
        y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
        x = x + linear(y, f"h.{k}.mlp.c_proj")
    return norm(x, "ln_f")


def test_gpt2_equals_its_equations():
    tensors = gpt2_tensors(np.random.default_rng(0))
    settings = Gpt2Settings.from_huggingface(GPT2)
    ids = random_texts(0, [7, 1, 12])
    texts = pack(ids, ((12, 2),), num_examples=4)
    with jax.enable_x64(True):
        params = settings.huggingface_params(tensors)
        hidden = jax.jit(Decoder(settings).apply)({"params": params}, texts).hidden
    for row, text in enumerate(ids):
        first = texts.first_token[row]
        expected = gpt2_by_hand(tensors, text)
        assert relative_error(hidden[first : first + len(text)], expected) < 1e-12


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm_first": False, "final_norm": False, "embedding_size": 16},
        pytest.param(
            {"use_bias": False, "norm_affine": False, "activation": "gelu"}, marks=pytest.mark.slow
        ),
    ],
    ids=["plain", "norm after, projected", "no biases"],
)
def test_packing_padding_and_what_follows_change_nothing(changes):
    settings = DecoderSettings(200, 24, 2, 3, 48, 32, **changes)
    ids = random_texts(0, [3, 12, 7, 1, 9])
    model = Decoder(settings, feature="last")
    single = pack([ids[0]], ((12, 1),))
    apply = jax.jit(model.apply)
    params = jax.device_get(jax.jit(model.init)(jax.random.key(0), single)["params"])
    noise = np.random.default_rng(1)
    params = jax.tree.map(lambda x: x + np.float32(0.1 * noise.normal(size=x.shape)), params)
    together = apply({"params": params}, pack(ids, ((12, 2), (16, 1)), num_examples=7))
    for row, text in enumerate(ids):
        one = apply({"params": params}, pack([text], ((12, 1),)))
        np.testing.assert_allclose(together.features[row], one.features[0], rtol=1e-4, atol=1e-5)
    # The state of a token does not depend on later tokens.
    longer = apply({"params": params}, pack([ids[1]], ((12, 1),))).hidden
    shorter = apply({"params": params}, pack([ids[1][:5]], ((12, 1),))).hidden
    np.testing.assert_allclose(longer[:5], shorter[:5], rtol=1e-4, atol=1e-5)


def test_a_token_predicts_the_next_one_of_its_own_text():
    texts = pack(
        [(np.array([5, 6, 7], np.int32), np.array([-100, 6, 7], np.int32)),
         (np.array([8, 9], np.int32), np.array([-100, 9], np.int32))],
        ((6, 1),),
    )  # fmt: skip
    assert next_token_labels(texts).tolist() == [6, 7, -100, 9, -100, -100]


def test_dropout_follows_the_example():
    settings = DecoderSettings(200, 24, 2, 3, 48, 32, embedding_dropout_prob=0.2)
    ids = random_texts(2, [5, 9])
    model = Decoder(settings)
    params = jax.jit(model.init)(jax.random.key(0), pack(ids, ((16, 1),)))["params"]

    @jax.jit
    def encode(texts, example_ids, key):
        return model.apply({"params": params}, texts, stream=DropoutStream(key, example_ids))

    def features(texts, example_ids, key):
        ids = np.array(example_ids, np.uint32)
        return encode(texts, ids, jax.random.key(key)).features

    first = features(pack(ids, ((16, 1),)), [4, 6], 0)
    swapped = features(pack(ids[::-1], ((12, 2),)), [6, 4], 0)
    np.testing.assert_allclose(first, swapped[::-1], rtol=1e-4, atol=1e-5)
    assert relative_error(features(pack(ids, ((16, 1),)), [4, 6], 1), first) > 1e-2
    assert settings.with_dropout(0.0).embedding_dropout_prob == 0


@pytest.mark.parametrize("kind", ["opt", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_a_folder_chooses_the_decoder_by_its_config(tmp_path, kind):
    if kind == "opt":
        values = opt_config()
        tensors = Fixture("opt_clm_relu").section("w")
        expected = OptSettings.from_huggingface(opt_config()).huggingface_params(tensors)
    else:
        values = GPT2
        tensors = gpt2_tensors(np.random.default_rng(0))
        tensors = {name: value.astype(np.float32) for name, value in tensors.items()}
        expected = Gpt2Settings.from_huggingface(GPT2).huggingface_params(tensors)
    (tmp_path / "config.json").write_text(json.dumps(values))
    save_file(
        {k: np.ascontiguousarray(v) for k, v in tensors.items()}, tmp_path / "model.safetensors"
    )
    assert load_huggingface(tmp_path).has_lm_head
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
    variables = init_variables(build_model(config, vocab_size=200), config, batch)
    jax.tree.map(np.testing.assert_array_equal, variables["params"]["text_encoder"], expected)
