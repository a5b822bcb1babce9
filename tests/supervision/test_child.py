"""Children whose signs of life end: stopped, or in C code that holds Python's lock."""

import os
import signal
import subprocess
import sys
import time

import pytest
from helpers.paths import ROOT

from clac_jax.supervision import child
from clac_jax.supervision.child import Signals, run_child

# With a watchdog that gives a sign of life each 0.05 seconds; argv[1] is what it does then.
ALIVE = """
import faulthandler, os, re, signal, sys, time
from types import SimpleNamespace
from clac_jax.distributed.watchdog import Watchdog
faulthandler.enable()  # as `clac-jax train` does
limits = SimpleNamespace(floor_seconds=1.0, factor=10, first_seconds=60)
with Watchdog(limits, print) as watchdog:
    watchdog.on_orphaned = lambda: os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.3)
    print("alive", flush=True)
    exec(sys.argv[1])
print("ended", flush=True)
exec(sys.argv[2])
"""


@pytest.fixture
def ended(monkeypatch, capfd):
    """(work, afterwards) -> how a child has ended that may be silent for 1 second."""
    monkeypatch.setattr(child, "SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(child, "ABORT_SECONDS", 0.5)
    monkeypatch.setattr(child, "POLL_SECONDS", 0.2)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(work, afterwards="", program=ALIVE):
        with Signals() as signals:
            return run_child([sys.executable, "-c", program, work, afterwards], signals)

    return run


def test_a_child_that_hangs_with_the_lock_of_python_prints_its_stacks(ended):
    """The search takes years, and no other thread runs Python code until then."""
    end = ended("re.match('(a+)+$', 'a' * 60 + 'b')")
    assert end.was_silent and end.code == 128 + signal.SIGABRT
    assert any("Fatal Python error: Aborted" in line for line in end.lines)
    assert any('"/' in line and "re" in line for line in end.lines), "where it hangs"


def test_a_stopped_child_is_killed(ended):
    end = ended("os.kill(os.getpid(), signal.SIGSTOP)")
    assert end.was_silent and end.code == 128 + signal.SIGKILL
    assert end.lines == ("alive",)


@pytest.mark.slow
def test_a_child_that_works_or_watches_nothing_may_take_any_time(ended):
    end = ended("time.sleep(1.4)", "time.sleep(1.4)")  # alive, then without a watchdog
    assert (end.code, end.was_silent, end.lines) == (0, False, ("alive", "ended"))
    end = ended("", program="import time; time.sleep(1.4)")
    assert (end.code, end.was_silent) == (0, False)


SUPERVISOR = """
import sys
from clac_jax.supervision import child
child.SILENCE_SECONDS, child.POLL_SECONDS = 1.0, 0.2
with child.Signals() as signals:
    ended = child.run_child([sys.executable, "-c", *sys.argv[1:]], signals)
print(ended.code, ended.was_silent)
"""


STOPS = """
def stop(number, frame):
    print("stopped", file=open(sys.argv[3], "w"))
    os._exit(75)
signal.signal(signal.SIGTERM, stop)
time.sleep(60)
"""


def test_a_child_whose_supervisor_is_killed_stops_as_by_a_signal(tmp_path):
    """It would hold its workdir against the next start."""
    done = tmp_path / "done"
    program = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, ALIVE, STOPS, "", str(done)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    with program:
        assert program.stdout.readline() == "alive\n"
        program.kill()
    deadline = time.monotonic() + 30
    while not (done.exists() and done.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_job_that_is_suspended_as_one_is_not_silent(tmp_path):
    program = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, ALIVE, "time.sleep(2.2)", ""],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    with program:
        assert program.stdout.readline() == "alive\n"
        os.killpg(program.pid, signal.SIGSTOP)
        time.sleep(2)
        os.killpg(program.pid, signal.SIGCONT)
        out, _ = program.communicate(timeout=20)
    assert out == "ended\n0 False\n"


def test_the_last_lines_are_those_of_both_streams_without_a_final_newline(ended, monkeypatch):
    monkeypatch.setattr(child, "KEPT_LINES", 3)
    program = "import sys\nfor n in range(9): print(n, flush=True)\nsys.stderr.write('no newline')"
    assert ended("", program=program).lines[-2:] == ("8", "no newline")


def test_output_of_a_grandchild_that_lives_on_is_not_waited_for(ended):
    program = (
        "import os, time\npid = os.fork()\nif pid: print(pid, flush=True)\nelse: time.sleep(60)"
    )
    end = ended("", program=program)
    assert end.code == 0 and len(end.lines) == 1
    os.kill(int(end.lines[0]), signal.SIGKILL)  # which is an error if it has ended
