from __future__ import annotations

import json
import re

import jax
import numpy as np
import pytest
from parity_fixtures import PARITY, Fixture, relative_error
from safetensors.numpy import save_file
from test_bert import packed_inputs
from test_clac import batch_of, examples, small_config

from clac_jax.huggingface import PretrainedError
from clac_jax.models import ModelError, build_model, init_variables
from clac_jax.models.bert import Bert
from clac_jax.models.pretrained import load_huggingface


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
    model = Bert(loaded.config, with_lm_head=True)
    output = model.apply({"params": loaded.params}, texts, token_types=types)
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


def test_the_first_layers_alone_and_a_pooling_that_starts_at_random(folder):
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
    whole = load_huggingface(folder).params
    first = {name: tree for name, tree in whole.items() if not re.match("layer_[1-9]|lm_", name)}
    assert len(first) < len(whole) - 1
    jax.tree.map(np.testing.assert_array_equal, params, first)


def test_dropout_is_the_models_own_unless_the_config_says_otherwise(folder):
    for dropout, expected in ((None, 0.1), (0.0, 0.0), (0.3, 0.3)):
        config = small_config(
            **{
                "text_encoder.pretrained": str(folder),
                "text_encoder.max_length": 64,
                "text_encoder.dropout": dropout,
            }
        )
        sizes = build_model(config).text_encoder.config
        assert sizes.hidden_dropout_prob == sizes.attention_probs_dropout_prob == expected


def test_a_tokenizer_with_more_words_than_the_encoder_is_refused(folder):
    config = small_config(**{"text_encoder.pretrained": str(folder), "text_encoder.max_length": 64})
    with pytest.raises(ModelError, match="tokenizer has 201 tokens and the text encoder 200"):
        build_model(config, vocab_size=201)


def test_a_folder_without_weights_is_named(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(PretrainedError, match=r"model\.safetensors does not exist"):
        load_huggingface(folder)


def test_damaged_files_are_named(folder):
    (folder / "model.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(PretrainedError, match=r"model\.safetensors cannot be read"):
        load_huggingface(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(PretrainedError, match=r"config\.json is not JSON"):
        load_huggingface(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "opt"}, "model_type = 'opt'; only 'bert'"),
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
