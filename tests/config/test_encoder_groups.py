"""One group of keys, merged from the settings that each encoder declares."""

from dataclasses import dataclass

import pytest

from clac_jax.config.encoders import ChosenGraphEncoder, fill_defaults, merged_keys
from clac_jax.config.key import key
from clac_jax.config.schema import default_config
from clac_jax.errors import ConfigError
from clac_jax.input_pipeline.run_data import view_options
from clac_jax.models.encoders import build_graph_encoder, encoder_needs
from clac_jax.models.settings import settings_of


@dataclass(frozen=True)
class Wide:
    cutoff: float = key(9.0, "")
    width: int = key(64, "width of the nodes", low=1)
    layers: int = key(2, "layers")


@dataclass(frozen=True)
class Narrow:
    cutoff: float = key(3.0, "")
    width: int = key(8, "width of the edges", low=1)


KEYS = merged_keys(ChosenGraphEncoder, {"wide": Wide, "narrow": Narrow}, "graph_encoder", "name")


def test_the_name_chooses_among_the_encoders_of_the_table():
    assert KEYS["name"].choices == ("wide", "narrow")


def test_a_key_belongs_to_the_encoders_that_declare_it():
    assert KEYS["layers"].used_with == "graph_encoder.name=wide"
    assert KEYS["layers"].default == 2
    assert KEYS["width"].used_with is None


def test_defaults_that_differ_are_the_encoders_own():
    width = KEYS["width"]
    assert (width.default, width.kind, width.low) == (None, int, 1)
    assert width.meaning == (
        "wide: width of the nodes; narrow: width of the edges; "
        "None: the graph encoder's own (wide 64; narrow 8)"
    )
    assert "None: the graph encoder's own (wide 9.0; narrow 3.0)" in KEYS["cutoff"].meaning


def test_an_encoder_gets_its_settings_with_its_own_defaults():
    options = {"cutoff": None, "width": None, "layers": 7, "name": "wide"}
    assert settings_of(Wide, options) == Wide(cutoff=9.0, width=64, layers=7)
    assert settings_of(Narrow, options | {"cutoff": 1.5}) == Narrow(cutoff=1.5, width=8)


@pytest.mark.parametrize("cutoff", [None, 4.5])
@pytest.mark.parametrize("name, own", [("painn", 5.0), ("cgcnn", 6.0), ("orb", 6.0)])
def test_graph_and_encoder_have_one_cutoff(name, own, cutoff):
    config = default_config()
    config.graph_encoder.name, config.graph_encoder.cutoff = name, cutoff
    assert view_options(config, encoder_needs(config)).cutoff == (cutoff or own)
    assert build_graph_encoder(config).settings.cutoff == (cutoff or own)


@pytest.mark.parametrize("task, kind", [("contrastive", "bert"), ("property", "bert"),
                                        ("contrastive", "opt")])  # fmt: skip
def test_a_loss_on_masked_tokens_needs_masks(task, kind):
    config = default_config()
    config.task, config.text_encoder.config.model_type = task, kind
    config.text_encoder.pretrained, config.lm_weight = None, 0.1
    view_options(config, encoder_needs(config))
    config.augment.mask_prob = 0.0
    if (task, kind) == ("contrastive", "bert"):
        with pytest.raises(ConfigError, match=r"Set augment.mask_prob=0.15, or lm_weight=0."):
            view_options(config, encoder_needs(config))
    else:  # no token is masked
        view_options(config, encoder_needs(config))


def test_the_radial_basis_of_cgcnn_is_a_key_of_its_own():
    config = default_config()
    config.graph_encoder.name = "cgcnn"
    assert build_graph_encoder(config).settings.rbf_max == 8.0
    config.graph_encoder.rbf_max = 6.5
    assert build_graph_encoder(config).settings.rbf_max == 6.5


@pytest.mark.parametrize(
    "config",
    [{}, {"graph_encoder": 7}, {"graph_encoder": {"name": []}}, {"text_encoder": {"config": None}}],
)
def test_anything_but_a_config_is_returned_unchanged(config):
    before = repr(config)
    fill_defaults(config)
    assert repr(config) == before
