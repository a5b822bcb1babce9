"""A hang ends all processes of a run: small separate programs, real sockets, real signals."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from helpers.paths import ROOT

from clac_jax.distributed.hang import bounded
from clac_jax.distributed.preemption import EXIT_HUNG

# A process of a run whose activities may take 1 second, or what argv[5] says.
PROGRAM = """
import sys, threading, time
from pathlib import Path
from types import SimpleNamespace
from clac_jax.distributed import hang, lost_process
from clac_jax.distributed.hang import HungRun
from clac_jax.distributed.link import Link
from clac_jax.distributed.watchdog import Watchdog

index, address, workdir, work, seconds = sys.argv[1:6]
index, link = int(index), None
if address:
    link = Link(address, index, 2, 20, float(sys.argv[6]))
    link.agree("program", {})
hang.ANSWER_SECONDS, lost_process.OWN_END_SECONDS = 1.0, 0.3
limits = SimpleNamespace(floor_seconds=float(seconds), factor=10, first_seconds=float(seconds))
hung = HungRun(Path(workdir), link, index, 2 if link else 1)
with Watchdog(limits, hung.end) as watchdog:
    hung.doing = watchdog.describe
    hung.save_first = lambda: "Step 7 is saved."
    print("met", flush=True)
    exec(work)
print("ended", flush=True)
"""
STEP = "with watchdog.watching('a training step'): time.sleep(60)"
# As in C++: the main thread runs no bytecode, so no handler and no exception can reach it.
DATA = """
lock = threading.Lock()
lock.acquire()
with watchdog.watching("a batch of training data"): lock.acquire()
"""
# It notices 0.3 seconds later, so that the other process is the first to do so.
LATER = "time.sleep(0.3); watchdog.alive()\n"


@pytest.fixture
def begin(tmp_path):
    """(works, limit, failure_seconds) -> running processes, which are gone at the end."""
    running = []
    workdir = tmp_path / "run"
    workdir.mkdir()

    def start(*works, limit=1.0, failure_seconds=30.0):
        address = ""
        if len(works) > 1:
            with socket.create_server(("127.0.0.1", 0)) as probe:
                address = f"127.0.0.1:{probe.getsockname()[1]}"
        for index, work in enumerate(works):
            arguments = map(str, (index, address, workdir, work, limit, failure_seconds))
            running.append(
                subprocess.Popen(
                    [sys.executable, "-c", PROGRAM, *arguments],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=os.environ | {"PYTHONPATH": str(ROOT)},
                )
            )
        assert [process.stdout.readline() for process in running] == ["met\n"] * len(works)
        return running

    yield start
    for process in running:
        with process:
            process.kill()


def end_of(process):
    try:
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    return process.returncode, (out + err).strip()


def stacks(tmp_path):
    """Number of the process -> content of its file."""
    paths = sorted((tmp_path / "run" / "stacks").glob("*-process-*.txt"))
    assert len({path.name.partition("-process-")[0] for path in paths}) <= 1, "one time"
    return {int(path.stem.rpartition("-")[2]): path.read_text() for path in paths}


def test_one_process_ends_with_one_line_and_its_stacks(begin, tmp_path):
    code, said = end_of(*begin(DATA))
    assert code == EXIT_HUNG == 76
    expected = (
        "error: The run hangs: it has been waiting for a batch of training data for SECONDS s "
        "(limit 1 s: config.watchdog.first_seconds). The stacks of all threads are in "
        f"{tmp_path / 'run' / 'stacks'}. Step 7 is saved. Start the same command again to resume."
    )
    assert re.sub(r"for [\d.]+ s \(", "for SECONDS s (", said) == expected
    assert "\n" not in said
    content = stacks(tmp_path)
    assert content.keys() == {0}
    assert 'File "<string>", line 4, in <module>' in content[0], "where the main thread is"
    assert "Thread 'watchdog'" in content[0]


@pytest.mark.parametrize("who", [0, 1])
def test_all_processes_end_and_the_stacks_of_all_are_written_by_the_first(begin, tmp_path, who):
    works = [LATER + STEP, LATER + STEP]
    works[who] = DATA
    running = begin(*works)
    (first, said), (second, said_by_second) = map(end_of, running)
    assert (first, second) == (EXIT_HUNG, EXIT_HUNG)
    reason = f"process {who} has been waiting for a batch of training data for "
    assert f"error: The run hangs: {reason}" in said and reason in said_by_second
    doing = [f"process {n} waits for {w}" for n, w in enumerate(["a training step"] * 2)]
    doing[who] = f"process {who} waits for a batch of training data"
    assert f"Now {'; '.join(doing)}." in said
    assert "Step 7 is saved." in said and "Step 7 is saved." not in said_by_second
    content = stacks(tmp_path)
    assert content.keys() == {0, 1}
    assert (
        "lock.acquire" not in content[1 - who]
        and "which waits for a training step" in content[1 - who]
    )
    assert "which waits for a batch of training data" in content[who]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_stopped_process_ends_the_others_and_then_itself_with_the_same_code(
    begin, tmp_path, victim
):
    """If it is not lost before: `failure_seconds` is longer than the limit here."""
    running = begin(STEP, STEP)
    running[victim].send_signal(signal.SIGSTOP)
    code, said = end_of(running[1 - victim])
    assert code == EXIT_HUNG
    assert f"process {1 - victim} has been waiting for a training step" in said
    if victim == 1:
        assert "Now process 0 waits for a training step; process 1 does not answer." in said
        assert stacks(tmp_path).keys() == {0}
    else:
        assert "are printed above (the first process does not answer)" in said
        assert "Thread 'MainThread'" in said
    running[victim].send_signal(signal.SIGCONT)
    code, _ = end_of(running[victim])
    assert code == EXIT_HUNG


@pytest.mark.slow
def test_a_stopped_process_that_is_lost_first_ends_all_with_the_code_of_a_loss(begin, tmp_path):
    work = f"lost_process.OWN_END_SECONDS = 3.0\n{STEP}"  # so the limit passes before the end
    running = begin(work, work, limit=2.5, failure_seconds=1.0)
    running[1].send_signal(signal.SIGSTOP)
    code, said = end_of(running[0])
    assert code == 1 and "was not heard from for 1 seconds" in said
    running[1].send_signal(signal.SIGCONT)
    assert end_of(running[1])[0] == 1
    assert stacks(tmp_path) == {}


def test_a_run_that_is_suspended_does_not_hang(begin, tmp_path):
    work = "\nwith watchdog.watching('a training step'): time.sleep(1); time.sleep(0.3)"
    running = begin(work, work, limit=1.5)
    time.sleep(0.2)
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for process in running:
            process.send_signal(number)
        time.sleep(2.2 if number == signal.SIGSTOP else 0)
    assert [end_of(process) for process in running] == [(0, "ended")] * 2
    assert stacks(tmp_path) == {}


def test_a_disk_that_hangs_delays_the_end_by_a_bounded_time_only(begin, tmp_path):
    stalls = """
hang.WRITE_SECONDS = hang.LAST_SAVE_SECONDS = 0.5
Path.mkdir = lambda *_, **__: time.sleep(60)
hung.save_first = lambda: time.sleep(60)
"""
    code, said = end_of(*begin(stalls + STEP))
    assert code == EXIT_HUNG
    assert "are printed above" in said and "could not be written in time" in said
    assert "Thread 'MainThread'" in said and stacks(tmp_path) == {}


def test_a_folder_that_cannot_be_written_is_named(begin, tmp_path):
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / "stacks").write_text("a file is in the way")
    code, said = end_of(*begin(STEP))
    assert code == EXIT_HUNG
    assert f"printed above ({tmp_path / 'run' / 'stacks'} cannot be written: " in said


def test_no_save_is_tried_while_a_save_hangs(begin):
    """It hangs in a background thread, while the main one trains."""
    work = """
def save():
    with watchdog.watching(hang.SAVES[1]): time.sleep(60)
threading.Thread(target=save, daemon=True).start()
for _ in range(600):
    with watchdog.watching("a training step"): time.sleep(0.1)
"""
    code, said = end_of(*begin(work))
    assert code == EXIT_HUNG
    assert "waiting for a checkpoint to be written for " in said
    assert "saved" not in said


def test_a_part_that_fails_or_hangs_has_no_result():
    assert bounded(lambda: 3, 10) == 3
    assert bounded(lambda: 1 // 0, 10) is None
    assert bounded(lambda: time.sleep(1), 0.05) is None
