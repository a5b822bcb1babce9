"""A failing machine and a meddling user: what the real program says, and what is left."""

import json
import os
import resource
import shutil
import signal
import subprocess
import time

import pytest
from end_to_end.conftest import ROOT
from end_to_end.small_runs import arrays_at, assert_same
from test_run_log import points

from clac_jax.errors import EXIT_USER_ERROR
from clac_jax.run_log import read_rows

FLAGS = (
    "--config.graph_encoder.name=composition",
    "--config.use_visual_intramodal_loss=False",
    "--config.use_textual_intramodal_loss=False",
)


@pytest.fixture(scope="module")
def finished(run, tmp_path_factory):
    """The workdir of a run of 16 steps that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("faults") / "run"
    done = run(workdir, *FLAGS)
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture
def begin(command, environment):
    """(workdir, *flags, **options of Popen) -> the program while it runs."""

    def start(workdir, *flags, **options):
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} | options
        variables = environment() | options.pop("env", {})
        return subprocess.Popen(
            command(workdir, *FLAGS, *flags), cwd=ROOT, env=variables, **options
        )

    return start


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


def test_a_workdir_moved_away_is_noticed_and_the_run_saved_where_it_went(begin, run, tmp_path):
    workdir, moved = tmp_path / "run", tmp_path / "moved"
    process = begin(workdir, "--config.max_epochs=10000", "--config.checkpoint.every_n_epochs=1000")
    wait_for(lambda: len(read_rows(workdir / "metrics.jsonl")) > 5, process)
    workdir.rename(moved)
    message = the_one_error(process.communicate(timeout=60)[0])
    assert process.returncode == EXIT_USER_ERROR
    assert "was moved or removed" in message and str(moved) in message
    assert not workdir.exists(), "nothing is made in its place"
    rows = [row for row in read_rows(moved / "metrics.jsonl") if row["split"] == "train"]
    assert steps(moved) == [rows[-1]["step"]]
    assert [row["step"] for row in rows] == list(range(1, rows[-1]["step"] + 1))


def test_rows_taken_away_are_written_again_and_the_state_is_saved(begin, tmp_path):
    workdir = tmp_path / "run"
    process = begin(workdir, "--config.max_epochs=10000", "--config.checkpoint.every_n_epochs=1000")
    wait_for(lambda: len(read_rows(workdir / "metrics.jsonl")) > 5, process)
    (workdir / "metrics.jsonl").unlink()
    assert "metrics.jsonl was removed" in the_one_error(process.communicate(timeout=60)[0])
    assert process.returncode == EXIT_USER_ERROR
    rows = [row for row in read_rows(workdir / "metrics.jsonl") if row["split"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, rows[-1]["step"] + 1))
    assert steps(workdir) == [rows[-1]["step"]]


def test_tensorboard_has_every_row_after_a_kill(begin, run, tmp_path):
    """SIGKILL right after a commit; the run that resumes leaves both with the same points."""
    workdir = tmp_path / "run"
    flags = ("--config.checkpoint.every_n_steps=5", "--config.max_epochs=3")
    process = begin(workdir, *flags)
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


def test_output_that_nobody_takes_never_ends_a_run(begin, finished, tmp_path):
    """A pipe whose reader has gone, and characters that the output's encoding lacks."""
    workdir = tmp_path / "ünï 😀"
    reader, writer = os.pipe()
    process = begin(workdir, stdout=writer, stderr=writer, env={"PYTHONIOENCODING": "ascii"})
    os.close(writer)
    assert os.read(reader, 8) == b"clac_jax"
    os.close(reader)
    assert process.wait(timeout=120) == 0
    assert_same(arrays_at(workdir, 16), arrays_at(finished, 16))
    assert read_rows(workdir / "metrics.jsonl")[-1]["split"] == "test"


def test_a_terminal_that_is_closed_or_full_never_ends_a_run(begin, tmp_path):
    def close():
        for descriptor in (0, 1, 2):
            os.close(descriptor)

    closed = begin(tmp_path / "closed", stdout=None, stderr=None, preexec_fn=close)
    with open("/dev/full", "w") as full:
        process = begin(tmp_path / "full", stdout=full, stderr=full)
    for name, one in (("closed", closed), ("full", process)):
        assert one.wait(timeout=120) == 0
        # The numbers of the closed descriptors were not given to files of the run.
        assert read_rows(tmp_path / name / "metrics.jsonl")[-1]["split"] == "test"


def limit_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))


def test_a_save_that_fails_half_way_is_one_line_and_leaves_nothing(begin, tmp_path):
    """A limit on the size of files is met by TensorStore's threads, as a quota is."""
    process = begin(
        tmp_path / "run",
        "--config.checkpoint.retries=1",
        "--config.checkpoint.retry_seconds=0.01",
        preexec_fn=limit_files,
    )
    output = process.communicate(timeout=120)[0]
    assert process.returncode == EXIT_USER_ERROR
    message = the_one_error(output)
    assert "Cannot save step 8" in message and "ulimit -f" in message
    after_start = output[output.index("start     ") :].splitlines()
    assert all(line.startswith(("start", "epoch", " ", "warning", "error")) for line in after_start)
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


def test_a_full_disk_is_foreseen_said_in_one_line_and_costs_nothing(run, finished, small_disk):
    workdir = small_disk / "run"
    flags = (*FLAGS, "--config.max_epochs=4", "--config.checkpoint.save_top_k=-1")
    quick = "--config.checkpoint.retry_seconds=0.01"
    done = run(workdir, *flags, quick)
    assert done.returncode == EXIT_USER_ERROR
    assert "Free some space before it is used up" in done.stderr
    assert "No space left on device" in the_one_error(done.stderr)
    there = steps(workdir)
    assert there and there[-1] < 32, "only whole checkpoints, and no temporary folder"
    (small_disk / "fill").write_bytes(bytes(os.statvfs(small_disk).f_bavail * 4096 - 500_000))
    refused = the_one_error(run(workdir, *flags).stderr)
    assert "A checkpoint of this run takes" in refused
    (small_disk / "fill").unlink()
    for step in there[:-1]:
        shutil.rmtree(workdir / "checkpoints" / str(step))
    assert run(workdir, *FLAGS).returncode == 0
    assert_same(arrays_at(workdir, 16), arrays_at(finished, 16)) if 16 in steps(workdir) else None


IN_THE_WAY = {
    "tensorboard": "file is in the place of a folder",
    "config.json": "folder is in the place of the file",
    "checkpoints": "file is in the place of a folder",
}


@pytest.mark.parametrize("name", IN_THE_WAY)
def test_what_is_in_the_way_of_a_file_of_the_run_is_named(run, tmp_path, name):
    workdir = tmp_path / "run"
    workdir.mkdir()
    if "folder is" in IN_THE_WAY[name]:
        (workdir / name / "inside").mkdir(parents=True)
    else:
        (workdir / name).write_text("mine")
    done = run(workdir, *FLAGS)
    assert done.returncode == EXIT_USER_ERROR
    message = the_one_error(done.stderr)
    assert name in message and IN_THE_WAY[name] in message
    left = [path.name for path in workdir.iterdir() if "tmp" in path.name or "probe" in path.name]
    assert left == []


def test_a_report_that_cannot_be_drawn_costs_no_result(run, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "report.png").unlink()
    (tmp_path / "run" / "report.png" / "inside").mkdir(parents=True)
    done = run(tmp_path / "run", *FLAGS)
    assert done.returncode == EXIT_USER_ERROR
    assert "report.png" in the_one_error(done.stderr)
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert rows[-1]["split"] == "test"


def test_lost_checkpoints_cost_no_rows(run, finished, tmp_path):
    """The run starts afresh and says so; what the lost one had measured is kept."""
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    shutil.rmtree(workdir / "checkpoints")
    done = run(workdir, *FLAGS)
    assert done.returncode == 0, done.stderr
    assert "fresh run" in done.stdout and "kept in metrics-1.jsonl" in done.stderr
    kept = (workdir / "metrics-1.jsonl").read_bytes()
    assert kept == (finished / "metrics.jsonl").read_bytes()
    assert len(read_rows(workdir / "metrics.jsonl")) == len(kept.splitlines())


def test_lost_rows_are_said_and_the_run_resumes(run, finished, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    (workdir / "metrics.jsonl").unlink()
    done = run(workdir, *FLAGS)
    assert done.returncode == 0, done.stderr
    assert "rows up to step 16 are missing" in done.stderr
    assert (workdir / "report.png").stat().st_size > 1000


def test_strange_names_in_the_checkpoints_are_passed_over(run, finished, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    (workdir / "checkpoints" / "²").mkdir()
    (workdir / "checkpoints" / "99").write_text("x")
    (workdir / "checkpoints" / "98").symlink_to("98")
    newest = workdir / "checkpoints" / "16"
    shutil.copytree(newest, workdir / "checkpoints" / "24")
    (workdir / "checkpoints" / "24" / "files.json").write_text("[" * 100_000)
    done = run(workdir, *FLAGS)
    assert done.returncode == 0, done.stderr
    assert "99 is not a folder" in done.stderr and "Traceback" not in done.stderr
    assert "files.json cannot be read" in done.stdout
    assert (workdir / "checkpoints" / "damaged" / "24").is_dir()
    assert json.loads((workdir / "restore_report.json").read_text())["step"] == 16
