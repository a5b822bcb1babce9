"""Several processes on 127.0.0.1, as on several hosts: one run, whatever happens to one of them."""

import json
import os
import signal
import socket
import subprocess

import numpy as np
import pytest
from end_to_end.conftest import ROOT
from end_to_end.test_interruption import assert_equal_runs, until
from end_to_end.test_training import assert_same_arrays, last_state
from helpers.user_tables import row as table_row
from helpers.user_tables import write

from clac_jax.distributed.preemption import EXIT_PREEMPTED
from clac_jax.errors import EXIT_USER_ERROR
from clac_jax.reporting.metrics_file import TIMING_FIELDS, read_rows

# 20 steps with dropout, token masks and random views of the texts.
FLAGS = (
    "--config.graph_encoder.name=composition",  # compiles fastest
    "--config.use_visual_intramodal_loss=False",
    "--config.dataset.max_examples=40",
    "--config.checkpoint.every_n_steps=3",
    "--config.text_encoder.dropout=0.1",
    "--config.augment.mask_prob=0.15",
    "--config.learning_rate=2e-4",
)


@pytest.fixture(scope="session")
def begin(command, environment):
    """(workdir, *flags, processes=2, devices=2) -> running processes, output in WORKDIR.logN."""

    def start(workdir, *flags, processes=2, devices=2, differing=None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        running = []
        for index in range(processes):
            where = (
                f"--config.distributed.coordinator_address=127.0.0.1:{port}",
                f"--config.distributed.num_processes={processes}",
                f"--config.distributed.process_id={index}",
                *(differing or {}).get(index, ()),
            )
            with open(f"{workdir}.log{index}", "a", encoding="utf-8") as log:
                arguments = command(workdir, *FLAGS, *flags, *where)
                env = environment(devices)
                running.append(
                    subprocess.Popen(arguments, env=env, stdout=log, stderr=log, cwd=ROOT)
                )
        return running

    return start


def ended(running, seconds=240):
    """The exit codes; a process that hangs is killed and fails the test."""
    try:
        return [process.wait(seconds) for process in running]
    finally:
        for process in running:
            process.kill()


@pytest.fixture
def table(tmp_path):
    """(host) -> a table of 40 rows on that host, the first of which is of its own length."""

    def build(host):
        rows = [table_row(k) for k in range(40)]
        rows[0]["atoms"] = json.dumps(json.loads(rows[0]["atoms"]) | {"lattice_mat": cell(host)})
        return write(tmp_path / f"table{host}.jsonl", rows)

    def cell(host):
        return (np.eye(3) * (4.1 + 0.1 * host)).tolist()

    return build


@pytest.fixture(scope="module")
def whole(begin, tmp_path_factory):
    """The workdir of a run in two processes with two devices each that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("processes") / "whole"
    assert ended(begin(workdir)) == [0, 0], log_of(workdir, 0) + log_of(workdir, 1)
    return workdir


def log_of(workdir, index):
    with open(f"{workdir}.log{index}", encoding="utf-8") as log:
        return log.read()


def assert_close_rows(workdir, whole, tolerance=1e-5):
    """Every number of every row but the clock's, up to the order in which sums were rounded."""
    rows, expected = (read_rows(place / "metrics.jsonl") for place in (workdir, whole))
    for row, other in zip(rows, expected, strict=True):
        assert row.keys() == other.keys() and row["split"] == other["split"]
        for name in row.keys() - {"split", *TIMING_FIELDS}:
            assert row[name] == pytest.approx(other[name], rel=tolerance, abs=tolerance), name


def assert_close_parameters(workdir, whole, tolerance=1e-5):
    (step, arrays), (expected_step, expected) = last_state(workdir), last_state(whole)
    assert step == expected_step == 20
    for path in arrays:
        if path.startswith("params/"):
            np.testing.assert_allclose(
                arrays[path], expected[path], rtol=0, atol=tolerance, err_msg=path
            )


def test_one_process_with_everything_spread_gives_the_numbers_of_two(run, whole, tmp_path):
    """By shard_map: parameters and moments in parts on the devices, whole in the checkpoint."""
    flags = (
        "--config.parallel=shard_map",
        "--config.sharding.what=everything",
        "--config.sharding.min_elements=64",
    )
    done = run(tmp_path / "one", *FLAGS, *flags, devices=4)
    assert done.returncode == 0, done.stderr
    assert_close_rows(tmp_path / "one", whole)
    assert_close_parameters(tmp_path / "one", whole)
    assert "4 x cpu, 2 processes" in log_of(whole, 0)
    assert "epoch" not in log_of(whole, 1), "the first process alone reports"


def test_told_to_stop_and_killed_it_equals_the_run_that_nobody_disturbed(begin, whole, tmp_path):
    workdir = tmp_path / "disturbed"
    running = begin(workdir)
    assert until(lambda: len(read_rows(workdir / "metrics.jsonl")) >= 4, running[0])
    running[1].send_signal(signal.SIGTERM)  # to one alone: both save at the same step and end
    assert ended(running) == [EXIT_PREEMPTED, EXIT_PREEMPTED]
    assert "a signal to another process: checkpoint saved" in log_of(workdir, 0)
    stopped_at = last_state(workdir)[0]
    assert 4 <= stopped_at < 20

    running = begin(workdir)
    assert until(lambda: read_rows(workdir / "metrics.jsonl")[-1]["step"] > stopped_at, running[0])
    running[1].kill()
    codes = ended(running, seconds=60)  # the other one does not wait for ever
    assert codes == [1, -signal.SIGKILL]
    assert "Process 0 stops because the connection to process 1" in log_of(workdir, 0)
    assert "The newest checkpoint is of step" in log_of(workdir, 0)

    assert ended(begin(workdir)) == [0, 0]
    assert_equal_runs(workdir, whole)


def test_what_one_process_cannot_use_ends_all(begin, tmp_path):
    workdir = tmp_path / "wrong"
    running = begin(workdir, differing={1: ("--config.dataset.data_dir=/proc/nowhere",)})
    assert ended(running, seconds=120) == [1, EXIT_USER_ERROR]
    assert log_of(workdir, 1).startswith("error: Cannot write the data set to /proc/nowhere")
    assert "ended: Cannot write the data set to /proc/nowhere" in log_of(workdir, 0)
    assert not (workdir / "checkpoints").exists() or not os.listdir(workdir / "checkpoints")


def test_another_config_in_one_process_is_named_by_all(begin, tmp_path):
    workdir = tmp_path / "different"
    running = begin(workdir, differing={1: ("--config.batch_size=8", "--config.max_epochs=9")})
    assert ended(running, seconds=120) == [EXIT_USER_ERROR, EXIT_USER_ERROR]
    for index in (0, 1):
        (line,) = log_of(workdir, index).splitlines()
        assert line.startswith("error: Config key batch_size is 8 in process 1 and 4 in process 0.")
        assert "config key max_epochs" in line
    assert not workdir.exists()


def test_other_data_behind_the_same_command_are_named_by_all(begin, tmp_path, table):
    """As many rows on each host, of which one is another crystal."""
    workdir = tmp_path / "data"
    flags = ("--config.dataset.name=gpt_narratives",)
    paths = {index: (f"--config.dataset.path={table(index)}",) for index in (0, 1)}
    own = f"--config.dataset.data_dir={tmp_path / 'prepared'}"
    running = begin(workdir, *flags, own, differing=paths)
    assert ended(running, seconds=120) == [EXIT_USER_ERROR, EXIT_USER_ERROR]
    for index in (0, 1):
        assert log_of(workdir, index).splitlines()[-1].startswith("error: The train split is ")


@pytest.mark.slow
def test_stopped_while_it_validates_one_process_is_lost_and_the_epoch_is_saved(begin, tmp_path):
    """A validation leaves the state intact; a step would have taken its memory."""
    workdir = tmp_path / "validating"
    long = ("--config.eval_batch_size=4", "--config.checkpoint.every_n_steps=0")
    short = ("--config.distributed.failure_seconds=5",)
    running = begin(workdir, *long, *short)
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
def test_one_process_goes_on_where_two_have_stopped(run, whole, tmp_path):
    """From the middle of an epoch, on one device: the same examples in the same order."""
    done = run(tmp_path / "one", *FLAGS, f"--config.resume_from={whole}@step=10")
    assert done.returncode == 0, done.stderr
    rows = [r for r in read_rows(tmp_path / "one" / "metrics.jsonl") if r["split"] == "train"]
    expected = [r for r in read_rows(whole / "metrics.jsonl") if r["split"] == "train"][10:]
    assert [row["examples_seen"] for row in rows] == [row["examples_seen"] for row in expected]
    assert [row["loss"] for row in rows] == pytest.approx([r["loss"] for r in expected], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("processes, devices", [(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 1)])
def test_any_layout_goes_on_where_any_other_has_stopped(begin, whole, tmp_path, processes, devices):
    """In the same workdir, after a stop in mid-epoch, against the run that nobody disturbed."""
    workdir = tmp_path / "elastic"
    for size in ((processes, devices), (2, 2), (processes, devices)):
        before = len(read_rows(workdir / "metrics.jsonl"))
        running = begin(workdir, processes=size[0], devices=size[1])
        until(lambda: len(read_rows(workdir / "metrics.jsonl")) > before + 4, running[0])  # noqa: B023
        running[-1].send_signal(signal.SIGTERM)
        assert set(ended(running)) <= {EXIT_PREEMPTED, 0}
    assert set(ended(begin(workdir, processes=processes, devices=devices))) == {0}
    assert_close_rows(workdir, whole)
    assert_close_parameters(workdir, whole)


@pytest.mark.slow
def test_spread_over_two_processes_and_stopped_it_equals_itself(begin, tmp_path):
    flags = (
        "--config.parallel=shard_map",
        "--config.sharding.what=everything",
        "--config.sharding.min_elements=64",
    )
    assert ended(begin(tmp_path / "whole", *flags)) == [0, 0]
    running = begin(tmp_path / "stopped", *flags)
    stopped = tmp_path / "stopped" / "metrics.jsonl"
    assert until(lambda: len(read_rows(stopped)) >= 4, running[0])
    running[0].send_signal(signal.SIGTERM)
    assert ended(running) == [EXIT_PREEMPTED, EXIT_PREEMPTED]
    assert ended(begin(tmp_path / "stopped", *flags)) == [0, 0]
    assert_same_arrays(last_state(tmp_path / "stopped")[1], last_state(tmp_path / "whole")[1])
