"""The scripts of examples/slurm, run by SLURM itself: `make test-slurm`.

The cluster has two nodes, and all of it runs on 127.0.0.1: `helpers.slurm`. The names of its nodes
cannot be resolved.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.paths import ROOT
from helpers.postgres import PASSWORD, postgres_server
from helpers.several_processes import FLAGS, ended, log_of
from helpers.slurm import slurm_cluster
from helpers.workdirs import assert_equal_runs, last_state

from clac_jax.config.schema import default_config
from clac_jax.errors import EXIT_USER_ERROR
from clac_jax.reporting.metrics_file import read_rows
from clac_jax.supervision.progress import newest_step
from clac_jax.sweeps.database import STORAGE_VARIABLE
from clac_jax.sweeps.opened import trial_folder
from clac_jax.sweeps.storage import State, Storage

pytestmark = pytest.mark.slurm

STEPS = 60
SEED = default_config().seed
SCRIPTS = ROOT / "examples" / "slurm"


@pytest.fixture(scope="module")
def cluster():
    with slurm_cluster() as running:
        yield running


@pytest.fixture(scope="module")
def flags(command):
    """Flags of a run of 60 steps, which saves every third one."""
    words = command(".", *FLAGS, "--config.max_epochs=6")[2:]
    return [word for word in words if not word.startswith("--workdir")]


@pytest.fixture
def submit(cluster, environment, flags, tmp_path):
    """(script, *arguments, options=(), ...) -> a queued job; `options` are those of sbatch."""
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "clac-jax"
    slow = ROOT / "tests" / "helpers" / "slow_training.py"
    program.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, str(slow)])} "$@"\n')
    program.chmod(0o755)
    pace = tmp_path / "pace"
    shared = environment() | {
        "PACE_FILE": str(pace),
        "PATH": f"{programs}{os.pathsep}{cluster.environment['PATH']}",
        "SLURM_CONF": cluster.environment["SLURM_CONF"],
    }

    def start(script, *arguments, options=(), log="job", pace_seconds=0.3, variables=None):
        pace.write_text(str(pace_seconds))
        workdir = tmp_path / "run"
        first = tmp_path / "sweep" if script == "sweep.sbatch" else f"--workdir={workdir}"
        # --config comes before the flags that override its keys.
        words = [*arguments, first] if script == "search.sbatch" else [first, *flags, *arguments]
        log = tmp_path / f"{log}.log"
        number = cluster.submit(
            f"--output={log}",
            *options,
            SCRIPTS / script,
            *words,
            environment=shared | (variables or {}),
            folder=ROOT,
        )
        return SimpleNamespace(
            number=number,
            workdir=workdir,
            environment=shared,
            log=lambda: log.read_text(errors="replace") if log.exists() else "",
            set_pace=lambda seconds: pace.write_text(str(seconds)),
        )

    return start


def steps_of(workdir):
    path = workdir / "metrics.jsonl"
    return max([row["step"] for row in read_rows(path)], default=0) if path.exists() else 0


def reaches(job, step):
    return lambda: steps_of(job.workdir) >= step


def completed(cluster, job):
    job.set_pace(0)
    assert cluster.end_of(job.number) == ("COMPLETED", 0), job.log()
    assert last_state(job.workdir)[0] == STEPS


@pytest.fixture(scope="module")
def undisturbed(run, flags, tmp_path_factory):
    """A run in one process, without SLURM."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    done = run(workdir, *FLAGS, "--config.max_epochs=6")
    assert done.returncode == 0, done.stderr
    return workdir


def says(job, text):
    return lambda: text in job.log()


def restarts(cluster, job, times):
    return lambda: cluster.job(job.number)["Restarts"] == str(times)


def processes_of(job):
    """The process ids of a job's tasks, in their order."""
    tasks = {}
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # not a process, or no longer one
            continue
        if b"train" in words and f"SLURM_JOB_ID={job.number}".encode() in variables:
            number = next(v for v in variables if v.startswith(b"SLURM_PROCID=")).split(b"=")[1]
            if b"srun" not in words[0]:
                tasks[int(number)] = int(folder.name)
    return [tasks[number] for number in sorted(tasks)]


def urgent_job(cluster, folder):
    """Runs a job that needs both nodes, for which others are pre-empted, to completion."""
    options = ("--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null")
    number = cluster.submit(*options, "--wrap=true", environment={}, folder=folder)
    assert cluster.end_of(number) == ("COMPLETED", 0)


def test_at_its_time_limit_requeued_and_killed_it_equals_the_undisturbed_run(
    cluster, submit, undisturbed
):
    # SLURM looks at time limits once in half a minute, and the signal may come a minute early.
    limit = ("--time=2", "--signal=USR1@30")
    job = submit("train.sbatch", options=limit, pace_seconds=2)
    cluster.until(reaches(job, 1))
    # A second job with the same workdir is refused, and not requeued.
    second = submit("train.sbatch", log="second", pace_seconds=2)
    assert cluster.end_of(second.number) == ("FAILED", EXIT_USER_ERROR)
    assert "is in use by process" in second.log() and restarts(cluster, second, 0)()
    # The time limit: the script requeues its own job.
    cluster.until(says(job, "USR1: checkpoint saved"))
    cluster.until(restarts(cluster, job, 1))
    cluster.call("scontrol", "update", f"jobid={job.number}", "TimeLimit=UNLIMITED")
    # Requeued by a person: SLURM does it, and not the script a second time.
    job.set_pace(0.3)
    cluster.until(reaches(job, last_state(job.workdir)[0] + 4))
    cluster.call("scontrol", "requeue", job.number)
    cluster.until(says(job, "SIGTERM: checkpoint saved"))
    # Killed: the steps since the newest checkpoint are repeated.
    cluster.until(reaches(job, last_state(job.workdir)[0] + 4))
    assert restarts(cluster, job, 2)()
    cluster.call("scancel", "--signal=KILL", f"{job.number}.0")  # the step; else it is cancelled
    cluster.until(restarts(cluster, job, 3))
    completed(cluster, job)
    assert_equal_runs(job.workdir, undisturbed)


def test_two_nodes_preempted_and_without_a_process_equal_the_undisturbed_run(
    cluster, submit, begin_processes, tmp_path
):
    undisturbed = tmp_path / "undisturbed"
    codes = ended(begin_processes(undisturbed, "--config.max_epochs=6", devices=1))
    assert codes == [0, 0], log_of(undisturbed, 0)
    job = submit(
        "multi_node.sbatch",
        "--config.distributed.failure_seconds=15",
        options=("--partition=graceful", "--ntasks-per-node=1"),
        variables={"WAIT_SECONDS": "10"},
    )
    # Pre-empted, with time to save: the script requeues its own job.
    cluster.until(reaches(job, 5))
    urgent_job(cluster, tmp_path)
    assert "checkpoint saved" in job.log() and restarts(cluster, job, 1)()
    # One process is killed: the other one reports it, and the script requeues.
    cluster.until(reaches(job, last_state(job.workdir)[0] + 4))
    os.kill(processes_of(job)[1], signal.SIGKILL)
    cluster.until(restarts(cluster, job, 2))
    assert "Process 0 stops because the connection to process 1" in job.log()
    # One process is suspended for good: srun ends it.
    cluster.until(reaches(job, last_state(job.workdir)[0] + 4))
    os.kill(processes_of(job)[0], signal.SIGSTOP)
    cluster.until(restarts(cluster, job, 3))
    assert "Process 1 stops because process 0" in job.log()
    completed(cluster, job)
    assert_equal_runs(job.workdir, undisturbed)


def test_an_array_is_preempted_and_each_of_its_runs_is_requeued(
    cluster, submit, undisturbed, tmp_path
):
    job = submit("sweep.sbatch", options=(f"--array={SEED}-{SEED + 1}",))
    runs = [tmp_path / "sweep" / f"seed-{seed}" for seed in (SEED, SEED + 1)]
    tasks = [f"{job.number}_{seed}" for seed in (SEED, SEED + 1)]
    cluster.until(lambda: min(map(steps_of, runs)) >= 5)
    # The script of one task requeues that one, also if its number is the one of the array.
    [first] = [task for task in tasks if cluster.job(task)["JobId"] == job.number]
    [other] = set(tasks) - {first}
    cluster.call("scancel", "--signal=USR1", first)
    cluster.until(lambda: cluster.job(first)["Restarts"] == "1")
    assert cluster.state(other) == "RUNNING"
    # Pre-empted without time to save: SLURM requeues both.
    cluster.until(lambda: cluster.state(first) == "RUNNING")
    urgent_job(cluster, tmp_path)
    job.set_pace(0)
    for task, workdir in zip(tasks, runs, strict=True):
        assert cluster.end_of(task) == ("COMPLETED", 0), job.log()
        assert last_state(workdir)[0] == STEPS
    assert cluster.job(first)["Restarts"] == "2" and cluster.job(other)["Restarts"] == "1"
    assert_equal_runs(runs[0], undisturbed)
    assert read_rows(runs[1] / "metrics.jsonl") != read_rows(runs[0] / "metrics.jsonl")


SEARCH = """
from clac_jax.sweeps import choice, log

config = "smoke"
space = {"learning_rate": log(1e-4, 1e-2), "schedule": choice("constant", "cosine")}
overrides = %r
monitor, mode = "val_loss", "min"
sampler = "random"
budget = dict(trials=4)
parallel = 2
keep_checkpoints = 0
"""


def test_programs_of_a_search_are_requeued_preempted_and_cancelled_and_all_trials_complete(
    cluster, submit, data_dir, tmp_path
):
    overrides = {
        "max_epochs": 3,
        "dataset.data_dir": str(data_dir),
        "dataset.max_examples": 32,
        "graph_encoder.name": "composition",
        "use_visual_intramodal_loss": False,
        "use_textual_intramodal_loss": False,
        "input.max_batch_shapes": 1,
        "compilation_cache": os.environ["JAX_COMPILATION_CACHE_DIR"],
    }
    file = tmp_path / "lr.py"
    file.write_text(SEARCH % overrides)
    with postgres_server() as url, Storage(url, "run") as storage:
        variables = {STORAGE_VARIABLE: url.replace(f":{PASSWORD}", ""), "PGPASSWORD": PASSWORD}
        options = ("--array=0-1",)
        job = submit("search.sbatch", file, options=options, pace_seconds=3, variables=variables)
        tasks = [f"{job.number}_{number}" for number in (0, 1)]
        folders = [trial_folder(job.workdir, number) for number in range(4)]

        def both_train():
            """Whether both tasks train, beyond what is saved."""
            places = [folders[t.number] for t in storage.trials() if t.state is State.RUNNING]
            unsaved = [steps_of(place) > max(0, newest_step(place) or 0) for place in places]
            return unsaved == [True] * 2 and {cluster.state(task) for task in tasks} == {"RUNNING"}

        # The script of one task requeues that one; its trial is saved.
        cluster.until(both_train)
        cluster.call("scancel", "--signal=USR1", tasks[0])
        cluster.until(lambda: cluster.job(tasks[0])["Restarts"] == "1")
        assert (
            says(job, "saved, and can be continued")() and cluster.job(tasks[1])["Restarts"] == "0"
        )
        # Pre-empted: SLURM requeues both.
        cluster.until(both_train)
        urgent_job(cluster, tmp_path)
        # One is cancelled for good: the other one also completes what it had started.
        cluster.until(both_train)
        cluster.call("scancel", tasks[0])
        job.set_pace(0)
        assert cluster.end_of(tasks[1]) == ("COMPLETED", 0), job.log()
        assert cluster.end_of(tasks[0])[0] == "CANCELLED"
        assert "finished: 4 trials of 4: 4 complete" in job.log()
        assert [trial.state for trial in storage.trials()] == [State.COMPLETE] * 4
    # A trial that was interrupted equals the undisturbed run.
    words = json.loads((folders[0] / "trial.json").read_text())["command"]
    undisturbed = tmp_path / "undisturbed"
    words = [
        f"--workdir={undisturbed}" if word.startswith("--workdir=") else word for word in words
    ]
    done = subprocess.run(words, env=job.environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_equal_runs(folders[0], undisturbed)


def test_a_mistake_ends_the_job_with_a_message(cluster, submit):
    job = submit("multi_node.sbatch", options=("--nodes=1", "--ntasks-per-node=3"))
    assert cluster.end_of(job.number) == ("FAILED", EXIT_USER_ERROR)
    assert restarts(cluster, job, 0)()
    assert "error: " in job.log() and "Traceback" not in job.log()
