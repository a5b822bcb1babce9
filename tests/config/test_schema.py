"""The ConfigDict built from the declarations, its flags and its JSON form."""

import json
import subprocess
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from clac_jax.config import check, default_config
from clac_jax.config import schema as config_lib
from clac_jax.config.run import all_keys, declaration
from configs import base

KEYS = all_keys()


def test_every_key_has_its_default_and_type():
    flat = config_lib.flatten(default_config())
    assert flat == {name: key.default for name, key in KEYS.items()}
    for name, key in KEYS.items():
        assert key.kind in (bool, int, float, str, tuple), name
        assert key.default is None or type(key.default) is key.kind, name


def test_the_defaults_can_be_used():
    check.validate(default_config())


def test_every_key_says_what_it_means_and_what_a_change_does_to_a_resumed_run():
    for name, key in KEYS.items():
        assert key.meaning and "\n" not in key.meaning, name
        assert key.on_change is not None, name
    for name, group in declaration().groups():
        assert group.meaning, name


GIVEN = {bool: "true", int: "3", float: "0.5", str: "text", tuple: "('a',)"}
READ = {bool: True, int: 3, float: 0.5, str: "text", tuple: ("a",)}


@pytest.fixture
def parse(monkeypatch):
    """(flag) -> the default config with this flag, as parsed by `main.py`."""

    def parsed(flag):
        argv = ["program", f"--config.{flag}"]
        monkeypatch.setattr(sys, "argv", argv)  # where the library looks for overrides
        values = flags.FlagValues()
        holder = config_flags.DEFINE_config_dict("config", default_config(), flag_values=values)
        values(argv)
        return holder.value

    return parsed


@pytest.mark.parametrize("name", KEYS)
def test_every_key_can_be_given_as_a_flag(parse, name):
    kind = KEYS[name].kind
    value = config_lib.flatten(parse(f"{name}={GIVEN[kind]}"))[name]
    assert (value, type(value)) == (READ[kind], kind)


@pytest.mark.parametrize("flag", ["batch_size=x", "learning_rate=x", "debug=x", "batch_sise=3"])
def test_a_flag_that_fits_no_key_or_not_its_type_is_refused(parse, flag):
    with pytest.raises((flags.Error, AttributeError, KeyError)):
        parse(flag)


def test_each_config_is_one_of_its_own():
    changed = default_config()
    changed.dataset.name = changed.graph_encoder.name = "other"
    assert default_config().dataset.name == "materials_project_mini"
    assert default_config().graph_encoder.name == "painn"


def test_differences_are_named_and_a_tuple_equals_its_saved_list():
    config = base.get_config()
    saved = json.loads(config_lib.to_json(config))
    assert config_lib.differences(saved, config.to_dict()) == []
    config.checkpoint.save_top_k = 7
    config.max_epochs = 99
    assert config_lib.differences(saved, config.to_dict()) == [
        ("checkpoint.save_top_k", saved["checkpoint"]["save_top_k"], 7),
        ("max_epochs", saved["max_epochs"], 99),
    ]


def test_a_saved_config_is_read_unchanged():
    config = base.get_config()
    again = config_lib.from_plain(json.loads(config_lib.to_json(config)))
    assert config_lib.to_json(again) == config_lib.to_json(config)
    check.validate(again)


def test_a_key_missing_in_a_saved_config_has_its_default():
    saved = {"max_epochs": 7, "graph_encoder": {"name": "cgcnn"}, "gone": 1}
    complete = config_lib.with_defaults(saved)
    assert complete["max_epochs"] == 7 and complete["gone"] == 1
    assert complete["graph_encoder"]["cutoff"] == 6.0
    assert complete["graph_encoder"]["n_conv"] == 3
    with pytest.raises((KeyError, AttributeError)):
        config_lib.from_plain(saved)


def test_the_public_names_are_those_of_the_schema_and_cost_no_jax():
    code = (
        "import sys, clac_jax.config as public; assert 'ml_collections' not in sys.modules;"
        "public.default_config; assert 'jax' not in sys.modules;"
        "from clac_jax.config.schema import ConfigError; assert public.ConfigError is ConfigError"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'defaults'"):
        _ = __import__("clac_jax.config").config.defaults
