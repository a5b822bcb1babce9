"""Configs of earlier versions, whose keys had different names."""

import json

import pytest
from etils import epath
from helpers.formats import FORMATS

from clac_jax.checkpoint.changes import effect_of
from clac_jax.checkpoint.export import export, import_model
from clac_jax.checkpoint.layout import read_info
from clac_jax.cli.flag_errors import describe
from clac_jax.config import renamed
from clac_jax.config.check import validate
from clac_jax.config.run import all_keys
from clac_jax.config.schema import ConfigError, default_config, from_plain, to_plain
from configs import saved


def old_config(name="cgcnn"):
    """The config as saved by version 0.1."""
    config = to_plain(default_config())
    config["graph_encoder"] |= {"name": name, "cutoff": 5.0, "graph_cutoff": 7.0}
    del config["graph_encoder"]["rbf_max"]
    return config


@pytest.mark.parametrize(
    "name, cutoff", [("painn", 5.0), ("composition", 5.0), ("cgcnn", 7.0), ("orb", 7.0)]
)
def test_the_cutoff_is_the_one_that_the_encoder_used(name, cutoff):
    before = old_config(name)
    config, lines = renamed.upgraded(before)
    assert config["graph_encoder"]["cutoff"] == cutoff
    assert "graph_cutoff" not in config["graph_encoder"]
    expected = ["graph_encoder.graph_cutoff is now graph_encoder.cutoff: 7.0"]
    assert lines == (expected if name in ("cgcnn", "orb") else []), "the key had no effect"
    assert before == old_config(name)


def test_a_config_of_this_version_stays():
    config = to_plain(default_config())
    assert renamed.upgraded(config) == (config, [])


@pytest.mark.parametrize("config", [{}, [], {"graph_encoder": None}, {"graph_encoder": {}}])
def test_anything_but_a_config_is_returned_unchanged(config):
    assert renamed.upgraded(config) == (config, [])


def test_new_names_are_declared_and_old_ones_are_not():
    for each in renamed.RENAMED:
        assert each.new in all_keys()
        assert each.old not in all_keys()
        assert "does not have" in effect_of(each.old)


def test_the_config_file_of_an_old_run_can_be_used(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(old_config()))
    config = saved.get_config(str(file))
    validate(config)
    assert config.graph_encoder.cutoff == 7.0


def test_an_old_exported_model_can_be_imported(tmp_path):
    info = read_info(epath.Path(FORMATS / "2" / "run" / "checkpoints" / "13"))
    export(info, tmp_path / "model")
    config = info.config | {"graph_encoder": info.config["graph_encoder"] | {"name": "orb"}}
    config["graph_encoder"]["graph_cutoff"] = 7.0
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    folder = import_model(tmp_path / "model", tmp_path / "run")
    assert read_info(epath.Path(folder)).config["graph_encoder"]["cutoff"] == 7.0


NEW_NAME = r'"graph_encoder.graph_cutoff" is called "graph_encoder.cutoff" since version 0.2.0'


def test_an_old_name_in_the_users_own_config_is_refused_with_the_new_one():
    config = default_config()
    with config.unlocked():
        config.graph_encoder.graph_cutoff = 7.0
    with pytest.raises(ConfigError, match=NEW_NAME):
        validate(config)


def test_an_old_name_in_a_flag_or_config_file_is_refused_with_the_new_one():
    config = default_config()
    with pytest.raises(AttributeError) as error:
        config.graph_encoder.graph_cutoff = 7.0
    assert NEW_NAME in describe(error.value)
    with pytest.raises(AttributeError) as error:
        config.graph_encoder.num_rbff = 7
    assert "since version" not in describe(error.value)


def test_a_config_that_has_never_been_one_is_an_error():
    with pytest.raises((AttributeError, KeyError, TypeError, ValueError)):
        from_plain({"graph_encoder": {"graph_cutof": 7.0}})
