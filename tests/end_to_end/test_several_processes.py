"""Several processes on 127.0.0.1, as on several hosts, form one run, even if one is lost."""

import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from etils import epath
from helpers.paths import ROOT
from helpers.several_processes import FLAGS, ended, log_of
from helpers.workdirs import assert_equal_runs, last_state, until

from clac_jax.checkpoint.layout import read_all
from clac_jax.distributed.preemption import EXIT_PREEMPTED
from clac_jax.journal.journal_file import read_journal
from clac_jax.reporting.metrics_file import TIMING_FIELDS, read_rows

SHARDED = (
    "--config.parallel=shard_map",
    "--config.sharding.what=everything",
    "--config.sharding.min_elements=64",
)
# With two shapes of batches, on which all processes agree.
IN_PARTS = (*SHARDED, "--config.input.max_batch_shapes=2")


@pytest.fixture(scope="module")
def undisturbed(begin_processes, tmp_path_factory):
    """The workdir of an undisturbed run in two processes with two devices each."""
    workdir = tmp_path_factory.mktemp("processes") / "undisturbed"
    assert ended(begin_processes(workdir)) == [0, 0], log_of(workdir, 0) + log_of(workdir, 1)
    return workdir


def assert_close_rows(workdir, undisturbed, tolerance=1e-5):
    """Asserts that all numbers of all rows except timings agree, up to the rounding of sums."""
    rows, expected = (read_rows(place / "metrics.jsonl") for place in (workdir, undisturbed))
    for row, other in zip(rows, expected, strict=True):
        assert row.keys() == other.keys() and row["split"] == other["split"]
        for name in row.keys() - {"split", *TIMING_FIELDS}:
            assert row[name] == pytest.approx(other[name], rel=tolerance, abs=tolerance), name


def assert_close_parameters(workdir, undisturbed, tolerance=1e-5):
    (step, arrays), (expected_step, expected) = last_state(workdir), last_state(undisturbed)
    assert step == expected_step == 20
    for path in arrays:
        if path.startswith("params/"):
            np.testing.assert_allclose(
                arrays[path], expected[path], rtol=0, atol=tolerance, err_msg=path
            )


@pytest.mark.slow
def test_one_process_with_everything_spread_gives_the_numbers_of_two(run, undisturbed, tmp_path):
    """By shard_map: parameters and moments are sharded on devices, and saved in shards."""
    done = run(tmp_path / "one", *FLAGS, *SHARDED, devices=4)
    assert done.returncode == 0, done.stderr
    assert_close_rows(tmp_path / "one", undisturbed)
    assert_close_parameters(tmp_path / "one", undisturbed)
    for name in ("ids", "texts", "crystals"):
        digests = (
            read_journal(each).steps["digests"][name] for each in (tmp_path / "one", undisturbed)
        )
        np.testing.assert_array_equal(*digests, err_msg=name)
    assert "4 x cpu, 2 processes" in log_of(undisturbed, 0)
    assert "epoch" not in log_of(undisturbed, 1), "only the first process reports"


def test_killed_it_equals_the_undisturbed_run(begin_processes, undisturbed, tmp_path):
    workdir = tmp_path / "killed"
    running = begin_processes(workdir)
    assert until(lambda: len(read_rows(workdir / "metrics.jsonl")) >= 4, running[0])
    running[1].kill()
    codes = ended(running, seconds=60)  # the other one does not wait indefinitely
    assert codes == [1, -signal.SIGKILL]
    assert "Process 0 stops because the connection to process 1" in log_of(workdir, 0)
    assert "The newest checkpoint is of step" in log_of(workdir, 0)
    assert ended(begin_processes(workdir)) == [0, 0]
    assert_equal_runs(workdir, undisturbed)


@pytest.mark.slow
def test_asked_to_stop_it_equals_the_undisturbed_run(begin_processes, undisturbed, tmp_path):
    workdir = tmp_path / "stopped"
    running = begin_processes(workdir)
    assert until(lambda: len(read_rows(workdir / "metrics.jsonl")) >= 4, running[0])
    running[1].send_signal(signal.SIGTERM)  # to only one: both save at the same step and stop
    assert ended(running) == [EXIT_PREEMPTED, EXIT_PREEMPTED]
    assert "a signal to another process: checkpoint saved" in log_of(workdir, 0)
    assert 4 <= last_state(workdir)[0] < 20
    assert ended(begin_processes(workdir)) == [0, 0]
    assert_equal_runs(workdir, undisturbed)


@pytest.mark.slow
def test_stops_by_the_config_change_no_bit_with_two_processes(
    begin_processes, undisturbed, tmp_path
):
    """In an epoch between two checkpoints, and at the end of one."""
    workdir = tmp_path / "stopped"
    for stop, step in (("step=7", 7), ("epoch=1", 10)):
        running = begin_processes(workdir, f"--config.stop_at_{stop}")
        assert ended(running) == [0, 0], log_of(workdir, 0) + log_of(workdir, 1)
        assert last_state(workdir)[0] == step
        assert f"stopped for now after {step // 10} of 2 epochs" in log_of(workdir, 0)
    assert ended(begin_processes(workdir)) == [0, 0], log_of(workdir, 0) + log_of(workdir, 1)
    assert_equal_runs(workdir, undisturbed)


@pytest.mark.slow
def test_stopped_while_it_validates_one_process_is_lost_and_the_epoch_is_saved(
    begin_processes, tmp_path
):
    """A validation leaves the state intact; a step would have taken its memory."""
    workdir = tmp_path / "validating"
    long = ("--config.eval_batch_size=4", "--config.checkpoint.every_n_steps=0")
    short = ("--config.distributed.failure_seconds=5",)
    running = begin_processes(workdir, *long, *short)
    assert until(lambda: len(read_rows(workdir / "metrics.jsonl")) >= 10, running[0])
    running[1].send_signal(signal.SIGSTOP)
    assert running[0].wait(60) == 1
    log = log_of(workdir, 0)
    assert "was not heard from for 5 seconds" in log and "Check failure stack trace" not in log
    assert "The newest checkpoint is of step 10." in log
    assert last_state(workdir)[0] == 10
    running[1].send_signal(signal.SIGCONT)
    assert running[1].wait(60) == 1
    assert "Process 1 stops because the others have ended" in log_of(workdir, 1)


@pytest.mark.slow
def test_one_process_resumes_where_two_have_stopped(run, undisturbed, tmp_path):
    """From the middle of an epoch, on one device: the same examples in the same order."""
    done = run(tmp_path / "one", *FLAGS, f"--config.resume_from={undisturbed}@step=10")
    assert done.returncode == 0, done.stderr
    rows = [r for r in read_rows(tmp_path / "one" / "metrics.jsonl") if r["split"] == "train"]
    expected = [r for r in read_rows(undisturbed / "metrics.jsonl") if r["split"] == "train"][10:]
    assert [row["examples_seen"] for row in rows] == [row["examples_seen"] for row in expected]
    assert [row["loss"] for row in rows] == pytest.approx([r["loss"] for r in expected], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("processes, devices", [(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 1)])
def test_any_layout_resumes_where_any_other_has_stopped(
    begin_processes, undisturbed, tmp_path, processes, devices
):
    """In the same workdir, after a stop in mid-epoch, compared with the undisturbed run."""
    workdir = tmp_path / "elastic"
    for size in ((processes, devices), (2, 2), (processes, devices)):
        before = len(read_rows(workdir / "metrics.jsonl"))
        running = begin_processes(workdir, processes=size[0], devices=size[1])
        until(lambda: len(read_rows(workdir / "metrics.jsonl")) > before + 4, running[0])  # noqa: B023
        running[-1].send_signal(signal.SIGTERM)
        assert set(ended(running)) <= {EXIT_PREEMPTED, 0}
    assert set(ended(begin_processes(workdir, processes=processes, devices=devices))) == {0}
    assert_close_rows(workdir, undisturbed)
    assert_close_parameters(workdir, undisturbed)


@pytest.mark.slow
def test_spread_over_two_processes_and_stopped_it_equals_itself(
    begin_processes, undisturbed_in_parts, tmp_path
):
    running = begin_processes(tmp_path / "stopped", *IN_PARTS)
    stopped = tmp_path / "stopped" / "metrics.jsonl"
    assert until(lambda: len(read_rows(stopped)) >= 4, running[0])
    running[0].send_signal(signal.SIGTERM)
    assert ended(running) == [EXIT_PREEMPTED, EXIT_PREEMPTED]
    assert ended(begin_processes(tmp_path / "stopped", *IN_PARTS)) == [0, 0]
    assert_equal_runs(tmp_path / "stopped", undisturbed_in_parts)
    state = tmp_path / "stopped" / "checkpoints" / "20" / "state"
    parts = sorted(path.name for path in state.glob("ocdbt.process_*"))
    assert parts == ["ocdbt.process_0", "ocdbt.process_1"], "each process has saved its part"


@pytest.fixture(scope="module")
def undisturbed_in_parts(begin_processes, tmp_path_factory):
    """The workdir of an undisturbed run in two processes whose state is sharded."""
    workdir = tmp_path_factory.mktemp("parts") / "undisturbed"
    assert ended(begin_processes(workdir, *IN_PARTS)) == [0, 0], log_of(workdir, 0)
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize(
    "index, point, saved",
    [
        (1, "part written", False),
        (1, "part noted", True),
        (0, "parts complete", False),
        (0, "merged", False),
        (0, "committed", True),
    ],
)
def test_killed_within_a_save_in_parts_it_resumes_from_the_last_complete_one(
    arguments, environment, begin_processes, undisturbed_in_parts, tmp_path, index, point, saved
):
    """At the save of step 6, the second; then with the same processes, to the same bits."""
    workdir, running = tmp_path / "run", []
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for number in range(2):
        where = (
            f"--config.distributed.coordinator_address=127.0.0.1:{port}",
            "--config.distributed.num_processes=2",
            f"--config.distributed.process_id={number}",
        )
        program = [ROOT / "tests" / "helpers" / "killed_main.py", point, "2"]
        if number != index:
            program = [ROOT / "main.py"]
        command = [sys.executable, *program, *arguments(workdir, *FLAGS, *IN_PARTS, *where)]
        with open(f"{workdir}.log{number}", "a", encoding="utf-8") as log:
            running.append(
                subprocess.Popen(command, env=environment(2), stdout=log, stderr=log, cwd=ROOT)
            )
    codes = ended(running)
    assert codes[index] == -signal.SIGKILL and codes[1 - index] == 1, log_of(workdir, 1 - index)
    intact, damaged = read_all(epath.Path(workdir) / "checkpoints")
    assert max(intact) == (6 if saved else 3) and not damaged
    assert ended(begin_processes(workdir, *IN_PARTS)) == [0, 0], log_of(workdir, 0)
    assert_equal_runs(workdir, undisturbed_in_parts)
