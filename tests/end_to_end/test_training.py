"""Training through main.py: the files in its workdir, and that a kill changes nothing."""

import json
import signal
import subprocess

import numpy as np
import pytest
from helpers.paths import ROOT
from helpers.workdirs import assert_same_arrays, last_state, without_timing

from clac_jax.reporting.metrics_file import read_rows

TRAIN_FIELDS = {
    "split", "step", "epoch", "examples_seen", "loss", "cross_modal_loss", "visual_loss",
    "textual_loss", "learning_rate", "grad_norm", "examples_per_second", "data_wait_fraction",
}  # fmt: skip
RETRIEVAL = {
    f"{direction}_top{k}"
    for direction in ("text_to_crystal", "crystal_to_text")
    for k in (1, 3, 10)
}
POOL_FIELDS = {
    "split",
    "step",
    "epoch",
    "examples_seen",
    "pool_size",
    "val_acc_top1",
    "val_acc_top3",
}

# Compiles fastest.
COMPOSITION = "--config.graph_encoder.name=composition"

# Checkpoints within epochs too, so that a kill falls inside one; batches of two shapes.
FLAGS = (
    COMPOSITION,
    "--config.checkpoint.every_n_steps=3",
    "--config.max_epochs=2",
    "--config.input.max_batch_shapes=2",
)


@pytest.fixture(scope="module")
def finished(run_unforked, tmp_path_factory):
    """An undisturbed run: (workdir, its output)."""
    workdir = tmp_path_factory.mktemp("run") / "undisturbed"
    done = run_unforked(workdir, *FLAGS)
    assert done.returncode == 0, done.stderr
    return workdir, done


def test_workdir_holds_all_that_was_promised(finished):
    workdir, _ = finished
    rows = read_rows(workdir / "metrics.jsonl")
    by_split = {name: [r for r in rows if r["split"] == name] for name in ("train", "val", "test")}
    assert [row["step"] for row in by_split["train"]] == list(range(1, 17))
    assert all(row.keys() == TRAIN_FIELDS for row in by_split["train"])
    assert [row["epoch"] for row in by_split["val"]] == [0, 1]
    for row in by_split["val"]:
        assert row.keys() == POOL_FIELDS | RETRIEVAL | {"val_loss"}
    (test,) = by_split["test"]
    no_formula = {f"{name}_no_formula" for name in RETRIEVAL}
    assert test.keys() == POOL_FIELDS | RETRIEVAL | no_formula | {"test_loss", "checkpoint_step"}
    assert (workdir / "report.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((workdir / "config.json").read_text())["max_epochs"] == 2
    assert list((workdir / "tensorboard").glob("events.*"))
    kept = {int(path.name) for path in (workdir / "checkpoints").iterdir()}
    assert kept == {8, 16}  # the best two validations, the last among them


def test_says_what_it_does(finished):
    _, done = finished
    for words in ("fresh run", "8 per epoch x 2 epochs = 16", "text_encoder", "text -> crystal"):
        assert words in done.stdout
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr


def test_a_checkpoint_is_independent_of_the_devices(finished):
    workdir, _ = finished
    step, state = last_state(workdir)
    assert step == 16
    assert np.asarray(state["step"]).shape == ()
    assert np.asarray(state["key"]).shape == (2,)


@pytest.mark.slow
def test_a_decoder_with_its_language_model_loss(run, tmp_path):
    done = run(
        tmp_path / "run",
        "--config.text_encoder.config.model_type=opt",
        "--config.text_encoder.feature=last",
        "--config.lm_weight=0.1",
        "--config.frozen=()",
        "--config.max_epochs=1",
        COMPOSITION,
    )
    assert done.returncode == 0, done.stderr
    rows = [row for row in read_rows(tmp_path / "run" / "metrics.jsonl") if row["split"] == "train"]
    for row in rows:
        contrasts = row["cross_modal_loss"] + row["visual_loss"] + row["textual_loss"]
        np.testing.assert_allclose(row["loss"], contrasts + 0.1 * row["lm_loss"], rtol=1e-5)
    assert np.log(30522) * 0.8 < rows[0]["lm_loss"] < np.log(30522) * 1.2


@pytest.mark.slow
def test_killed_in_mid_epoch_and_started_again_equals_uninterrupted(
    finished, arguments, environment, programs, run, tmp_path
):
    """Killed right after the save of step 9; `test_interruption.py` kills at random instants."""
    workdir = tmp_path / "killed"
    process = programs[0].start(
        ["committed", 4, *arguments(workdir, *FLAGS)],
        environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        script=ROOT / "tests" / "helpers" / "killed_main.py",
    )
    assert process.wait(240) == -signal.SIGKILL
    assert read_rows(workdir / "metrics.jsonl")[-1]["step"] < 16

    again = run(workdir, *FLAGS)
    assert again.returncode == 0, again.stderr
    assert "resumed from its checkpoint" in again.stdout and "/checkpoints/9 " in again.stdout
    undisturbed, _ = finished
    assert without_timing(read_rows(workdir / "metrics.jsonl")) == without_timing(
        read_rows(undisturbed / "metrics.jsonl")
    )
    assert_same_arrays(last_state(workdir)[1], last_state(undisturbed)[1])


def test_a_finished_run_started_again_trains_nothing(finished, run):
    workdir, _ = finished
    before = without_timing(read_rows(workdir / "metrics.jsonl"))
    again = run(workdir, *FLAGS)
    assert again.returncode == 0, again.stderr
    assert without_timing(read_rows(workdir / "metrics.jsonl")) == before


@pytest.mark.slow
def test_two_devices_give_the_numbers_of_one(finished, run, tmp_path):
    done = run(tmp_path / "two", *FLAGS, devices=2)
    assert done.returncode == 0, done.stderr
    assert "2 x cpu" in done.stdout
    rows = zip(
        read_rows(tmp_path / "two" / "metrics.jsonl"),
        read_rows(finished[0] / "metrics.jsonl"),
        strict=True,
    )
    for two, one in rows:
        if one["split"] == "train":
            assert two["loss"] == pytest.approx(one["loss"], rel=2e-3)
            assert two["examples_seen"] == one["examples_seen"]


def test_debug_is_one_epoch_of_a_handful(run, tmp_path):
    # With one contrast it compiles faster.
    done = run(
        tmp_path / "debug",
        "--config.debug=True",
        "--config.dataset.max_examples=8",
        "--config.use_visual_intramodal_loss=False",
        "--config.use_textual_intramodal_loss=False",
        COMPOSITION,
    )
    assert done.returncode == 0, done.stderr
    assert "2 per epoch x 1 epoch = 2" in done.stdout


@pytest.mark.slow
def test_early_stopping(run, tmp_path):
    """In the program; `test_own_workdir.py` has the same in a test's process."""
    done = run(
        tmp_path / "early",
        "--config.max_epochs=6",
        "--config.early_stopping_patience=1",
        "--config.learning_rate=0.0",
        "--config.warmup_steps=0",
        "--config.checkpoint.monitor=text_to_crystal_top10",
        "--config.checkpoint.mode=max",
        "--config.dataset.max_examples=16",
        COMPOSITION,
    )
    assert done.returncode == 0, done.stderr
    epochs = [
        r["epoch"] for r in read_rows(tmp_path / "early/metrics.jsonl") if r["split"] == "val"
    ]
    assert len(epochs) < 6
