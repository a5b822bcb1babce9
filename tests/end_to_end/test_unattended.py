"""Trainings that hang or lose a process are started again, and end with the same bits."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest
from helpers.paths import ROOT
from helpers.small_runs import arrays_at, assert_same, train_rows, untimed
from helpers.workdirs import until

from clac_jax.config.schema import to_json
from clac_jax.distributed.preemption import EXIT_HUNG, EXIT_PREEMPTED
from clac_jax.reporting.metrics_file import read_rows
from clac_jax.supervision.progress import newest_step
from clac_jax.training_run import train

HANGS = str(ROOT / "tests" / "helpers" / "train_that_hangs.py")
SUPERVISE = """
import sys
from pathlib import Path
from clac_jax.supervision import child
from clac_jax.supervision.supervisor import Restarts, supervise
child.SILENCE_SECONDS, child.POLL_SECONDS = 10.0, 1.0
sys.exit(supervise(sys.argv[2:], Path(sys.argv[1]), Restarts(pause=0.1)))
"""


@pytest.fixture
def supervise(tmp_path, environment):
    """(*command, devices=1) -> a running supervisor of a program that trains in `run`."""
    running = []

    def start(*command, devices=1):
        arguments = [SUPERVISE, str(tmp_path / "run"), sys.executable, *map(str, command)]
        process = subprocess.Popen(
            [sys.executable, "-c", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(devices),
        )
        running.append(process)
        return process

    yield start
    for process in running:
        with process:
            process.kill()


@pytest.fixture
def quick(small_config, tmp_path):
    """(**changes) -> the file of a config whose watchdog has short limits."""

    def build(**changes):
        options = {"watchdog__floor_seconds": 6.0, "watchdog__first_seconds": 100.0}
        options["checkpoint__every_n_steps"] = 1
        path = tmp_path / "config.json"
        path.write_text(to_json(small_config(**options | changes)))
        return path

    return build


def ends(process):
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def address():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


def hang_line(err):
    (line,) = [line for line in err.splitlines() if line.startswith("error: The run hangs: ")]
    return line


def assert_undisturbed(workdir, stage1):
    assert_same(arrays_at(workdir, 8), arrays_at(stage1, 8))
    assert list(map(untimed, train_rows(workdir))) == list(map(untimed, train_rows(stage1)))


@pytest.mark.slow
def test_a_worker_that_hangs_ends_the_run_which_loses_no_step(
    stage1, quick, small_config, environment, tmp_path
):
    """While it waits for data the state is there to be saved."""
    rare = quick(checkpoint__every_n_steps=0)
    done = subprocess.run(
        [sys.executable, HANGS, rare, tmp_path / "run", "data"],
        capture_output=True,
        text=True,
        timeout=200,
        env=environment(),
    )
    assert done.returncode == EXIT_HUNG, done.stderr
    line = hang_line(done.stderr)
    assert "it has been waiting for a batch of training data for" in line and "limit 6 s" in line
    assert "The newest checkpoint is of step 6. Start the same command again" in line
    (stacks,) = (tmp_path / "run" / "stacks").glob("*-process-0.txt")
    assert "train_that_hangs.py" in stacks.read_text(), "where it hangs"
    train(small_config(), tmp_path / "run")
    assert_undisturbed(tmp_path / "run", stage1)


# What hangs, what the line says, and the newest checkpoint of the first try.
HANGING = [
    ("data", "a batch of training data", 6),
    ("step", "a training step", 6),
    ("save", "a (checkpoint to be written|save)", 6),
    ("validation", "the validation", 8),
]


@pytest.mark.slow
@pytest.mark.parametrize(("what", "name", "step"), HANGING)
def test_a_run_that_hangs_ends_and_the_next_try_completes_it_with_the_same_bits(
    stage1, quick, supervise, tmp_path, what, name, step
):
    code, _, err = ends(supervise(HANGS, quick(), tmp_path / "run", what))
    assert code == 0, err
    assert re.search(f"it has been waiting for {name} for", hang_line(err))
    assert "try 1 ended with exit code 76 (hung)" in err
    assert f"at step {step} (last lines: " in err
    (stacks,) = (tmp_path / "run" / "stacks").glob("*-process-0.txt")
    assert "train_that_hangs.py" in stacks.read_text(), "where it hangs"
    assert_undisturbed(tmp_path / "run", stage1)


@pytest.mark.slow
@pytest.mark.parametrize(("what", "who"), [("data", 1), ("step", 0), ("save", 0)])
def test_a_process_that_hangs_ends_those_of_all_hosts_and_all_start_again(
    quick, supervise, tmp_path, what, who
):
    """Two supervisors, as under `srun`; each starts its own process again."""
    where, config = address(), quick()
    arguments = [HANGS, config, tmp_path / "run", what, where, 2]
    running = [supervise(*arguments, index, who) for index in range(2)]
    done = [ends(process) for process in running]
    assert [code for code, _, _ in done] == [0, 0], done
    for _, _, err in done:
        assert "try 1 ended with exit code 76 (hung)" in err
        assert "try 2 ended with exit code 0 (complete)" in err
    stacks = sorted(path.stem[-1] for path in (tmp_path / "run" / "stacks").iterdir())
    assert stacks == ["0", "1"]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_is_killed_or_stopped_is_started_again_with_the_others(
    quick, supervise, tmp_path, victim, number
):
    # On a busy machine a start takes minutes, and a process gets no time for seconds.
    config = quick(max_epochs=200, distributed__failure_seconds=20)
    patience = 600
    arguments = [HANGS, config, tmp_path / "run", "nothing", address(), 2]
    running = [supervise(*arguments, index) for index in range(2)]
    metrics = tmp_path / "run" / "metrics.jsonl"
    assert until(lambda: metrics.exists() and len(read_rows(metrics)) >= 4, running[0], patience)
    child = int(subprocess.check_output(["pgrep", "-P", str(running[victim].pid)]))
    step = read_rows(metrics)[-1]["step"]
    os.kill(child, number)
    assert until(lambda: len(list((tmp_path / "run").glob("tries/*"))) >= 2, running[1], patience)
    reached = newest_step(tmp_path / "run")
    assert until(lambda: (newest_step(tmp_path / "run") or 0) > reached + 2, running[0], patience)
    for process in running:
        process.send_signal(signal.SIGTERM)
    done = [ends(process) for process in running]
    assert [code for code, _, _ in done] == [EXIT_PREEMPTED] * 2, done
    assert reached >= step - 2, "one save in progress, and a step since then"
    codes = [err.partition("try 1 ended with exit code ")[2].split()[0] for _, _, err in done]
    assert codes[1 - victim] == "1" and codes[victim] == "137"


# The same with processes that train nothing: two supervisors, each with one process of a run.

PROCESS = """
import os, signal, sys, time
from pathlib import Path
from clac_jax.distributed import hang, lost_process
from clac_jax.distributed.link import Link
from types import SimpleNamespace
from clac_jax.distributed.watchdog import Watchdog

index, address, workdir = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
counter = workdir / f"starts-of-{index}"
start = len(counter.read_text()) if counter.exists() else 0
counter.write_text("x" * (start + 1))
hang.ANSWER_SECONDS, lost_process.OWN_END_SECONDS = 1.0, 0.3
link = Link(address, index, 2, 20, 30)
link.agree("program", {})
hung = hang.HungRun(workdir, link, index, 2)
with Watchdog(SimpleNamespace(floor_seconds=1.0, factor=10, first_seconds=1.0), hung.end) as dog:
    hung.doing = dog.describe
    if index == 0:
        (workdir / "checkpoints" / str(start + 1)).mkdir(parents=True)
    link.agree("the checkpoint", {})
    if start == 0 and index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if start == 0 or start == 1 and index == 0:
        with dog.watching("a training step"):
            time.sleep(60)
    link.end()
    link.close()
"""


def test_the_processes_of_two_hosts_are_started_again_together(supervise, tmp_path):
    (tmp_path / "run").mkdir()
    where = address()
    running = [supervise("-c", PROCESS, index, where, tmp_path / "run") for index in range(2)]
    codes = []
    for process in running:
        code, _, err = ends(process)
        assert code == 0, err
        lines = [line for line in err.splitlines() if line.startswith("run  ")]
        codes.append([line.partition("exit code ")[2].split()[0] for line in lines])
    # Started again too soon, the second one meets the run of before, which is about to end.
    early = [code for code in codes[1] if code == "1"]
    assert codes[0] == ["1", "76", "0"]
    assert [code for code in codes[1] if code != "1"] == ["137", "76", "0"]
    assert len(list((tmp_path / "run" / "stacks").iterdir())) == 2
    assert len(list((tmp_path / "run" / "tries").iterdir())) == 6 + len(early)
