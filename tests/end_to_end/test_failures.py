"""Errors that stop the training loop, and the state of the run on disk afterwards."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from etils import epath
from helpers.small_runs import (
    StopsAt,
    arrays_at,
    assert_same,
    batches_that_end_with,
    train_rows,
    untimed,
)

from clac_jax.checkpoint.layout import step_folders
from clac_jax.checkpoint.manager import CheckpointError, Checkpoints
from clac_jax.config.schema import to_json
from clac_jax.datasets.record import DataError
from clac_jax.distributed.preemption import Preempted, StopSignals
from clac_jax.errors import WorkdirError
from clac_jax.input_pipeline.run_data import RunData
from clac_jax.reporting.metrics_file import MetricsFile, read_rows
from clac_jax.run import TrainingDivergedError
from clac_jax.tasks.contrastive import Contrastive
from clac_jax.training.parallel import Pmap
from clac_jax.training_run import _stop_behind, train


def steps(workdir):
    return list(step_folders(epath.Path(workdir) / "checkpoints"))


def test_bad_data_in_mid_epoch_costs_no_step(stage1, small_config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        broken = batches_that_end_with(DataError("Example 7 cannot be used."), after=2)
        patch.setattr(RunData, "train_batches", broken)
        with pytest.raises(DataError, match="Example 7"):
            train(small_config(), tmp_path)
    assert steps(tmp_path)[-1] == 6
    train(small_config(), tmp_path)  # the data were fixed
    assert_same(arrays_at(tmp_path, 8), arrays_at(stage1, 8))
    assert list(map(untimed, train_rows(tmp_path))) == list(map(untimed, train_rows(stage1)))


@pytest.mark.slow
def test_a_state_spread_over_devices_is_saved_too(small_config, environment, programs, tmp_path):
    spread = {"parallel": "shard_map", "sharding__what": "everything", "sharding__min_elements": 1}
    config = tmp_path / "config.json"
    config.write_text(to_json(small_config(**spread)))
    script = Path(__file__).parents[1] / "helpers" / "train_that_fails.py"
    workdir = tmp_path / "run"
    process = programs[0].start(
        [config, workdir], environment(devices=2), stderr=subprocess.PIPE, script=script
    )
    _, errors = process.communicate(timeout=240)
    assert "Example 7 cannot be used" in errors
    assert steps(workdir)[-1] == 6


def test_a_row_that_cannot_be_written_is_never_older_than_a_checkpoint(
    stage1, small_config, tmp_path, monkeypatch
):
    original = MetricsFile.write

    def write(self, row):
        if row["step"] == 6:
            raise WorkdirError("Cannot write metrics.jsonl: No space left on device.")
        original(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsFile, "write", write)
        with pytest.raises(WorkdirError):
            train(small_config(), tmp_path)
    assert steps(tmp_path)[-1] == 4
    train(small_config(), tmp_path)
    assert list(map(untimed, train_rows(tmp_path))) == list(map(untimed, train_rows(stage1)))


def test_numbers_that_are_none_are_not_saved(small_config, tmp_path):
    with pytest.raises(TrainingDivergedError):
        train(small_config(learning_rate=1e30, gradient_clip=0.0, warmup_steps=0), tmp_path)
    assert steps(tmp_path) == []


# The only step is finite, and the parameters after it are beyond all bounds.
TOO_FAR = {
    "batch_size": 16,
    "max_epochs": 1,
    "schedule": "constant",
    "warmup_steps": 0,
    "learning_rate": 1e25,
    "gradient_clip": 0.0,
}


def test_a_validation_that_is_not_finite_is_neither_ranked_nor_saved(small_config, tmp_path):
    with pytest.raises(TrainingDivergedError, match="step 1 the validation has val_loss = nan"):
        train(small_config(**TOO_FAR), tmp_path)
    assert [row["split"] for row in read_rows(tmp_path / "metrics.jsonl")] == ["train"]
    assert not steps(tmp_path)


def test_a_run_that_begins_with_such_a_validation_names_the_checkpoint(small_config, tmp_path):
    with pytest.raises(Preempted):
        train(small_config(**TOO_FAR), tmp_path, StopsAt(2))
    assert steps(tmp_path) == [1]
    with pytest.raises(TrainingDivergedError, match="began at this step: move its checkpoint"):
        train(small_config(**TOO_FAR), tmp_path)


def test_a_final_test_that_is_not_finite_writes_no_row(small_config, tmp_path, monkeypatch):
    measures = {"test_loss": float("nan"), "pool_size": 16}
    monkeypatch.setattr(Contrastive, "test", lambda *_: (measures, lambda *_, **__: None))
    with pytest.raises(TrainingDivergedError, match="After step 4 the test has test_loss = nan"):
        train(small_config(max_epochs=1), tmp_path)
    assert read_rows(tmp_path / "metrics.jsonl")[-1]["split"] == "val"


def steps_that_end_with(error, stop, after):
    """Training steps of which the one after `after` fails, once a stop was requested."""
    original = Pmap.train

    def train(self, *arguments, **options):
        step, done = original(self, *arguments, **options), []

        def limited(state, batch):
            done.append(batch)
            if len(done) <= after:
                return step(state, batch)
            stop.request("SIGTERM")
            raise error

        return limited

    return train


@pytest.mark.slow
def test_a_signal_that_also_ends_the_compiler(stage1, small_config, tmp_path, monkeypatch):
    """A job's signal reaches `ptxas`, too; the run is saved and says that it was asked to stop."""
    killed = jax.errors.JaxRuntimeError("INTERNAL: ptxas exited with non-zero error code 15")
    stop = StopSignals()
    with monkeypatch.context() as patch:
        patch.setattr(Pmap, "train", steps_that_end_with(killed, stop, after=2))
        with pytest.raises(Preempted):
            train(small_config(), tmp_path, stop)
    assert steps(tmp_path) == [2]
    train(small_config(), tmp_path)
    assert_same(arrays_at(tmp_path, 8), arrays_at(stage1, 8))


def test_a_step_that_failed_is_a_stop_only_if_one_was_requested_and_all_can_be_saved():
    killed, state = jax.errors.JaxRuntimeError("INTERNAL: ptxas"), jax.numpy.ones(2)
    asked, unasked = StopSignals(), StopSignals()
    asked.set_unsaved_work(True)
    asked.request("SIGTERM")

    def behind(stop, error=killed, step=3):
        current = SimpleNamespace(state={"w": state}, progress=SimpleNamespace(step=step))
        return _stop_behind(SimpleNamespace(stop=stop, current=current), error)

    assert isinstance(behind(asked), Preempted)
    assert behind(unasked) is None
    assert behind(asked, error=ValueError("a fault of our own")) is None
    assert behind(asked, step=0) is None, "there is nothing to save"
    state.delete()
    assert behind(asked) is None, "the step has consumed the state"


@pytest.mark.parametrize(
    "on_failure, step",
    [
        ("continue", 4),
        pytest.param("continue", 8, marks=pytest.mark.slow),
        pytest.param("stop", 4, marks=pytest.mark.slow),
    ],
)
def test_a_save_that_fails(stage1, small_config, tmp_path, monkeypatch, on_failure, step, capfd):
    original = Checkpoints._save

    def save(self, arrays, info):
        if info.step == step:
            raise OSError(28, "No space left on device")
        original(self, arrays, info)

    monkeypatch.setattr(Checkpoints, "_save", save)
    options = {"checkpoint__retries": 1, "checkpoint__retry_seconds": 0.0}
    config = small_config(checkpoint__on_failure=on_failure, **options)
    if on_failure == "stop" or step == 8:  # the last one is never skipped
        with pytest.raises(CheckpointError, match="No space left"):
            train(config, tmp_path)
    else:
        train(config, tmp_path)
        assert steps(tmp_path) == [8]
        assert_same(arrays_at(tmp_path, 8), arrays_at(stage1, 8))
    assert "No space left on device" in capfd.readouterr().err


# Queried after each of the 4 steps of an epoch and before the one batch of its validation.
AFTER = {"the first step": 1, "an epoch's last step": 4, "a validation": 5, "all steps": 10}
# In the real program, `test_interruption.py` stops runs after steps and in the test.
QUICK = ("a validation",)


@pytest.mark.parametrize(
    "questions",
    [
        pytest.param(number, id=name, marks=() if name in QUICK else pytest.mark.slow)
        for name, number in AFTER.items()
    ],
)
def test_a_signal_loses_nothing(stage1, small_config, tmp_path, questions):
    with pytest.raises(Preempted):
        train(small_config(), tmp_path, StopsAt(questions))
    assert steps(tmp_path)[-1] == train_rows(tmp_path)[-1]["step"]
    train(small_config(), tmp_path)
    assert_same(arrays_at(tmp_path, 8), arrays_at(stage1, 8))
    assert list(map(untimed, train_rows(tmp_path))) == list(map(untimed, train_rows(stage1)))


@pytest.mark.slow
def test_milestones_and_minutes(small_config, tmp_path):
    milestones = {"checkpoint__keep_every_n_steps": 3, "checkpoint__save_top_k": 0}
    train(small_config(**milestones), tmp_path / "milestones")
    assert steps(tmp_path / "milestones") == [3, 6, 8]
    minutes = {"checkpoint__every_n_minutes": 1e-9, "checkpoint__every_n_epochs": 2}
    train(small_config(**minutes), tmp_path / "minutes")
    assert steps(tmp_path / "minutes") == [1, 2, 3, 4, 5, 6, 7, 8]
