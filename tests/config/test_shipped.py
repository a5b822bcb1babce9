"""The configs that come with the package."""

import os
import subprocess
import sys
from pathlib import Path

import ml_collections
import pytest

from clac_jax.config.schema import ConfigError
from clac_jax.config.shipped import config_folder, shipped_config, shipped_names
from configs import base, losses, smoke

ROOT = Path(__file__).parents[2]


def test_in_a_clone_they_are_those_of_its_folder():
    assert config_folder() == ROOT / "configs"
    assert {"base", "clac_paper", "saved", "smoke"} <= set(shipped_names())
    assert "__init__" not in shipped_names()


def test_a_config_is_the_same_by_its_name():
    assert shipped_config("base") == base.get_config()
    assert shipped_config("losses", "siglip") == losses.get_config("siglip")
    assert smoke.get_config().text_encoder.feature == shipped_config("base").text_encoder.feature


def test_each_call_makes_a_config_of_its_own():
    shipped_config("base").batch_size = 1
    assert shipped_config("base").batch_size != 1


@pytest.mark.parametrize("name", [name for name in shipped_names() if name != "saved"])
def test_every_config_loads_by_its_name(name):
    assert isinstance(shipped_config(name), ml_collections.ConfigDict)


def test_a_misspelt_name():
    with pytest.raises(ConfigError, match=r"'smok'\. Did you mean 'smoke'\?.*or the path"):
        shipped_config("smok")


def test_configs_need_no_package_of_theirs(tmp_path):
    """A wheel has no top-level package `configs`, and a user may have one of their own."""
    (tmp_path / "configs.py").write_text("raise ImportError('not this one')\n")
    program = (
        "from clac_jax.config.shipped import shipped_config as c; print(c('smoke').batch_size)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "4\n", done.stderr
