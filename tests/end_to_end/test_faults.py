"""Machine failures and files changed by the user: messages of the program, and what is left."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import time

import pytest
from helpers.event_files import points
from helpers.paths import ROOT
from helpers.small_runs import arrays_at

from clac_jax.checkpoint.capacity import CapacityError
from clac_jax.checkpoint.manager import CheckpointError
from clac_jax.errors import EXIT_USER_ERROR, WorkdirError
from clac_jax.reporting.metrics_file import read_rows
from clac_jax.training_run import train

FLAGS = (
    "--config.graph_encoder.name=composition",
    "--config.use_visual_intramodal_loss=False",
    "--config.use_textual_intramodal_loss=False",
)
SHORT = ("--config.max_epochs=1", "--config.dataset.max_examples=16")


@pytest.fixture
def start(begin):
    """(workdir, *flags) -> the program while it runs; output and errors are one stream."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return lambda workdir, *flags: begin(workdir, *FLAGS, *flags, **streams)


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def the_one_error(output):
    assert "Traceback" not in output
    (message,) = [line for line in output.splitlines() if line.startswith("error: ")]
    return message


def steps(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


@pytest.mark.slow
def test_a_workdir_moved_away_is_noticed_and_the_run_saved_where_it_went(start, tmp_path):
    workdir, moved = tmp_path / "run", tmp_path / "moved"
    process = start(workdir, "--config.max_epochs=10000", "--config.checkpoint.every_n_epochs=1000")
    wait_for(lambda: len(read_rows(workdir / "metrics.jsonl")) > 5, process)
    workdir.rename(moved)
    message = the_one_error(process.communicate(timeout=60)[0])
    assert process.returncode == EXIT_USER_ERROR
    assert "was moved or removed" in message and str(moved) in message
    assert not workdir.exists(), "nothing is made in its place"
    rows = [row for row in read_rows(moved / "metrics.jsonl") if row["split"] == "train"]
    assert steps(moved) == [rows[-1]["step"]]
    assert [row["step"] for row in rows] == list(range(1, rows[-1]["step"] + 1))


@pytest.mark.slow
def test_tensorboard_has_every_row_after_a_kill(start, run, tmp_path):
    """SIGKILL right after a commit; after the resume TensorBoard and metrics.jsonl agree."""
    workdir = tmp_path / "run"
    flags = ("--config.checkpoint.every_n_steps=5", "--config.max_epochs=3")
    process = start(workdir, *flags)
    wait_for((workdir / "checkpoints" / "10").exists, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert run(workdir, *FLAGS, *flags).returncode == 0
    expected = {
        (f"{row['split']}/{name}", row["step"])
        for row in read_rows(workdir / "metrics.jsonl")
        for name, value in row.items()
        if name not in ("split", "step") and isinstance(value, int | float)
    }
    assert points(workdir / "tensorboard").keys() == expected


@pytest.mark.slow
def test_unread_output_never_ends_a_run(command, environment, tmp_path):
    """A pipe without a reader, and characters that the output encoding lacks."""
    workdir = tmp_path / "ünï 😀"
    reader, writer = os.pipe()
    ascii_only = environment() | {"PYTHONIOENCODING": "ascii"}
    process = subprocess.Popen(
        command(workdir, *FLAGS, *SHORT), stdout=writer, stderr=writer, env=ascii_only, cwd=ROOT
    )
    os.close(writer)
    assert os.read(reader, 8) == b"clac_jax"
    os.close(reader)
    assert process.wait(timeout=120) == 0
    assert steps(workdir) == [4]
    assert read_rows(workdir / "metrics.jsonl")[-1]["split"] == "test"


@pytest.mark.slow
def test_a_closed_output_never_ends_a_run(command, environment, tmp_path):
    """Files of the run do not get the numbers of the closed descriptors."""
    line = shlex.join([*command(tmp_path / "run", *FLAGS, *SHORT)])
    shell = ["bash", "-c", f"exec {line} <&- >&- 2>/dev/full"]
    done = subprocess.run(shell, cwd=ROOT, env=environment(), timeout=120)
    assert done.returncode == 0
    assert read_rows(tmp_path / "run" / "metrics.jsonl")[-1]["split"] == "test"


def test_a_save_that_fails_half_way_is_one_line_and_leaves_nothing(command, environment, tmp_path):
    """TensorStore's threads run into a file-size limit, as into a quota."""
    line = shlex.join([*command(tmp_path / "run", *FLAGS), "--config.checkpoint.retries=0"])
    # The limit would also be that of the file in which a measurement of coverage is saved.
    unmeasured = {k: v for k, v in environment().items() if not k.startswith("COVERAGE_")}
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 400; exec {line}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=unmeasured,
        timeout=120,
    )
    assert done.returncode == EXIT_USER_ERROR
    message = the_one_error(done.stderr)
    assert "Cannot save step 8" in message and "ulimit -f" in message
    assert done.stderr.count("\n") == 1, "nothing of the threads that have failed, too"
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MB, where the test may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", folder], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no permission to mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_foreseen_and_costs_nothing(small_config, small_disk, capfd):
    quick = {"checkpoint__retries": 1, "checkpoint__retry_seconds": 0.0}
    quick["checkpoint__share"] = False  # so that the checkpoints do not fit
    with pytest.raises(CheckpointError, match="No space left on device"):
        train(small_config(max_epochs=5, **quick), small_disk)
    assert "Free some space before it is used up" in capfd.readouterr().err
    there = steps(small_disk)
    assert there and there == list(range(4, there[-1] + 1, 4)), "complete ones, nothing temporary"
    assert there[-1] < 20
    disk = os.statvfs(small_disk)
    (small_disk / "fill").write_bytes(bytes(disk.f_bavail * disk.f_frsize - 500_000))
    with pytest.raises(CapacityError, match="A checkpoint of this run takes"):
        train(small_config(max_epochs=5), small_disk)
    assert steps(small_disk) == there
    assert arrays_at(small_disk, there[-1])  # verified against their checksums


@pytest.fixture
def copy(stage1, tmp_path):
    """A finished run of 8 steps."""
    shutil.copytree(stage1, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.slow
def test_a_report_that_cannot_be_drawn_costs_no_result(small_config, copy):
    (copy / "report.png").unlink()
    (copy / "report.png" / "inside").mkdir(parents=True)
    with pytest.raises(WorkdirError, match=r"report\.png: .*folder has the name of the file"):
        train(small_config(), copy)
    assert read_rows(copy / "metrics.jsonl")[-1]["split"] == "test"
    assert not [path for path in copy.iterdir() if "tmp" in path.name]


def test_lost_checkpoints_cost_no_rows(small_config, copy, stage1, capfd):
    """The run starts from scratch and says so; the rows of the lost one are kept."""
    shutil.rmtree(copy / "checkpoints")
    train(small_config(), copy)
    captured = capfd.readouterr()
    assert "fresh run" in captured.out and "kept in metrics-1.jsonl" in captured.err
    kept = (copy / "metrics-1.jsonl").read_bytes()
    assert kept == (stage1 / "metrics.jsonl").read_bytes()
    assert len(read_rows(copy / "metrics.jsonl")) == len(kept.splitlines())


def test_lost_rows_and_strange_names_are_said_and_the_run_resumes(
    small_config, copy, capfd, drawn_reports
):
    (copy / "metrics.jsonl").unlink()
    (copy / "checkpoints" / "²").mkdir()
    (copy / "checkpoints" / "99").write_text("x")
    (copy / "checkpoints" / "98").symlink_to("98")
    shutil.copytree(copy / "checkpoints" / "8", copy / "checkpoints" / "24")
    (copy / "checkpoints" / "24" / "files.json").write_text("[" * 100_000)
    train(small_config(), copy)
    captured = capfd.readouterr()
    assert "rows up to step 8 are missing" in captured.err
    assert "99 is not a folder" in captured.err
    assert "files.json cannot be read" in captured.out
    assert (copy / "checkpoints" / "damaged" / "24").is_dir()
    assert json.loads((copy / "restore_report.json").read_text())["step"] == 8
    assert (copy / "report.png").stat().st_size > 1000
