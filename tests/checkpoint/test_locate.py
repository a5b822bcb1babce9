"""Finding checkpoints by `RUN@best`, step, epoch or folder, and the errors if there is none."""

import os
import shutil

import pytest
from helpers.states import epochs, make_config, save_run

from clac_jax.checkpoint.files import DamagedCheckpointError
from clac_jax.checkpoint.locate import CheckpointNotFoundError, locate
from clac_jax.training.progress import RunProgress


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("home") / "outputs" / "stage1"
    steps = epochs(0.5, 0.2, 0.4)
    steps[35] = (RunProgress(step=35, epoch=3, examples_in_epoch=50), None)
    save_run(workdir, steps)
    return workdir


@pytest.mark.parametrize(
    "which, step",
    [
        ("", 35),
        ("@last", 35),
        ("@best", 20),
        ("@best=1", 20),
        ("@best=2", 30),
        ("@best:3", 10),
        ("@step=10", 10),
        ("@epoch=0", 10),
        ("@epoch=2", 30),
        ("@step:10", 10),
        ("@epoch:2", 30),
    ],
)
def test_names(run, which, step):
    assert locate(f"{run}{which}").step == step
    assert locate(f"{run / 'checkpoints'}{which}").step == step


def test_a_checkpoint_folder_also_where_it_was_copied_to(run, tmp_path):
    assert locate(str(run / "checkpoints" / "20")).step == 20
    shutil.copytree(run / "checkpoints" / "20", tmp_path / "my best")
    assert locate(str(tmp_path / "my best")).step == 20


def test_relative_and_home(run, monkeypatch):
    monkeypatch.chdir(run.parent)
    assert locate("stage1@best").step == 20
    monkeypatch.setenv("HOME", str(run.parent.parent))
    assert locate("~/outputs/stage1@best").step == 20
    assert locate("~/outputs/stage1/checkpoints/10/").step == 10


def test_a_folder_with_an_at_sign(run, tmp_path):
    shutil.copytree(run, tmp_path / "run@home")
    assert locate(f"{tmp_path}/run@home").step == 35
    assert locate(f"{tmp_path}/run@home@best").step == 20


@pytest.mark.parametrize(
    "name, words",
    [
        ("stage2", "did you mean"),
        ("stage1/checkpoints/21", "there are 10, 20, 30, 35"),
        ("stage1@step=21", "step=10 (epoch=0), step=20 (epoch=1), step=30 (epoch=2), step=35"),
        ("stage1@epoch=7", "none for @epoch=7"),
        ("stage1@newest", "is not understood"),
        ("stage1@best=0", "is not understood"),
        ("stage1@best=4", "only 3 checkpoints"),
        ("stage1@best=4", "Best first, there are step=20 (epoch=1), step=30 (epoch=2), step=10"),
        ("stage1/checkpoints/20@best", "is one checkpoint"),
    ],
)
def test_a_missing_checkpoint_is_reported_with_those_that_exist(run, monkeypatch, name, words):
    monkeypatch.chdir(run.parent)
    with pytest.raises(CheckpointNotFoundError) as error:
        locate(name)
    assert words in str(error.value)


def test_no_best_without_the_metric(tmp_path):
    save_run(tmp_path, epochs(None))
    with pytest.raises(CheckpointNotFoundError, match="val_loss"):
        locate(f"{tmp_path}@best")


def test_an_empty_folder(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match="holds none"):
        locate(str(tmp_path))


def test_of_damaged_ones_the_next_older_or_a_refusal(tmp_path):
    save_run(tmp_path, epochs(0.5, 0.2), config=make_config(save_top_k=-1))
    os.remove(tmp_path / "checkpoints" / "20" / "run" / "metadata")
    assert locate(str(tmp_path)).step == 10
    for name in ("@step=20", "/checkpoints/20"):
        with pytest.raises(DamagedCheckpointError, match="run/metadata"):
            locate(f"{tmp_path}{name}")
    os.remove(tmp_path / "checkpoints" / "10" / "files.json")
    with pytest.raises(DamagedCheckpointError):
        locate(str(tmp_path))
