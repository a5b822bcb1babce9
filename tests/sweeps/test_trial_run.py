"""A trial as a child: watched, pruned, killed, started again, continued for a killed program."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from helpers.paths import ROOT

from clac_jax.sweeps import trial_run
from clac_jax.sweeps.trial_run import Outcome, RunningTrial, TrialSpec, Verdict, run_trial

PRETEND = (sys.executable, str(ROOT / "tests" / "helpers" / "pretend_trial.py"))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(trial_run, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(trial_run, "PAUSE_SECONDS", 0.01)


@pytest.fixture
def spec(tmp_path):
    def build(**environment):
        given = {f"PRETEND_{name.upper()}": str(value) for name, value in environment.items()}
        return TrialSpec("smoke", tmp_path / "trial", {"x": 0.5}, given, PRETEND)

    return build


def never(row):
    return Verdict.CONTINUE


def epochs(end):
    return [row["epoch"] for row in end.rows]


def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_trial_runs_to_its_end_and_its_rows_are_seen_once(spec):
    seen = []

    def watch(row):
        seen.append(row["epoch"])
        return Verdict.CONTINUE

    end = run_trial(spec(), watch, threading.Event())
    assert (end.outcome, end.code, end.tries) == (Outcome.COMPLETE, 0, 1)
    assert seen == epochs(end) == [0, 1, 2, 3]
    assert end.lines == ("start", "complete")


def test_overrides_become_flags(tmp_path):
    overrides = {"learning_rate": 1e-05, "schedule": "cosine", "frozen": ["a", "b"], "debug": True}
    words = TrialSpec("base", tmp_path, overrides).full_command()
    assert words[-4:] == [
        "--config.learning_rate=1e-05",
        "--config.schedule=cosine",
        "--config.frozen=('a', 'b')",
        "--config.debug=True",
    ]


def test_a_trial_that_is_killed_again_and_again_ends_as_an_undisturbed_one(spec, tmp_path):
    expected = run_trial(spec(), never, threading.Event())
    os.rename(tmp_path / "trial", tmp_path / "expected")

    def watch(row):
        if row["epoch"] < 3:  # the child is killed after each epoch
            child = json.loads((tmp_path / "trial" / "trial.json").read_text())["child"]
            os.kill(child["number"], signal.SIGKILL)
        return Verdict.CONTINUE

    end = run_trial(spec(seconds=0.05), watch, threading.Event())
    assert end.outcome is Outcome.COMPLETE and end.tries == 4
    assert end.rows == expected.rows


def test_a_verdict_ends_the_trial_and_later_rows_do_not_count(spec, tmp_path):
    def watch(row):
        return Verdict.STOP if row["epoch"] == 1 else Verdict.CONTINUE

    end = run_trial(spec(seconds=0.05), watch, threading.Event())
    assert (end.outcome, end.code, epochs(end)) == (Outcome.PRUNED, 75, [0, 1])
    # The verdict is found again in the rows of a trial that continued without being watched.
    run_trial(spec(), never, threading.Event())
    end = run_trial(spec(), watch, threading.Event())
    assert (end.outcome, end.tries, epochs(end)) == (Outcome.PRUNED, 0, [0, 1])


def test_a_mistake_is_not_tried_again(spec):
    end = run_trial(spec(fault="x=0.5:2"), never, threading.Event())
    assert (end.outcome, end.code, end.tries) == (Outcome.FAILED, 2, 1)
    assert end.lines[-1] == "error: x=0.5 cannot be used."


def test_crashes_without_progress_are_limited(spec):
    end = run_trial(spec(fault="start"), never, threading.Event())
    assert (end.outcome, end.code, end.tries) == (Outcome.FAILED, 1, trial_run.CRASHES)


def test_a_faulty_machine_is_tried_twice(spec):
    end = run_trial(spec(fault="x=0.5:77"), never, threading.Event())
    assert (end.outcome, end.tries) == (Outcome.FAULTY, 2)


def test_a_request_to_stop_saves_and_the_trial_can_be_run_again(spec):
    stop = threading.Event()

    def watch(row):
        stop.set()
        return Verdict.CONTINUE

    end = run_trial(spec(seconds=0.2), watch, stop)
    assert (end.outcome, end.code, epochs(end)) == (Outcome.INTERRUPTED, 75, [0])
    end = run_trial(spec(), never, threading.Event())
    assert (end.outcome, epochs(end)) == (Outcome.COMPLETE, [0, 1, 2, 3])


ORPHANS = """
import os, signal, sys, threading
from pathlib import Path
from clac_jax.sweeps.trial_run import TrialSpec, Verdict, run_trial
def watch(row):
    os.kill(os.getpid(), signal.SIGKILL)
run_trial(TrialSpec("smoke", Path(sys.argv[1]), {"x": 0.5}, {}, tuple(sys.argv[2:])), watch,
          threading.Event())
"""


def orphan(workdir, seconds):
    """The process id of a trial whose program was killed after its first epoch."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PRETEND_SECONDS": str(seconds)}
    words = [sys.executable, "-c", ORPHANS, str(workdir), *PRETEND]
    assert subprocess.run(words, env=environment, timeout=60).returncode == -signal.SIGKILL
    return json.loads((workdir / "trial.json").read_text())["child"]["number"]


def is_running(number):
    try:
        with open(f"/proc/{number}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_trial_whose_program_was_killed_stops_and_is_continued(spec, tmp_path):
    child = orphan(tmp_path / "trial", seconds=0.3)
    until(lambda: not is_running(child))
    end = run_trial(spec(), never, threading.Event())
    assert (end.outcome, end.code, epochs(end)) == (Outcome.COMPLETE, 0, [0, 1, 2, 3])


def test_an_orphan_that_still_runs_is_stopped_before_the_trial_starts_again(
    spec, tmp_path, monkeypatch
):
    child = orphan(tmp_path / "trial", seconds=0.3)
    if is_running(child):
        os.kill(child, signal.SIGSTOP)  # it can neither notice nor react
    monkeypatch.setattr(trial_run, "ORPHAN_SECONDS", 0.2)
    running = RunningTrial(spec(), never)
    try:
        while (end := running.advance()) is None:
            assert not (is_running(child) and running._child), "two programs in one folder"
            time.sleep(0.01)
    finally:
        running.close()
    assert end.outcome is Outcome.COMPLETE and end.tries == 1


def test_a_folder_that_another_program_holds_is_waited_for(spec, tmp_path):
    (tmp_path / "trial").mkdir()
    running = RunningTrial(spec(), never)
    with open(tmp_path / "trial" / ".lock", "a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for _ in range(5):
            assert running.advance() is None and running._child is None
    while (end := running.advance()) is None:
        time.sleep(0.01)
    assert end.outcome is Outcome.COMPLETE and end.tries == 1
