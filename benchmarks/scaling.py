"""One training run on 1 to 8 devices of a process and in two processes, by pmap and shard_map.

    python -m benchmarks.scaling ["4 devices" ...] [--steps=8] [--output=...]

Runs all layouts by default; the first always runs, for comparison. Starts `main.py` on each with
the same batches and reads its metrics. Devices that share the cores of one machine cannot be faster
than one; they show what a layout costs, and that the losses agree. The last layout takes about 40 s
per step on a CPU, nearly all of it waiting for Gloo.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, ROOT, write_results

BATCH = 64
SPREAD = ("--config.parallel=shard_map", "--config.sharding.what=everything")
LAYOUTS: dict[str, tuple[int, int, tuple[str, ...]]] = {  # processes, devices per process, flags
    "1 device": (1, 1, ()),
    "2 devices": (1, 2, ()),
    "4 devices": (1, 4, ()),
    "8 devices": (1, 8, ()),
    "4 devices, shard_map": (1, 4, ("--config.parallel=shard_map",)),
    "4 devices, shard_map, all spread": (1, 4, SPREAD),
    "2 processes x 1 device": (2, 1, ()),
    "2 processes x 2 devices": (2, 2, ()),
    "2 processes x 2 devices, all spread": (2, 2, SPREAD),
}


def train(processes: int, devices: int, flags: tuple[str, ...], steps: int) -> list[dict[str, Any]]:
    """Runs a layout and returns its train rows."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as workdir:
        command = [
            sys.executable,
            "main.py",
            "--config=configs/base.py",
            f"--workdir={workdir}",
            "--config.max_epochs=1",
            f"--config.batch_size={BATCH}",
            f"--config.dataset.max_examples={BATCH * steps}",
            "--config.log_every_n_steps=1",
            "--config.checkpoint.save_top_k=0",
            *flags,
        ]
        xla = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        environment = os.environ | {"XLA_FLAGS": xla.strip(), "JAX_PLATFORMS": "cpu"}
        running = []
        for index in range(processes):
            where = [
                f"--config.distributed.coordinator_address=127.0.0.1:{port}",
                f"--config.distributed.num_processes={processes}",
                f"--config.distributed.process_id={index}",
            ]
            arguments = command + (where if processes > 1 else [])
            running.append(
                subprocess.Popen(arguments, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)
            )
        if codes := [code for code in [process.wait() for process in running] if code]:
            sys.exit(f"A process of this layout ended with {codes[0]}: {' '.join(command)}")
        rows = [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").open()]
    return [row for row in rows if row["split"] == "train"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="LAYOUT", help="; ".join(LAYOUTS))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--output", type=Path, default=RESULTS / "scaling.json")
    options = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    first: list[float] = []
    unknown = [name for name in options.names if name not in LAYOUTS]
    if unknown:
        parser.error(f"{unknown[0]!r} is not a layout. Use one of: {'; '.join(LAYOUTS)}")
    for name, (processes, devices, flags) in LAYOUTS.items():
        if options.names and name not in options.names and name != next(iter(LAYOUTS)):
            continue
        rows = train(processes, devices, flags, options.steps)
        losses = [row["loss"] for row in rows]
        first = first or losses
        later = rows[3:]  # after both shapes have been compiled
        results[name] = {
            "seconds_per_step": BATCH
            / statistics.median(row["examples_per_second"] for row in later),
            "data_wait_fraction": statistics.mean(row["data_wait_fraction"] for row in later),
            "largest_difference_of_loss": max(
                abs(a - b) / b for a, b in zip(losses, first, strict=True)
            ),
        }
        print(name, results[name], flush=True)
        write_results(options.output, {"batch_size": BATCH, "layouts": results})
    print(table(results))


def table(results: dict[str, dict[str, float]]) -> str:
    """One layout per row."""
    lines = [
        "| layout | s per step | waits for data | loss differs by |",
        "| --- | --- | --- | --- |",
    ]
    for name, row in results.items():
        lines.append(
            f"| {name} | {row['seconds_per_step']:.2f} | {row['data_wait_fraction']:.1%} "
            f"| {row['largest_difference_of_loss']:.0e} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
