"""The real program, as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def command(data_dir, tmp_path_factory):
    """(workdir, *flags) -> the command line of a smoke run."""
    cache = tmp_path_factory.mktemp("compilation_cache")

    def build(workdir, *flags):
        return [
            sys.executable,
            str(ROOT / "main.py"),
            f"--config={ROOT / 'configs' / 'smoke.py'}",
            f"--workdir={workdir}",
            f"--config.dataset.data_dir={data_dir}",
            f"--config.compilation_cache={cache}",
            *flags,
        ]

    return build


@pytest.fixture(scope="session")
def environment():
    """Environment variables of a run on one CPU device, or on `devices`."""

    def build(devices=1):
        return os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "PYTHONPATH": str(ROOT),
        }

    return build


@pytest.fixture(scope="session")
def run(command, environment):
    """Runs `main.py` to its end: (workdir, *flags, devices=1) -> CompletedProcess with text."""

    def start(workdir, *flags, devices=1):
        return subprocess.run(
            command(workdir, *flags),
            capture_output=True,
            text=True,
            timeout=240,
            env=environment(devices),
            cwd=ROOT,
        )

    return start
