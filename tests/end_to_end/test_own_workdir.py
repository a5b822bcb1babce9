"""A run started again in its own workdir, with a changed config or after it finished."""

import shutil

import numpy as np
import pytest
from etils import epath
from helpers.small_runs import STEPS_PER_EPOCH, StopsAt, arrays_at, assert_same
from helpers.user_tables import row, write

from clac_jax.checkpoint.layout import read_info, step_folders
from clac_jax.distributed.preemption import Preempted
from clac_jax.reporting.metrics_file import read_rows
from clac_jax.training_run import train


@pytest.fixture
def again(stage1, small_config, tmp_path):
    """(**changes) -> the workdir of a finished run that was started again with the changes."""

    def start(**changes):
        workdir = tmp_path / "run"
        if not workdir.exists():
            shutil.copytree(stage1, workdir)
        train(small_config(**changes), workdir)
        return workdir

    return start


def steps(workdir):
    return list(step_folders(epath.Path(workdir) / "checkpoints"))


def only_test_row(workdir):
    (row,) = (row for row in read_rows(workdir / "metrics.jsonl") if row["split"] == "test")
    return row


# With a rate of 0 nothing improves, so the best checkpoint is older than the change.
STILL = {"learning_rate": 0.0, "min_learning_rate": 0.0, "max_epochs": 3}
HEADS = {"use_visual_intramodal_loss": True, "restore__strict": False}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"optimizer__name": "sgd"}, id="optimizer"),
        # Slow; `checkpoint/test_best.py` skips checkpoints of other models too.
        pytest.param(HEADS, id="heads", marks=pytest.mark.slow),
    ],
)
def test_a_run_ends_whose_best_checkpoint_is_older_than_a_change(again, change, capsys):
    workdir = again(**change, **STILL)
    row = only_test_row(workdir)
    assert row["step"] == 3 * STEPS_PER_EPOCH
    if "use_visual_intramodal_loss" in change:  # the old ones belong to a different model
        assert row["checkpoint_step"] == row["step"]
        assert "8 is not tested: its parameters are not the model's" in capsys.readouterr().err
    else:
        assert row["checkpoint_step"] <= 2 * STEPS_PER_EPOCH


@pytest.mark.slow
def test_unfrozen_parameters_begin_with_updates_of_a_fresh_adam(small_config, tmp_path):
    """In a run; `checkpoint/test_moments.py` has the first step."""
    rate = 1e-3
    plain = {
        "learning_rate": rate,
        "schedule": "constant",
        "warmup_steps": 0,
        "gradient_clip": 0.0,
        "weight_decay": 0.0,
        "optimizer__learning_rate_factors": (),
    }
    train(small_config(frozen=("text_encoder/.*",), **plain), tmp_path)
    train(small_config(frozen=(), max_epochs=3, checkpoint__every_n_steps=1, **plain), tmp_path)
    before, after = arrays_at(tmp_path, 8), arrays_at(tmp_path, 9)
    paths = [path for path in before if path.startswith("params/text_encoder/layer_")]
    moved = np.concatenate([np.abs(after[p] - before[p]).ravel() / rate for p in paths])
    assert np.max(moved) < 1.001
    assert np.median(moved) == pytest.approx(1.0, rel=1e-2)  # 0.49 with the other counts


@pytest.mark.slow
def test_a_finished_run_that_dropped_its_last_checkpoint_trains_nothing(
    small_config, tmp_path, capsys
):
    config = small_config(checkpoint__save_last=False, checkpoint__save_top_k=1)
    # The first validation stays the best, whatever the numbers are.
    config.learning_rate = config.min_learning_rate = 0.0
    train(config, tmp_path)
    before = read_rows(tmp_path / "metrics.jsonl")
    assert steps(tmp_path) == [4]
    capsys.readouterr()
    train(config, tmp_path)
    assert read_rows(tmp_path / "metrics.jsonl") == before  # timings too: no step was trained
    assert "this run has ended; its checkpoint of step 8 is gone" in capsys.readouterr().out
    assert only_test_row(tmp_path)["checkpoint_step"] == 4


@pytest.mark.slow
def test_early_stopping_is_named_with_what_to_raise(small_config, tmp_path, capsys):
    still = {"learning_rate": 0.0, "min_learning_rate": 0.0, "max_epochs": 3}
    config = small_config(early_stopping_patience=1, **still)
    words = "stopped early after 2 of 3 epochs, step 8: 1 validation without a better val_loss"
    train(config, tmp_path)
    assert words in capsys.readouterr().out
    config.max_epochs = 4
    train(config, tmp_path)
    said = capsys.readouterr().out
    assert words.replace("of 3", "of 4") in said
    assert "raise early_stopping_patience, now 1, to train further" in said


def test_a_trained_run_continued_by_another_is_saved_there(stage1, small_config, tmp_path, capsys):
    train(small_config(resume_from=str(stage1)), tmp_path)
    assert_same(arrays_at(tmp_path, 8), arrays_at(stage1, 8))
    said = capsys.readouterr().out
    assert "all 2 epochs are trained, step 8; raise max_epochs to train further" in said
    assert "leave progress out of restore.parts" in said
    assert only_test_row(tmp_path)["checkpoint_step"] == 8


def test_a_save_that_is_due_on_an_epochs_last_step_follows_its_validation(small_config, tmp_path):
    options = {"checkpoint__keep_every_n_steps": 4, "checkpoint__every_n_epochs": 2}
    options["checkpoint__save_top_k"] = 0
    train(small_config(max_epochs=3, **options), tmp_path)
    assert steps(tmp_path) == [4, 8, 12]
    info = read_info(epath.Path(tmp_path) / "checkpoints" / "4")
    assert "val_loss" in info.metrics and info.ended_epoch == 0


@pytest.mark.slow
def test_a_table_whose_content_was_replaced_is_not_resumed_in_mid_epoch(
    small_config, tmp_path, capsys
):
    table = tmp_path / "table.jsonl"
    config = small_config(
        dataset__name="gpt_narratives",
        dataset__path=str(table),
        dataset__data_dir=str(tmp_path / "data"),
        dataset__max_examples=16,
        checkpoint__every_n_steps=1,
    )
    write(table, [row(k) for k in range(60)])
    with pytest.raises(Preempted):
        train(config, tmp_path / "run", StopsAt(3))
    assert steps(tmp_path / "run") == [1, 2, 3]
    write(table, [row(k, gpt_text=f"Another crystal, number {k}.") for k in range(60)])
    capsys.readouterr()
    train(config, tmp_path / "run")
    said = capsys.readouterr().out
    assert "the training data are not those of the checkpoint: epoch 0 starts over" in said
    rows = [r["examples_seen"] for r in read_rows(tmp_path / "run" / "metrics.jsonl")]
    assert rows[-1] == 4 * (3 + 2 * STEPS_PER_EPOCH)
