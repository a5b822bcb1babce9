"""A run with adapters of its text encoder, on the weights of another run."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers.paths import ROOT
from helpers.small_runs import STEPS_PER_EPOCH, arrays_at, assert_same
from helpers.workdirs import assert_equal_runs

import clac_jax
from clac_jax.checkpoint.adapters import ADAPTER_FILE, AdapterError, read_adapter
from clac_jax.checkpoint.arrays import read_arrays
from clac_jax.checkpoint.averages import evaluated_path
from clac_jax.checkpoint.inspect import list_run
from clac_jax.checkpoint.layout import read_all
from clac_jax.checkpoint.locate import locate
from clac_jax.checkpoint.restore import TreeMismatchError
from clac_jax.cli import main as cli
from clac_jax.config.adapters import is_adapter
from clac_jax.config.schema import default_config
from clac_jax.inference.errors import LoadError
from clac_jax.training_run import train

pytestmark = pytest.mark.slow  # `models/text/test_lora.py` has the adapters themselves

TEXTS = ["A cubic crystal of sodium chloride.", "Silicon."]
LAST = 2 * STEPS_PER_EPOCH


def changes_for(stage1):
    return {
        "text_encoder__lora__rank": 2,
        "text_encoder__lora__targets": ("query", "value", "output"),
        "optimizer__learning_rate_factors": ((".*/lora_[ab]", 10.0),),
        "frozen": (),
        "resume_from": f"{stage1}@best",
        "restore__parts": ("params", "batch_stats"),
        "checkpoint__every_n_steps": 1,
    }


@pytest.fixture(scope="module")
def adapted(stage1, small_config, tmp_path_factory):
    """The workdir of a run with adapters, with a checkpoint of every step."""
    workdir = tmp_path_factory.mktemp("adapted") / "run"
    train(small_config(**changes_for(stage1)), workdir)
    return workdir


def base_of(arrays):
    return {
        path: leaf
        for path, leaf in arrays.items()
        if path.startswith("params/text_encoder/")
        and not is_adapter(path)
        and "pooling" not in path
    }


def export(*arguments):
    return cli.main(["ckpt", "export", *map(str, arguments)])


def vectors(model):
    return model.embed_texts(TEXTS, progress=False)


def test_only_the_adapters_of_the_text_encoder_are_trained(stage1, adapted):
    saved = locate(f"{stage1}@best")
    before = base_of(read_arrays(saved, saved.leaves))
    first, last = arrays_at(adapted, 1), arrays_at(adapted, LAST)
    assert len(before) > 10
    assert_same(base_of(first), before)
    assert_same(base_of(last), before)
    adapters = [path for path in last if path.startswith("params/") and is_adapter(path)]
    assert len(adapters) == 2 * 3
    assert all(np.any(last[path] != first[path]) for path in adapters)
    report = json.loads((adapted / "restore_report.json").read_text())
    fresh = {row["path"] for row in report["arrays"] if row["outcome"] == "initialized"}
    assert {path for path in fresh if path.startswith("params/")} == set(adapters), "not an error"
    moments = [path for path in last if path.startswith("opt_state/") and "/text_encoder/" in path]
    assert all(is_adapter(path) or "/pooling/" in path for path in moments)


def test_frozen_weights_are_stored_once(adapted):
    intact, damaged = read_all(locate(str(adapted)).folder.parent)
    rows = {row["step"]: row for row in list_run(intact, damaged)}
    words = 4 * 30522 * 16
    assert rows[LAST]["bytes"] > words > 4 * rows[LAST]["own_bytes"]


def test_a_run_with_adapters_resumes_bit_for_bit(stage1, adapted, small_config, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(adapted, workdir)
    for step in range(4, LAST + 1):
        shutil.rmtree(workdir / "checkpoints" / str(step))
    train(small_config(**changes_for(stage1)), workdir)
    assert_same(arrays_at(workdir, LAST), arrays_at(adapted, LAST))
    assert_equal_runs(workdir, adapted)


@pytest.fixture(scope="module")
def merged(adapted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("merged") / "model"
    assert export(f"{adapted}@last", folder, "--merge") == 0
    return folder


@pytest.fixture(scope="module")
def exported(adapted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "adapter"
    assert export(f"{adapted}@last", folder, "--adapter") == 0
    return folder


def test_merged_the_model_is_an_ordinary_one_with_the_same_output(adapted, merged):
    model, plain = clac_jax.load(f"{adapted}@last"), clac_jax.load(merged)
    assert plain.config.text_encoder.lora.rank == 0
    assert not (merged / "proof.json").exists(), "no run has saved these arrays"
    params = plain.variables["params"]["text_encoder"]
    assert not any("lora" in jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(params))
    expected = vectors(model)
    base = clac_jax.load(f"{adapted}@step=1")
    assert np.abs(vectors(base) - expected).max() > 1e-4
    np.testing.assert_allclose(vectors(plain), expected, atol=1e-6)


def test_adapters_and_their_base_are_the_model(stage1, adapted, exported):
    run = locate(f"{adapted}@last")
    arrays = read_adapter(exported).arrays
    assert set(arrays) == {
        path for path in run.leaves
        if path.startswith(("params/", "batch_stats/")) and path not in base_of(run.leaves)
    }  # fmt: skip
    assert (exported / ADAPTER_FILE).stat().st_size < 0.1 * 4 * 30522 * 16
    model = clac_jax.load(f"{stage1}@best", adapter=exported)
    assert model.step == LAST and model.config.text_encoder.lora.rank == 2
    np.testing.assert_array_equal(vectors(model), vectors(clac_jax.load(f"{adapted}@last")))


def test_adapters_without_or_on_another_base_are_refused(stage1, exported, tmp_path):
    with pytest.raises(LoadError, match=r"only adapters.*adapter="):
        clac_jax.load(exported)
    for other in (f"{stage1}@step=1", "mini"):
        with pytest.raises(LoadError, match=r"not the base of the adapters.*its weights differ"):
            clac_jax.load(other, adapter=exported)
    with pytest.raises(AdapterError, match=r"has no adapter\.safetensors"):
        clac_jax.load(f"{stage1}@best", adapter=tmp_path)
    shutil.copytree(exported, tmp_path / "changed")
    file = tmp_path / "changed" / ADAPTER_FILE
    file.write_bytes(file.read_bytes()[:-4] + b"\1\1\1\1")
    with pytest.raises(AdapterError, match="is not what was exported"):
        read_adapter(tmp_path / "changed")


@pytest.mark.parametrize("flag", ["--merge", "--adapter"])
def test_a_model_without_adapters_has_none_to_export(stage1, tmp_path, capsys, flag):
    assert export(f"{stage1}@best", tmp_path / "out", flag) == 2
    assert "has no adapters (text_encoder.lora.rank is 0)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_without_adapters_does_not_drop_those_of_a_checkpoint_unasked(
    adapted, small_config, tmp_path
):
    with pytest.raises(TreeMismatchError, match=r"only in the checkpoint \(6\).*(?s:.*)merge them"):
        train(small_config(resume_from=f"{adapted}@last"), tmp_path / "plain")


def test_an_average_of_adapters_says_that_it_is_not_that_of_their_products(
    adapted, tmp_path, capsys
):
    names = [f"{adapted}@step=7", f"{adapted}@last"]
    assert cli.main(["ckpt", "average", *names, "--out", str(tmp_path / "mean")]) == 0
    assert "merge them first" in capsys.readouterr().err


def test_the_default_config_has_no_adapters():
    assert default_config().text_encoder.lora.rank == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bfloat16", "ema__decay": 0.9},
        {"gradient_cache_chunks": 2, "accumulate_steps": 2},
        {"remat": ("text_encoder",), "reproducible": "layout", "layout_parts": 2},
        {"parallel": "shard_map", "sharding__what": "everything", "sharding__min_elements": 64},
    ],
    ids=["bfloat16 and ema", "chunks", "layout", "sharded"],
)
def test_every_way_of_training_resumes_with_adapters(stage1, small_config, tmp_path, changes):
    config = small_config(**changes_for(stage1), **changes)
    train(config, tmp_path / "run")
    steps = sorted(read_all(locate(str(tmp_path / "run")).folder.parent)[0])
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    for step in steps[len(steps) // 2 :]:
        shutil.rmtree(tmp_path / "again" / "checkpoints" / str(step))
    train(config, tmp_path / "again")
    assert_same(arrays_at(tmp_path / "again", steps[-1]), arrays_at(tmp_path / "run", steps[-1]))
    last = locate(str(tmp_path / "run"))
    adapters = [path for path in last.leaves if path.startswith("params/") and is_adapter(path)]
    averaged = [path for path in adapters if evaluated_path(last, path) != path]
    assert len(adapters) == 6 and len(averaged) == (6 if "ema__decay" in changes else 0)


def test_steps_with_adapters_are_replayed_and_proved(adapted, environment):
    for arguments in (["replay", "--step=6"], ["prove", "--segments=1"]):
        command = [sys.executable, "-m", "clac_jax", arguments[0], str(adapted), *arguments[1:]]
        done = subprocess.run(
            command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
