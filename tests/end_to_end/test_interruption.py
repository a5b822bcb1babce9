"""Killed, pre-empted or damaged, a resumed run equals an undisturbed one."""

import contextlib
import functools
import itertools
import os
import random
import signal
import subprocess
import time

import pytest
from helpers.bucket_programs import (
    QUICK_MOMENTS,
    BucketProgram,
    check_bucket_kills,
    store_with_faults,
)
from helpers.damage import DAMAGES
from helpers.workdirs import assert_equal_runs, last_state, until

from clac_jax.distributed.preemption import EXIT_PREEMPTED
from clac_jax.errors import EXIT_USER_ERROR
from clac_jax.reporting.event_reader import read_events
from clac_jax.reporting.goodput import goodput
from clac_jax.reporting.metrics_file import read_rows

# Saves every second step, so that many kills fall into a save.
FLAGS = (
    "--config.checkpoint.every_n_steps=2",
    "--config.max_epochs=2",
    "--config.graph_encoder.name=composition",
    "--config.use_visual_intramodal_loss=False",
    "--config.use_textual_intramodal_loss=False",
)


@pytest.fixture(scope="module")
def undisturbed(run, tmp_path_factory):
    """The workdir of an undisturbed run."""
    workdir = tmp_path_factory.mktemp("run") / "undisturbed"
    done = run(workdir, *FLAGS)
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture
def start(begin):
    """(workdir, *flags) -> the running program; its output goes to a file next to the workdir."""

    def begin_with_log(workdir, *flags):
        with open(f"{workdir}.log", "a", encoding="utf-8") as log:
            return begin(workdir, *FLAGS, *flags, stdout=log, stderr=log)

    return begin_with_log


def kill_at_random(start, workdir, rng, kills, *flags):
    """Starts the run again and again, each time with a kill at a random instant.

    Half of the kills fall into a save: they follow shortly after a temporary folder appears.

    Returns:
        The number of kills; fewer than requested if the run finished.
    """
    for number in range(kills):
        started = time.time()
        process = start(workdir, *flags)
        rows = len(read_rows(workdir / "metrics.jsonl")) + rng.randrange(3)
        where = rng.choice(["save", "save", "step", "anywhere"])
        if where == "save":
            until(lambda: is_saving(workdir / "checkpoints", started), process)  # noqa: B023
            time.sleep(rng.random() * 0.08)
        elif where == "step":
            until(functools.partial(has_rows, workdir, rows), process)
            time.sleep(rng.random() * 0.2)
        else:
            time.sleep(rng.random() * 6)  # including during its start
        process.send_signal(signal.SIGKILL)
        process.wait()
        if process.returncode == 0:
            return number
        assert process.returncode == -signal.SIGKILL
    return kills


def is_saving(checkpoints, since):
    """Whether the temporary folder of this process exists, which lasts hundredths of a second.

    A killed save also leaves one, which the next process removes.
    """
    if not checkpoints.is_dir():
        return False
    times = []
    for path in checkpoints.glob("*tmp*"):
        with contextlib.suppress(FileNotFoundError):
            times.append(path.stat().st_mtime)
    return any(made >= since for made in times)


def has_rows(workdir, count):
    return len(read_rows(workdir / "metrics.jsonl")) > count


def check_kills(start, run, undisturbed, workdir, kills, *flags):
    """Kills a run, lets it finish and compares; returns the number of kills."""
    began = time.time()
    killed = kill_at_random(start, workdir, random.Random(kills), kills, *flags)
    done = run(workdir, *FLAGS, *flags)
    assert done.returncode == 0, done.stderr
    assert_equal_runs(workdir, undisturbed)
    left = {path.name for path in (workdir / "checkpoints").iterdir()}
    assert all(name.isdigit() for name in left - {"damaged"}), "leftovers of a killed save"
    assert "damaged" not in left, "a kill left a damaged checkpoint"
    check_account(workdir, killed, began)
    return killed


def check_account(workdir, killed, began):
    """Asserts that the account of the run's time covers all of it, and each moment once."""
    events, unread = read_events(workdir / "events.jsonl")
    account = goodput(events, unread)
    wall = events[-1]["at"] - events[0]["began"]
    # A kill between the end of the run and that of its process: the time after it does not count.
    pairs = itertools.pairwise(events)
    wall -= sum(after["began"] - end["at"] for end, after in pairs if end["kind"] == "ended")
    assert account.wall == pytest.approx(wall, abs=0.01 * account.starts)
    assert began - 1 < events[0]["began"] and events[-1]["at"] < time.time() + 1
    assert account.kills <= killed and unread <= killed
    assert (account.seconds["lost"] > 0) == (account.lost_steps > 0)


def test_killed_at_random_instants(start, run, undisturbed, tmp_path):
    assert check_kills(start, run, undisturbed, tmp_path / "killed", 3) >= 2


@pytest.mark.parametrize("kills", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_killed_with_its_workdir_in_a_bucket(
    programs, environment, data_dir, undisturbed, tmp_path, kills
):
    """On an empty disk each time, and a store that misbehaves; `test_bucket_runs.py` has more."""
    with store_with_faults() as store:
        run = BucketProgram(programs[:1], environment(), store, tmp_path / "run", data_dir)
        assert check_bucket_kills(run, undisturbed, kills, QUICK_MOMENTS[:kills]) == kills
        assert len(store.control()["faults"]) >= kills


@pytest.mark.slow
def test_one_run_killed_a_hundred_times(start, run, tmp_path):
    longer = "--config.max_epochs=60"
    done = run(tmp_path / "undisturbed", *FLAGS, longer)
    assert done.returncode == 0, done.stderr
    assert (
        check_kills(start, run, tmp_path / "undisturbed", tmp_path / "killed", 100, longer) == 100
    )


@pytest.mark.slow
def test_asked_to_stop_while_it_validates(start, run, undisturbed, tmp_path):
    """The epoch's last step is saved before its validation, which then runs after the resume.

    In the program; `test_failures.py` has the same in a test's process.
    """
    workdir = tmp_path / "stopped"
    slow = "--config.eval_batch_size=2"  # changes the in-batch metrics, so the resume omits it
    process = start(workdir, slow)
    assert until(lambda: len(read_rows(workdir / "metrics.jsonl")) >= 8, process)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.01)
    process.send_signal(signal.SIGTERM)  # a launcher's repeat is not a second request
    assert process.wait(timeout=60) == EXIT_PREEMPTED
    log = (tmp_path / "stopped.log").read_text()
    assert "checkpoint saved; rerun the same command to resume." in log
    assert last_state(workdir)[0] == 8
    if any(row["split"] == "val" for row in read_rows(workdir / "metrics.jsonl")):
        pytest.skip("the validation was over before the signal came")
    assert run(workdir, *FLAGS).returncode == 0
    assert_equal_runs(workdir, undisturbed)


@pytest.mark.slow
def test_asked_to_stop_while_it_tests(start, run, tmp_path):
    """The last checkpoint exists until the test row does, even if it is not kept."""
    workdir, log = tmp_path / "stopped", tmp_path / "stopped.log"
    flags = ("--config.checkpoint.save_last=False", "--config.checkpoint.save_top_k=1")
    still = ("--config.learning_rate=0.0", "--config.min_learning_rate=0.0")  # the first is best
    process = start(workdir, *flags, *still)
    assert until(lambda: "programs  " in log.read_text(), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == EXIT_PREEMPTED
    rows = read_rows(workdir / "metrics.jsonl")
    if rows[-1]["split"] == "test":
        pytest.skip("the test was over before the signal came")
    done = run(workdir, *FLAGS, *flags, *still)
    assert done.returncode == 0, done.stderr
    *before, tested = read_rows(workdir / "metrics.jsonl")
    assert before == rows, "something was trained again: even the timings are the same"
    assert (tested["split"], tested["step"], tested["checkpoint_step"]) == ("test", 16, 8)
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["8"]


def test_resumes_with_another_number_of_devices(run, undisturbed, tmp_path):
    """One device saves, two resume: the same examples, and numbers equal up to rounding."""
    done = run(tmp_path / "two", *FLAGS, f"--config.resume_from={undisturbed}@epoch=0", devices=2)
    assert done.returncode == 0, done.stderr
    assert "2 x cpu" in done.stdout and "restored" in done.stdout
    expected = [row for row in read_rows(undisturbed / "metrics.jsonl") if row["step"] > 8]
    for two, one in zip(read_rows(tmp_path / "two" / "metrics.jsonl"), expected, strict=True):
        assert two["examples_seen"] == one["examples_seen"]
        if one["split"] == "train":
            assert two["loss"] == pytest.approx(one["loss"], rel=2e-3)
            assert two["learning_rate"] == one["learning_rate"]
    last_state(tmp_path / "two")  # opens without a device axis


def test_two_processes_cannot_share_a_workdir(start, run, tmp_path):
    process = start(tmp_path / "shared", "--config.max_epochs=100")
    assert until((tmp_path / "shared" / "config.json").exists, process)
    done = run(tmp_path / "shared", *FLAGS)
    process.kill()
    process.wait()
    assert done.returncode == EXIT_USER_ERROR
    assert f"in use by process {process.pid}" in done.stderr


@pytest.mark.parametrize("damage", ["flipped", pytest.param("removed", marks=pytest.mark.slow)])
def test_a_damaged_checkpoint_is_named_and_the_older_one_used(run, undisturbed, tmp_path, damage):
    """One file, through the real program; `checkpoint/test_files.py` has every file."""
    workdir = tmp_path / "damaged"
    subprocess.run(["cp", "-r", undisturbed, workdir], check=True)
    folder = workdir / "checkpoints" / "16"
    data = max(folder.rglob("d/*"), key=lambda path: path.stat().st_size)
    DAMAGES[damage](data)
    done = run(workdir, *FLAGS)
    assert done.returncode == 0, done.stderr
    assert data.name in done.stdout
    assert "resumes from step 8" in done.stdout
    assert (workdir / "checkpoints" / "damaged" / "16").is_dir()
    assert_equal_runs(workdir, undisturbed)


def test_without_an_intact_checkpoint_it_refuses(run, undisturbed, tmp_path):
    workdir = tmp_path / "damaged"
    subprocess.run(["cp", "-r", undisturbed, workdir], check=True)
    for step in (8, 16):
        os.remove(workdir / "checkpoints" / str(step) / "run" / "metadata")
    done = run(workdir, *FLAGS)
    assert done.returncode == EXIT_USER_ERROR
    assert "checkpoints/16/run/metadata is missing" in done.stderr
    assert (workdir / "checkpoints" / "16").is_dir(), "left as it was found"
