"""The price of bits that do not depend on the layout: steps of the base run, with and without.

    python -m benchmarks.layouts [--steps=6]

Each row is the real program (`main.py`) on one or more CPU devices; the fastest step counts.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, ROOT, SHARED_CORES, write_results

BATCH = 64
CASES = (("run", 1), ("layout", 1), ("run", 2), ("layout", 2))


def main() -> None:
    """Measures every case, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--output", type=Path, default=RESULTS / "layouts.json")
    options = parser.parse_args()
    rows = []
    for mode, devices in CASES:
        rows.append(_measure(mode, devices, options.steps))
        print(json.dumps(rows[-1]), flush=True)
    write_results(options.output, {"timing": SHARED_CORES, "batch_size": BATCH, "rows": rows})


def _measure(mode: str, devices: int, steps: int) -> dict[str, Any]:
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    }
    flags = {
        "reproducible": mode,
        "batch_size": BATCH,
        "eval_batch_size": BATCH,
        "dataset.max_examples": BATCH * steps,
        "max_epochs": 1,
        "log_every_n_steps": 1,
        "logging.tensorboard": False,
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "main.py", "--config=configs/base.py", f"--workdir={folder}/run"]
        command += [f"--config.{name}={value}" for name, value in flags.items()]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rates = [
        row["examples_per_second"] for row in map(json.loads, lines) if row["split"] == "train"
    ]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "reproducible": mode,
        "devices": devices,
        "step_s": BATCH / max(rates[1:]),
        "cpu_s_of_the_run": used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime,
        "peak_memory_gib_so_far": used.ru_maxrss / 2**20,
    }


if __name__ == "__main__":
    main()
