"""Which ends of a program are followed by another try: real processes that pretend to train."""

import os
import signal
import subprocess
import sys
import time

import pytest
from helpers.paths import ROOT

from clac_jax.supervision.supervisor import Restarts, meaning, supervise

PRETEND = str(ROOT / "tests" / "helpers" / "pretend_training.py")
QUICK = Restarts(pause=0.01)


def command(workdir, *plans):
    return [sys.executable, "-S", PRETEND, str(workdir), *plans]


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.fixture
def ends(workdir, capfd):
    """(*plans, restarts) -> (exit code, the supervisor's own lines)."""

    def start(*plans, restarts=QUICK, seen=None):
        code = supervise(command(workdir, *plans), seen or workdir, restarts)
        return code, [line for line in capfd.readouterr().err.splitlines() if "run  " in line]

    return start


@pytest.mark.parametrize("code", [0, 2])
def test_a_complete_run_and_an_error_of_the_user_end_it(ends, code):
    ended, lines = ends(f"8 {code}")
    assert ended == code and len(lines) == 1
    assert f"try 1 ended with exit code {code} ({meaning(code)})" in lines[0]
    assert "at step 8" in lines[0]


def test_crashes_hangs_and_preemption_are_followed_by_another_try(ends):
    ended, lines = ends("1 1", "2 75", "3 76", "4 SIGKILL", "5 134", "6 0")
    assert ended == 0
    said = [line.partition("ended with exit code ")[2].partition(" after")[0] for line in lines]
    assert said == [
        "1 (an error, or another process was lost)",
        "75 (stopped on request)",
        "76 (hung)",
        "137 (ended by SIGKILL)",
        "134 (ended by SIGABRT)",
        "0 (complete)",
    ]
    assert all("the next one starts in 0.01 s." in line for line in lines[:-1])
    assert lines[-1].endswith("no further try is needed.")


def test_three_tries_without_progress_are_the_last_and_pauses_grow(ends, workdir):
    ended, lines = ends("5 1", "- 76", "- SIGKILL", "- 1", "6 0")
    assert ended == 1 and len(lines) == 4
    pauses = [line.partition("starts in ")[2] for line in lines]
    assert pauses == ["0.01 s.", "0.02 s.", "0.04 s.", ""]
    assert "3 tries in a row made no progress" in lines[-1] and "at step 5" in lines[-1]


def test_a_process_that_writes_no_checkpoints_reports_its_progress(ends, tmp_path):
    """On a host without the workdir; there, it prints no steps."""
    (tmp_path / "empty").mkdir()
    for seen in (tmp_path / "missing", tmp_path / "empty"):
        ended, lines = ends("8; 1", "16; 1", "24; 75", "24; 1", "32; 1", "40; 0", seen=seen)
        assert ended == 0 and "at step 24" in lines[3]
        (tmp_path / "run.starts").unlink()


def test_progress_in_the_third_try_starts_the_count_again(ends):
    assert ends("- 1", "- 1", "1 1", "- 1", "- 1", "2 0")[0] == 0


def test_an_earlier_checkpoint_does_not_count_as_progress(ends, workdir):
    (workdir / "checkpoints" / "7").mkdir(parents=True)
    ended, lines = ends("7 1")
    assert ended == 1 and len(lines) == 3


def test_an_unfinished_checkpoint_does_not_count_as_progress(ends, workdir):
    (workdir / "checkpoints").mkdir()
    (workdir / "checkpoints" / "7.unfinished").touch()
    assert len(ends("7 1")[1]) == 3


def test_the_number_of_restarts_can_be_limited(ends):
    ended, lines = ends("1 1", "2 1", "3 1", restarts=Restarts(most=1, pause=0.0))
    assert ended == 1 and len(lines) == 2
    assert "--max-restarts=1 is reached" in lines[-1]
    ended, lines = ends("4 76", restarts=Restarts(most=0))
    assert ended == 76 and len(lines) == 1


def test_where_checkpoints_are_not_seen_the_printed_steps_are_progress(ends, tmp_path):
    plans = ("1 1", "2 1", "3 1", "4 1", "4 1", "4 1", "4 1")
    ended, lines = ends(*plans, seen=tmp_path / "elsewhere")
    assert ended == 1 and len(lines) == 7
    assert not (tmp_path / "elsewhere").exists() and not (tmp_path / "run" / "tries").exists()


def test_the_output_passes_through_and_the_last_lines_of_each_try_are_kept(workdir, capfd):
    supervise(command(workdir, "1 1", "2 0"), workdir, QUICK)
    out, err = capfd.readouterr()
    assert [line for line in out.splitlines() if "start" in line] == ["start 1", "start 2"]
    assert "a message of start 1" in err and "a message of start 2" in err
    first, second = sorted((workdir / "tries").glob("*-try-*.txt"), key=lambda path: path.name[-5])
    assert first.read_text().startswith("Try 1: exit code 1 after ")
    assert {"start 1", "a message of start 1"} <= set(first.read_text().splitlines())
    assert {"start 2", "a message of start 2"} <= set(second.read_text().splitlines())
    assert f"(last lines: {first}); the next one" in err


# Signals: the supervisor is a program of its own.

PROGRAM = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # pytest may run under nohup
from clac_jax.cli.console import protect_output
from clac_jax.supervision.supervisor import Restarts, supervise
protect_output()
code = supervise(sys.argv[3:], Path(sys.argv[1]), Restarts(pause=float(sys.argv[2])))
assert not {"jax", "orbax", "flax"} & set(sys.modules), "so it starts in an instant"
sys.exit(code)
"""


@pytest.fixture
def begin(workdir):
    """(*plans, pause) -> the running supervisor, and a function that returns its child's pid."""
    running = []

    def start(*plans, pause=0.01):
        arguments = [PROGRAM, str(workdir), str(pause), *command(workdir, *plans)]
        process = subprocess.Popen(
            [sys.executable, "-c", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        running.append(process)
        return process

    yield start
    for process in running:
        with process:
            process.kill()


def waiting_child(workdir):
    path = workdir.with_name("run.waits")
    deadline = time.monotonic() + 20
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return int(path.read_text())


def end_of(process):
    out, err = process.communicate(timeout=20)
    return process.returncode, out, err


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP"])
def test_a_signal_is_passed_on_once_and_ends_the_tries(begin, workdir, name):
    process = begin("- wait")
    waiting_child(workdir)
    process.send_signal(signal.Signals[name])
    if name != "SIGTERM":  # on which this child ends
        assert process.stdout.readline() == "start 1\n"
        assert process.stdout.readline() == f"received {name}\n"
        process.send_signal(signal.SIGINT)  # a second one is its own to judge
    code, out, err = end_of(process)
    assert code == (75 if name == "SIGTERM" else 128 + signal.SIGINT)
    assert out.count(f"received {name}") == (1 if name in ("SIGTERM", "SIGINT") else 0)
    assert f"{name} was passed on to it, so there is no further try" in err


def test_a_preempted_child_is_started_again_if_the_supervisor_was_not_asked_to_stop(begin, workdir):
    process = begin("3 wait", "4 0")
    os.kill(waiting_child(workdir), signal.SIGTERM)
    code, out, _ = end_of(process)
    assert code == 0 and "start 2" in out


def test_a_signal_in_a_pause_ends_it_with_the_code_of_a_stopped_run(begin, workdir):
    process = begin("3 1", pause=60)
    assert process.stderr.readline().startswith("a message of start 1")
    assert "the next one starts in 60 s" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    code, out, err = end_of(process)
    assert code == 75 and "SIGTERM: no further try." in err and "start 2" not in out


def test_a_closed_terminal_ends_nothing(begin, workdir):
    process = begin("1 1", "2 1", "3 0")
    process.stdout.close()
    process.stderr.close()
    assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("code", "words"),
    [(3, "a crash"), (139, "ended by SIGSEGV"), (255, "a crash"), (130, "ended by SIGINT")],
)
def test_other_codes_are_crashes(code, words):
    assert meaning(code) == words


def test_a_faulty_machine_gets_one_more_try(ends):
    ended, lines = ends("1 77", "2 0")
    assert ended == 0 and "77 (the machine has computed a step wrongly)" in lines[0]


def test_a_machine_that_is_faulty_again_gets_no_further_try(ends):
    ended, lines = ends("1 77", "2 1", "3 77", "4 0")
    assert ended == 77 and len(lines) == 3
    assert "the second time: have this machine tested" in lines[-1]
