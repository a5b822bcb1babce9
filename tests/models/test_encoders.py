"""The tables of encoders and losses are the only lists of them."""

import dataclasses
import re
from pathlib import Path

import pytest
from helpers.small_models import small_config

import clac_jax
from clac_jax.config.encoders import graph_encoder
from clac_jax.config.key import key
from clac_jax.config.schema import default_config
from clac_jax.models.encoders import encoder_needs, graph_settings, text_settings
from clac_jax.models.graph import GRAPH_ENCODERS
from clac_jax.models.graph.settings import GraphEncoderSettings, cutoff_key
from clac_jax.models.losses import LOSSES
from clac_jax.models.text import TEXT_ENCODERS

PACKAGE = Path(clac_jax.__file__).parent
# Defaults of the config, meanings in configs of earlier versions, names of other programs, and a
# baseline of the composition and a layer that predicts it, which are not the encoder of that name.
MAY_NAME_ONE = {
    "evaluation/prediction.py",
    "config/encoders.py",
    "config/training.py",
    "config/schema.py",
    "config/renamed.py",
    "models/model_anatomy.py",
    "models/structure_head.py",
    "interop/reference_config.py",
}


def test_no_other_file_names_an_encoder_or_a_loss():
    names = "|".join([*GRAPH_ENCODERS, *TEXT_ENCODERS, *LOSSES])
    named = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if re.search(rf"""["']({names})["']""", path.read_text())
    }
    tables = {f"models/{each}/__init__.py" for each in ("graph", "text", "losses")}
    assert named - MAY_NAME_ONE == tables


@pytest.mark.parametrize("name", GRAPH_ENCODERS)
def test_every_setting_of_a_graph_encoder_is_a_config_key(name):
    config = default_config()
    config.graph_encoder.name = name
    assert graph_settings(config.graph_encoder) == GRAPH_ENCODERS[name]()
    for field in dataclasses.fields(GRAPH_ENCODERS[name]):
        config.graph_encoder[field.name] = 2 * field.default + 1
    settings = graph_settings(config.graph_encoder)
    for field in dataclasses.fields(settings):
        assert getattr(settings, field.name) == 2 * field.default + 1


@pytest.mark.parametrize("name", TEXT_ENCODERS)
def test_a_text_encoder_at_random_has_the_sizes_of_the_config(name):
    config = small_config(**{"text_encoder.config.model_type": name, "text_encoder.max_length": 40})
    config.text_encoder.config.max_position_embeddings = 40
    settings = text_settings(config, vocab_size=70)
    assert isinstance(settings, TEXT_ENCODERS[name])
    sizes = (settings.vocab_size, settings.hidden_size, settings.max_position_embeddings)
    assert sizes == (70, 16, 40)
    assert encoder_needs(config).causal == (name != "bert")


@dataclasses.dataclass(frozen=True)
class Another(GraphEncoderSettings):
    cutoff: float = cutoff_key(7.5)
    num_features: int = key(64, "width", low=1)


def test_a_setting_that_encoders_share_keeps_the_default_of_each(monkeypatch):
    monkeypatch.setitem(GRAPH_ENCODERS, "another", Another)
    shared = graph_encoder().members["num_features"]
    assert shared.default is None and "another" in shared.used_with
    config = default_config()
    values = {**config.graph_encoder, "name": "another", "num_features": None}
    assert graph_settings(type(config)(values)).num_features == 64


@pytest.mark.parametrize(
    ("setting", "default", "words"),
    [("pretrained", 3, "the group has that key"), ("num_rbf", 3.0, "their types differ")],
)
def test_a_setting_that_cannot_be_a_config_key_is_named(monkeypatch, setting, default, words):
    fields = [(setting, type(default), key(default, "a number"))]
    kind = dataclasses.make_dataclass("Bad", fields, bases=(GraphEncoderSettings,), frozen=True)
    monkeypatch.setitem(GRAPH_ENCODERS, "bad", kind)
    with pytest.raises(TypeError, match=f"'{setting}' of .*bad cannot be .*{words}"):
        graph_encoder()
