"""Signals, in a real process: what the first one does, and the second."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from clac_jax.preemption import EXIT_PREEMPTED, SIGNALS

ROOT = Path(__file__).parents[1]

PROGRAM = """
import sys, time
from clac_jax.preemption import Preempted, StopSignals

with StopSignals() as stop:
    stop.there_is_work_to_save({work})
    print("ready", flush=True)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        {wait}
        try:
            if stop.requested:
                stop.obey()
        except Preempted as reason:
            print("saved after", reason.signal_name, flush=True)
            sys.exit(3)
"""
# At work in C for longer than the test lasts, as a compilation is; a signal would end a sleep.
STUCK = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"


def start(work, wait="time.sleep(0.01)"):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM).format(work=work, wait=wait)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_lets_the_step_finish(number):
    process = start(work=True)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 3
    assert out == f"saved after {number.name}\n"
    assert "finishes this step" in err


def test_the_second_ends_at_once_whatever_the_program_is_in():
    process = start(work=True, wait=STUCK)
    process.send_signal(signal.SIGTERM)
    assert "finishes this step" in process.stderr.readline() + process.stderr.readline()
    before = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert time.monotonic() - before < 15
    assert process.returncode == 128 + signal.SIGTERM
    assert "ends at once" in err


def test_with_nothing_to_save_the_first_one_ends_it():
    process = start(work=False, wait=STUCK)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == EXIT_PREEMPTED
    assert "nothing is lost" in err
