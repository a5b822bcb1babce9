"""Which flags set a key of the config to None."""

import pytest

from clac_jax.cli.unset import unset, without_none
from clac_jax.config import default_config

LAYERS = "text_encoder.num_layers"
FLAG = f"--config.{LAYERS}"


@pytest.mark.parametrize(
    ("given", "left", "keys"),
    [
        ([f"{FLAG}=3"], [f"{FLAG}=3"], []),
        ([f"{FLAG}=None", "--workdir=None"], ["--workdir=None"], [LAYERS]),
        (["--workdir=x", FLAG, "None", "more"], ["--workdir=x", "more"], [LAYERS]),
        ([f"-config.{LAYERS}=None"], [], [LAYERS]),
        ([f"{FLAG}=3", f"{FLAG}=None"], [], [LAYERS]),
        ([f"{FLAG}=None", f"{FLAG}=3"], [f"{FLAG}=3"], []),
        (["--config.resume_from=None"], ["--config.resume_from=None"], []),
        (["--config.no_such=None"], ["--config.no_such=None"], []),
        (["--config.debug", "--config=None"], ["--config.debug", "--config=None"], []),
    ],
)
def test_the_last_value_of_a_key_that_may_be_unset_counts(given, left, keys):
    assert without_none(given) == (left, keys)


def test_a_key_of_any_type_is_unset():
    config = default_config()
    config.graph_encoder.cutoff, config.text_encoder.num_layers = 6.0, 2
    config.text_encoder.pretrained = "folder"
    unset(config, ["graph_encoder.cutoff", LAYERS, "text_encoder.pretrained"])
    assert config.graph_encoder.cutoff is config.text_encoder.num_layers is None
    assert config.text_encoder.pretrained is None
    config.text_encoder.num_layers = 3
