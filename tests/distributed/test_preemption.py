"""Signals in a real process: the effect of the first and of the second."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from clac_jax.distributed.preemption import EXIT_PREEMPTED, REPEAT_SECONDS, SIGNALS

ROOT = Path(__file__).parents[2]

PROGRAM = """
import sys, time
from clac_jax.distributed.preemption import Preempted, StopSignals

with StopSignals() as stop:
    stop.set_unsaved_work({work})
    {setup}
    print("ready", flush=True)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        {wait}
        try:
            stop.raise_if_requested(stop.requested)
        except Preempted as reason:
            print("saved after", reason.signal_name, flush=True)
            sys.exit(3)
"""
# Busy in C for longer than the test, like a compilation; a signal would interrupt a sleep.
STUCK = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"

SLOW = "stop.before_leaving = lambda name: time.sleep(60)"

# Runs the rest of its command line; what is ignored stays ignored.
WITH_SIGHUP = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.{disposition})
os.execv(sys.argv[1], sys.argv[1:])
"""


def with_sighup(disposition):
    return sys.executable, "-c", WITH_SIGHUP.format(disposition=disposition)


@pytest.fixture
def start():
    """(work, wait, sighup, setup) -> a process that is ready; it is gone at the end of the test.

    Pytest itself may run under nohup, so the process is not given its disposition of SIGHUP.
    """
    running = []

    def begin(work, wait="time.sleep(0.01)", sighup="SIG_DFL", setup="pass"):
        program = textwrap.dedent(PROGRAM).format(work=work, wait=wait, setup=setup)
        process = subprocess.Popen(
            [*with_sighup(sighup), sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        running.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield begin
    for process in running:
        with process:
            process.kill()


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_lets_the_step_finish(start, number):
    process = start(work=True)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 3
    assert out == f"saved after {number.name}\n"
    assert "stopping after this step" in err


def test_a_later_one_stops_immediately_whatever_the_program_is_in(start):
    process = start(work=True, wait=STUCK)
    process.send_signal(signal.SIGTERM)
    assert "stopping after this step" in process.stderr.readline() + process.stderr.readline()
    time.sleep(REPEAT_SECONDS)
    before = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert time.monotonic() - before < 15
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopping immediately" in err


ORPHANED = """if not stop.requested: continue
        time.sleep(2.5)
        stop.request("`clac-jax run` was killed")"""


def test_the_end_of_a_supervisor_does_not_count_as_a_second_signal(start):
    """It has passed on a signal, and is killed before the save has ended."""
    process = start(work=True, wait=ORPHANED)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (3, "saved after SIGTERM\n")


def test_a_signal_after_the_end_of_a_supervisor_is_the_first_one(start):
    process = start(work=True, wait="stop.request('run was killed'); time.sleep(3)")
    assert "run was killed: stopping after this step" in (
        process.stderr.readline() + process.stderr.readline()
    )
    time.sleep(REPEAT_SECONDS)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (3, "saved after run was killed\n")


def test_with_nothing_to_save_the_first_one_ends_it(start):
    process = start(work=False, wait=STUCK)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == EXIT_PREEMPTED
    assert "nothing is lost" in err


def test_a_later_one_does_not_wait_for_what_is_done_before_leaving(start):
    """Uploads, for example."""
    process = start(work=False, wait="time.sleep(60)", setup=SLOW)
    process.send_signal(signal.SIGTERM)
    assert "nothing is lost" in process.stderr.readline() + process.stderr.readline()
    time.sleep(REPEAT_SECONDS)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM


def test_an_error_before_leaving_ends_it_as_well(start):
    fails = "stop.before_leaving = lambda name: 1 / 0"
    process = start(work=False, wait="time.sleep(60)", setup=fails)
    process.send_signal(signal.SIGTERM)
    assert "ZeroDivisionError" in process.communicate(timeout=20)[1]
    assert process.returncode == 1


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_repeat_within_milliseconds_belongs_to_the_first_signal(start, second):
    """As from GNU `timeout`, which signals its child and the child's group."""
    process = start(work=True, wait="time.sleep(0.3)")  # a step during which both signals arrive
    process.send_signal(signal.SIGTERM)
    time.sleep(0.01)
    process.send_signal(second)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 3
    assert out == "saved after SIGTERM\n"
    assert "stopping immediately" not in err


def test_a_run_under_nohup_outlives_its_terminal(start):
    process = start(work=True, sighup="SIG_IGN")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    assert out == "saved after SIGTERM\n"


def test_a_terminal_that_has_closed_does_not_keep_a_run_from_saving(start):
    process = start(work=True)
    process.stderr.close()  # writing to it fails from now on
    process.send_signal(signal.SIGHUP)
    with process.stdout as stdout:
        assert stdout.read() == "saved after SIGHUP\n"
    assert process.wait(20) == 3
