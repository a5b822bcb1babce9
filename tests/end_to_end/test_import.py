"""A run of the PyTorch release continues here, through the real programs."""

import os
import subprocess

import numpy as np
import pytest
from helpers.paths import ROOT
from helpers.torch_writer import save

from clac_jax.checkpoint.arrays import read_arrays
from clac_jax.checkpoint.locate import locate
from clac_jax.cli import main as cli
from clac_jax.errors import EXIT_USER_ERROR
from clac_jax.files.torch import read_torch_file
from clac_jax.interop.lightning import read_lightning
from clac_jax.reporting.metrics_file import read_rows

FOLDER = ROOT / "tests" / "data" / "lightning"


@pytest.mark.slow
def test_main_resumes_from_an_import(tmp_path, capsys, data_dir, environment, programs):
    workdir = tmp_path / "run"
    arguments = ["--workdir", str(workdir), "--text-encoder", str(FOLDER / "hf_bert")]
    file = FOLDER / "painn_bert" / "last.ckpt"
    assert cli.main(["import", "lightning", str(file), *arguments]) == 0
    printed = capsys.readouterr().out
    for words in ("124 parameters", "next      epoch 2, step 7", f"--workdir={workdir}"):
        assert words in printed
    info = locate(f"{workdir}@last")
    expected = read_lightning(file, str(FOLDER / "hf_bert")).arrays
    for path, leaf in read_arrays(info, info.leaves).items():
        np.testing.assert_array_equal(leaf, expected[path], err_msg=path)
    # A second import would hide the first.
    assert cli.main(["import", "lightning", str(file), *arguments]) == EXIT_USER_ERROR
    assert "holds checkpoints already" in capsys.readouterr().err

    program, command, *flags = printed.splitlines()[-1].removeprefix("resume").split()
    assert (program, command) == ("clac-jax", "train")
    resumed = programs[0].start(
        [
            *flags,
            f"--config.dataset.data_dir={data_dir}",
            f"--config.compilation_cache={os.environ['JAX_COMPILATION_CACHE_DIR']}",
            "--config.dataset.max_examples=16",
            "--config.text_encoder.max_length=32",
            "--config.max_epochs=3",
            "--config.log_every_n_steps=1",
            "--config.input.max_batch_shapes=1",  # one program to trace
        ],
        environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = resumed.communicate(timeout=240)
    assert resumed.returncode == 0, output
    assert "(epoch 2, example 0 of 16)" in output and "does not exist" not in output
    rows = [row for row in read_rows(workdir / "metrics.jsonl") if row["split"] == "train"]
    assert [(row["epoch"], row["step"]) for row in rows] == [(2, 7), (2, 8), (2, 9), (2, 10)]


def test_a_checkpoint_of_weights_only_becomes_a_run_that_says_what_is_missing(tmp_path, capsys):
    saved = read_torch_file(FOLDER / "cgcnn_opt" / "last.ckpt")
    for key in ("optimizer_states", "lr_schedulers", "callbacks", "hyper_parameters"):
        del saved[key]
    save(saved, tmp_path / "weights.ckpt")
    arguments = ["--workdir", str(tmp_path / "run"), "--text-encoder", str(FOLDER / "hf_opt")]
    assert cli.main(["import", "lightning", str(tmp_path / "weights.ckpt"), *arguments]) == 0
    printed = capsys.readouterr().out
    for words in (
        "missing   hyper_parameters: ",
        "missing   optimizer_states: ",
        "next      epoch 2",
    ):
        assert words in printed
    assert locate(str(tmp_path / "run")).step == 6
    assert read_rows(tmp_path / "run" / "metrics.jsonl") == []  # or a resume would warn of it


def test_a_folder_that_is_not_empty_is_left_as_it_is(tmp_path, capsys):
    (tmp_path / "config.json").write_text("mine")
    file = FOLDER / "painn_bert" / "last.ckpt"
    arguments = ["--workdir", str(tmp_path), "--text-encoder", str(FOLDER / "hf_bert")]
    assert cli.main(["import", "lightning", str(file), *arguments]) == EXIT_USER_ERROR
    message = capsys.readouterr().err
    assert "is not empty: it holds config.json" in message and message.count("\n") == 1
    assert (tmp_path / "config.json").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("content", [{"model": {"a": np.ones(3)}}, [np.ones(3)], {"state_dict": 7}])
def test_checkpoints_of_other_programs_are_refused_in_one_line(tmp_path, capsys, content):
    save(content, tmp_path / "other.ckpt")
    arguments = ["--workdir", str(tmp_path / "run")]
    code = cli.main(["import", "lightning", str(tmp_path / "other.ckpt"), *arguments])
    assert code == EXIT_USER_ERROR
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1 and "state_dict" in message
