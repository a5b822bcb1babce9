"""A run killed and resumed, against one that is not, by the program that users start.

python -m benchmarks.killed --output=benchmarks/results/killed.json

Both runs are `configs/smoke.py` with deterministic operations, on the device that JAX chooses. One
is ended by SIGKILL after step 40, and resumes with an empty cache of compiled programs, as on
another machine. Counted are the arrays of the last checkpoint with equal bits, and the equal rows
of metrics.jsonl, apart from their times. Two programs use the device at the same time.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from etils import epath

from benchmarks.common import RESULTS, ROOT, write_results
from clac_jax.checkpoint.layout import CHECKPOINTS, step_folders
from clac_jax.reporting.metrics_file import TIMING_FIELDS, read_rows

KILLED_AFTER, EPOCHS = 40, 12
FLAGS = (
    "--config=configs/smoke.py",
    "--config.deterministic=True",
    f"--config.max_epochs={EPOCHS}",
    "--config.checkpoint.every_n_steps=10",
    "--config.input.max_batch_shapes=1",
)


def start(workdir: Path, cache: Path) -> subprocess.Popen[bytes]:
    """Starts or resumes the run of a workdir."""
    command = [sys.executable, "main.py", *FLAGS, f"--workdir={workdir}"]
    command.append(f"--config.compilation_cache={cache}")
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    return subprocess.Popen(command, cwd=ROOT, env=environment)


def kill_after(process: subprocess.Popen[bytes], workdir: Path, step: int) -> int:
    """Ends a run by SIGKILL when it has a checkpoint of this step; returns its newest step."""
    while process.poll() is None:
        saved = step_folders(epath.Path(workdir) / CHECKPOINTS)
        if saved and max(saved) >= step:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return max(saved)
        time.sleep(0.02)
    raise SystemExit("The run ended before it was killed.")


def untimed_rows(workdir: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without their times."""
    rows = read_rows(workdir / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in TIMING_FIELDS} for row in rows]


def different_arrays(runs: tuple[Path, Path]) -> list[str]:
    """The lines of `clac-jax ckpt diff` about the last checkpoints, without the caches' folders."""
    command = [sys.executable, "-m", "clac_jax", "ckpt", "diff", *(f"{run}@last" for run in runs)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines() + done.stderr.splitlines()
    return [line for line in lines if "compilation_cache" not in line]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS / "killed.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        undisturbed, killed = Path(folder, "undisturbed"), Path(folder, "killed")
        caches = Path(folder, "first_cache"), Path(folder, "other_cache")
        running = [start(undisturbed, caches[0]), start(killed, caches[0])]
        try:
            newest = kill_after(running[1], killed, KILLED_AFTER)
            running[1] = start(killed, caches[1])
            if any([each.wait() for each in running]):
                raise SystemExit("A run has failed: see above.")
        finally:
            for each in running:
                each.kill()
                each.wait()
        rows = untimed_rows(undisturbed), untimed_rows(killed)
        results = {
            "killed_after_checkpoint": newest,
            "rows": [len(each) for each in rows],
            "equal_rows": sum(a == b for a, b in zip(*rows, strict=False)),
            "checkpoints": different_arrays((undisturbed, killed)),
        }
    print(json.dumps(results, indent=2))
    write_results(options.output, results)


if __name__ == "__main__":
    main()
