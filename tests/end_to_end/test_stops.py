"""A run that stops for now, by its config, and continues, equals an undisturbed one."""

import subprocess
import sys

import pytest
from helpers.paths import ROOT
from helpers.small_runs import arrays_at, assert_same, untimed

from clac_jax.checkpoint.layout import read_info
from clac_jax.reporting.event_reader import read_events
from clac_jax.reporting.events import EVENTS_FILE
from clac_jax.reporting.goodput import goodput
from clac_jax.reporting.metrics_file import read_rows
from clac_jax.training_run import train


def rows(workdir):
    return [untimed(row) for row in read_rows(workdir / "metrics.jsonl")]


@pytest.mark.slow
def test_stops_in_an_epoch_and_at_its_end_change_no_bit(stage1, small_config, tmp_path, capsys):
    every = {"checkpoint__every_n_steps": 1}
    assert train(small_config(stop_at_step=2, **every), tmp_path) == {}
    said = "stopped for now after 0 of 2 epochs, step 2, by stop_at_step=2; raise it"
    assert said in capsys.readouterr().out
    assert rows(tmp_path) == rows(stage1)[:2]

    at_first = small_config(stop_at_epoch=1, **every)
    assert train(at_first, tmp_path) == {}
    info = read_info(tmp_path / "checkpoints" / "4")
    assert (info.progress.epoch, info.progress.examples_in_epoch) == (1, 0)
    validation = rows(tmp_path)[-1]
    assert (validation["split"], info.metrics["val_loss"]) == ("val", validation["val_loss"])

    capsys.readouterr()
    row = train(small_config(stop_at_epoch=7, **every), tmp_path)  # past the end: no stop
    said = "changed   stop_at_epoch: 1 -> 7 (where the run stops for now; its schedule stays that"
    assert said in capsys.readouterr().out
    assert untimed(row) == rows(stage1)[-1]
    assert rows(tmp_path) == rows(stage1)
    assert_same(arrays_at(tmp_path, 8), arrays_at(stage1, 8))
    events, unread = read_events(tmp_path / EVENTS_FILE)
    assert [each["kind"] for each in events].count("ended") == 3
    report = goodput(events, unread)
    assert (report.starts, report.kills, report.lost_steps) == (3, 0, 0)


@pytest.mark.slow
def test_updates_of_several_batches_and_validations_without_a_save(small_config, tmp_path):
    """The stop saves a checkpoint that no undisturbed run has, and it is never the best one."""
    given = {
        "accumulate_steps": 2,
        "max_epochs": 4,
        "checkpoint__every_n_epochs": 2,
        "checkpoint__save_top_k": 1,
        "early_stopping_patience": 3,
    }
    train(small_config(**given), tmp_path / "undisturbed")
    for stop in ({"step": 1}, {"step": 2}, {"epoch": 2}, {"step": 5}, {"epoch": 3}):
        (kind, value), *_ = stop.items()
        config = small_config(**given, **{f"stop_at_{kind}": value})
        assert train(config, tmp_path / "stopped") == {}
    newest = read_info(tmp_path / "stopped" / "checkpoints" / "6")
    assert (newest.progress.epoch, newest.metrics) == (3, None)
    train(small_config(**given), tmp_path / "stopped")
    assert rows(tmp_path / "stopped") == rows(tmp_path / "undisturbed")
    steps = [
        sorted(path.name for path in (tmp_path / name / "checkpoints").glob("[0-9]*"))
        for name in ("stopped", "undisturbed")
    ]
    assert steps[0] == steps[1]
    for step in map(int, steps[0]):
        assert_same(
            arrays_at(tmp_path / "stopped", step), arrays_at(tmp_path / "undisturbed", step)
        )


@pytest.mark.slow
def test_a_run_at_its_stop_trains_and_writes_nothing(stage1, small_config, tmp_path, capsys):
    """Also if it started from another run's checkpoint, of which it keeps a copy."""
    config = small_config(stop_at_epoch=1, resume_from=f"{stage1}@step=6")
    for _ in range(2):
        assert train(config, tmp_path) == {}
        assert "step 6, by stop_at_epoch=1; raise it to train further" in capsys.readouterr().out
        assert [path.name for path in (tmp_path / "checkpoints").glob("[0-9]*")] == ["6"]
    assert_same(arrays_at(tmp_path, 6), arrays_at(stage1, 6))
    train(small_config(), tmp_path)
    assert_same(arrays_at(tmp_path, 8), arrays_at(stage1, 8))


@pytest.mark.slow
def test_the_program_exits_with_0_and_the_run_is_proved(run, environment, tmp_path):
    few = ("--config.graph_encoder.name=composition", "--config.dataset.max_examples=16")
    for stop in (1, 0):
        flags = (*few, "--config.max_epochs=2", f"--config.stop_at_epoch={stop}")
        done = run(tmp_path / "run", *flags)
        assert done.returncode == 0, done.stderr
        assert ("stopped for now after 1 of 2 epochs" in done.stdout) is bool(stop)
        assert (tmp_path / "run" / "report.png").exists() is not bool(stop)
        proved = subprocess.run(
            [sys.executable, "-m", "clac_jax", "prove", str(tmp_path / "run")],
            cwd=ROOT,
            env=environment(1),
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert proved.returncode == 0, proved.stdout + proved.stderr
