"""The real program, mostly in forks of a process with its imports, and short runs in the test's."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import ROOT
from helpers.several_processes import FLAGS
from helpers.small_runs import BATCH, STEPS_PER_EPOCH
from matplotlib.figure import Figure

from clac_jax.training_run import train
from configs import smoke

_DRAW = Figure.savefig


@pytest.fixture(scope="module", autouse=True)
def blank_reports():
    """In this process, reports without pixels: drawing takes a seventh of the time of a run."""
    with pytest.MonkeyPatch.context() as patch:
        blank = lambda figure, path, **options: Path(path).write_bytes(b"")  # noqa: E731
        patch.setattr(Figure, "savefig", blank)
        yield


@pytest.fixture
def drawn_reports(monkeypatch):
    """Reports as users get them."""
    monkeypatch.setattr(Figure, "savefig", _DRAW)


@pytest.fixture(scope="session")
def arguments(data_dir):
    """(workdir, *flags) -> the arguments of `main.py` for a smoke run."""

    def build(workdir, *flags):
        return [
            f"--config={ROOT / 'configs' / 'smoke.py'}",
            f"--workdir={os.path.relpath(workdir, ROOT)}",  # as users write it
            f"--config.dataset.data_dir={data_dir}",
            f"--config.compilation_cache={os.environ['JAX_COMPILATION_CACHE_DIR']}",
            "--config.input.max_batch_shapes=1",  # one program to trace
            *flags,
        ]

    return build


@pytest.fixture(scope="session")
def command(arguments):
    """(workdir, *flags) -> the command line of a smoke run, for a new interpreter."""
    return lambda *given: [sys.executable, str(ROOT / "main.py"), *arguments(*given)]


@pytest.fixture(scope="session")
def begin(arguments, environment, programs):
    """(workdir, *flags, devices=1, stdout=..., stderr=...) -> `main.py`, running in a fork."""

    def start(workdir, *flags, devices=1, **streams):
        return programs[0].start(arguments(workdir, *flags), environment(devices), **streams)

    return start


@pytest.fixture(scope="session")
def run(begin):
    """Runs `main.py` to completion: (workdir, *flags, devices=1) -> CompletedProcess with text."""

    def start(workdir, *flags, devices=1):
        pipe = subprocess.PIPE
        process = begin(workdir, *flags, devices=devices, stdout=pipe, stderr=pipe)
        try:
            out, err = process.communicate(timeout=240)
        finally:
            process.kill()
        return subprocess.CompletedProcess(flags, process.returncode, out, err)

    return start


@pytest.fixture(scope="session")
def run_unforked(command, environment):
    """As `run`, but in a new interpreter, exactly as a user starts it."""

    def start(workdir, *flags):
        return subprocess.run(
            command(workdir, *flags),
            capture_output=True,
            text=True,
            timeout=240,
            env=environment(),
            cwd=ROOT,
        )

    return start


@pytest.fixture(scope="session")
def begin_processes(arguments, environment, programs):
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
                given = arguments(workdir, *FLAGS, *flags, *where)
                origin = programs[index % len(programs)]
                running.append(origin.start(given, environment(devices), log, log))
        return running

    return start


@pytest.fixture(scope="session")
def small_config(data_dir):
    """(**changes) -> config of a run that takes seconds and keeps the checkpoint of every epoch."""

    def build(**changes):
        result = smoke.get_config()
        result.dataset.data_dir = str(data_dir)
        result.dataset.max_examples = STEPS_PER_EPOCH * BATCH
        result.compilation_cache = os.environ["JAX_COMPILATION_CACHE_DIR"]
        result.logging.tensorboard = False
        result.graph_encoder.name = "composition"  # compiles fastest
        result.use_visual_intramodal_loss = result.use_textual_intramodal_loss = False
        result.schedule = "cosine"
        result.checkpoint.save_top_k = -1
        result.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
        return result

    return build


@pytest.fixture(scope="session")
def stage1(small_config, tmp_path_factory):
    """An undisturbed run of two epochs, with a checkpoint of every step."""
    workdir = tmp_path_factory.mktemp("stage1")
    train(small_config(checkpoint__every_n_steps=1), workdir)
    return workdir
