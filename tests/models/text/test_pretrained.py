"""Pretrained text encoders from Hugging Face folders and the hub."""

from __future__ import annotations

import json
import re
import shutil

import jax
import numpy as np
import pytest
from helpers.packed_texts import packed_inputs
from helpers.parity_fixtures import PARITY, Fixture, relative_error
from helpers.small_models import batch_of, examples, small_config
from helpers.torch_writer import save
from safetensors.numpy import load_file, save_file

from clac_jax.files.huggingface import PretrainedError
from clac_jax.models import ModelError, build_model, init_variables
from clac_jax.models.text.narrowing import with_fewer_units
from clac_jax.models.text.pretrained import load_huggingface


@pytest.fixture
def folder(tmp_path):
    """A Hugging Face folder of the fixture's weights."""
    config = json.loads((PARITY / "bert_mlm.json").read_text())["config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = Fixture("bert_mlm").section("w")
    save_file(
        {k: np.ascontiguousarray(v) for k, v in weights.items()}, tmp_path / "model.safetensors"
    )
    return tmp_path


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_loaded_folder_encodes_like_the_reference(folder):
    loaded = load_huggingface(folder)
    fixture = Fixture("bert_mlm")
    texts, types, _ = packed_inputs(fixture)
    model = loaded.settings.build(with_lm_loss=True)
    encode = jax.jit(lambda params: model.apply({"params": params}, texts, token_types=types))
    output = encode(loaded.params)
    assert relative_error(output.features, fixture.section("out")["feature_cls"]) < 2e-5
    assert loaded.has_lm_head


def test_init_takes_the_pretrained_text_encoder_and_nothing_else(folder):
    config = small_config(
        **{
            "text_encoder.pretrained": str(folder),
            "text_encoder.max_length": 64,
            "graph_encoder.name": "composition",
        }
    )
    model = build_model(config, vocab_size=200)
    variables = init_variables(model, config, batch_of(examples()))
    loaded = load_huggingface(folder).params
    loaded.pop("lm_head")  # lm_weight is 0
    jax.tree.map(np.testing.assert_array_equal, variables["params"]["text_encoder"], loaded)
    assert np.std(variables["params"]["graph_encoder"]["out"]["kernel"]) > 0


def test_only_the_first_layers_and_a_pooling_that_starts_at_random(folder):
    config = small_config(
        **{
            "text_encoder.pretrained": str(folder),
            "text_encoder.max_length": 64,
            "text_encoder.num_layers": 1,
            "text_encoder.feature": "attention",
            "graph_encoder.name": "composition",
        }
    )
    model = build_model(config, vocab_size=200)
    params = init_variables(model, config, batch_of(examples()))["params"]["text_encoder"]
    assert np.std(params.pop("pooling")["values"]["kernel"]) > 0
    complete = load_huggingface(folder).params
    first = {name: tree for name, tree in complete.items() if not re.match("layer_[1-9]|lm_", name)}
    assert len(first) < len(complete) - 1
    jax.tree.map(np.testing.assert_array_equal, params, first)


def test_only_the_largest_hidden_units(folder):
    config = small_config(
        **{
            "text_encoder.pretrained": str(folder),
            "text_encoder.max_length": 64,
            "text_encoder.feed_forward_units": 5,
            "graph_encoder.name": "composition",
        }
    )
    model, batch = build_model(config, vocab_size=200), batch_of(examples())
    variables = init_variables(model, config, batch)
    complete = load_huggingface(folder)
    complete.params.pop("lm_head")
    assert complete.settings.intermediate_size > 5 == model.text_encoder.settings.intermediate_size
    narrow = with_fewer_units(complete.params, 5)
    jax.tree.map(np.testing.assert_array_equal, variables["params"]["text_encoder"], narrow)
    assert jax.eval_shape(model.apply, variables, batch).cross.right.shape[1] == 3


def test_dropout_is_the_models_own_unless_the_config_says_otherwise(folder):
    for dropout, expected in ((None, 0.1), (0.0, 0.0), (0.3, 0.3)):
        config = small_config(
            **{
                "text_encoder.pretrained": str(folder),
                "text_encoder.max_length": 64,
                "text_encoder.dropout": dropout,
            }
        )
        sizes = build_model(config).text_encoder.settings
        assert sizes.hidden_dropout_prob == sizes.attention_probs_dropout_prob == expected


def test_a_tokenizer_with_more_words_than_the_encoder_is_refused(folder):
    config = small_config(**{"text_encoder.pretrained": str(folder), "text_encoder.max_length": 64})
    with pytest.raises(ModelError, match="tokenizer has 201 tokens and the text encoder 200"):
        build_model(config, vocab_size=201)


def test_damaged_files_are_named(folder):
    (folder / "model.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(PretrainedError, match=r"model\.safetensors cannot be read"):
        load_huggingface(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(PretrainedError, match=r"config\.json is not valid JSON"):
        load_huggingface(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "t5"}, "model_type = 't5', which is not supported"),
        ({"model_type": "opt"}, "lacks 'ffn_dim'"),
        ({"hidden_act": "relu"}, "hidden_act = 'relu'; only 'gelu'"),
        ({"num_attention_heads": 5}, "cannot be split over 5 attention heads"),
        (
            {"vocab_size": 201},
            r"word_embeddings.weight has shape \(200, 48\) instead of \(201, 48\)",
        ),
        ({"num_hidden_layers": 3}, r"no tensor bert.encoder.layer.2"),
    ],
)
def test_another_architecture_is_refused(folder, changes, message):
    edit_config(folder, **changes)
    with pytest.raises(PretrainedError, match=message):
        load_huggingface(folder)


@pytest.mark.parametrize("old", [False, True])
def test_a_folder_with_torch_weights_is_the_same(folder, old):
    expected = load_huggingface(folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save(weights, folder / "pytorch_model.bin", old)
    loaded = load_huggingface(folder)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, expected.params)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_weights_in_several_files_are_the_same(folder, kind):
    expected = load_huggingface(folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem = "model" if kind == "safetensors" else "pytorch_model"
    names = [f"{stem}-{k}-of-2.{kind}" for k in (1, 2)]
    placed = {name: names[k % 2] for k, name in enumerate(weights)}
    for file in names:
        part = {name: value for name, value in weights.items() if placed[name] == file}
        (save_file if kind == "safetensors" else save)(part, folder / file)
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps({"weight_map": placed}))
    loaded = load_huggingface(folder)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, expected.params)
    (folder / names[1]).unlink()
    with pytest.raises(PretrainedError, match=re.escape(names[1])):
        load_huggingface(folder)


def test_no_weights_at_all(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(PretrainedError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        load_huggingface(folder)


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty cache of the hub, and no network."""
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return cache


def test_a_hub_id_is_taken_from_the_cache(folder, hub_cache):
    snapshot = hub_cache / "models--group--model" / "snapshots" / "0123abcd"
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(folder, snapshot, ignore=shutil.ignore_patterns("hub"))
    refs = hub_cache / "models--group--model" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0123abcd")
    for name in ("group/model", "group/model@main"):
        loaded = load_huggingface(name)
        expected = load_huggingface(folder)
        jax.tree.map(np.testing.assert_array_equal, loaded.params, expected.params)


def test_a_hub_id_that_cannot_be_had_says_what_to_run(hub_cache):
    with pytest.raises(PretrainedError, match="run `hf download group/model`"):
        load_huggingface("group/model")
