"""Helpers of all benchmarks: facts about the machine, timing, and the JSON of the results."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"

SHARED_CORES = "minimum and median over repeats; other work may have shared the machine's cores"

# Flags of /proc/cpuinfo, widest first; a CPU also reports the narrower ones.
_VECTOR_BITS = {"avx512f": 512, "avx2": 256, "avx": 256, "sse2": 128, "asimd": 128}
_LARGE_PRODUCT_ROWS = {"cpu": 2048}  # rows of the square matrices; 8192 on an accelerator


def machine_facts() -> dict[str, Any]:
    """Facts about the machine that timings depend on; the host name is left out."""
    return {
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "vector_bits": vector_bits(),
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        # Above the number of cores, other work slowed this down; then trust the CPU seconds only.
        "load_average_1_min": os.getloadavg()[0],
    }


def vector_bits() -> int | None:
    """Width of this CPU's widest floating-point registers in bits, or None if unknown."""
    flags = set((_cpuinfo("flags") or _cpuinfo("Features")).split())
    return next((bits for flag, bits in _VECTOR_BITS.items() if flag in flags), None)


def _cpuinfo(name: str) -> str:
    """The first value with that name in /proc/cpuinfo, or "" if there is none."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    values = (line.partition(":")[2].strip() for line in lines if line.startswith(name))
    return next(values, "")


def timed(function: Callable[..., Any], *args: Any, repeats: int) -> dict[str, float]:
    """Wall and CPU seconds of a call; the first, which may compile, is not counted."""
    jax.block_until_ready(function(*args))
    wall, cpu = [], []
    for _ in range(repeats):
        start, cpu_start = time.perf_counter(), time.process_time()
        jax.block_until_ready(function(*args))
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - cpu_start)
    return {"min_s": min(wall), "median_s": float(np.median(wall)), "cpu_s": min(cpu)}


def large_product_rate(dtype: str = "float32", rows: int | None = None) -> float:
    """Floating-point operations per second in one large matrix product on the first device.

    The practical limit of XLA, with which the rates of a training step are compared. float32 is
    multiplied in the precision of `jax_default_matmul_precision` (TF32 on recent GPUs).

    Args:
        dtype: dtype of both matrices.
        rows: size of the square matrices; by default 2048 on a CPU and 8192 elsewhere.
    """
    rows = rows or _LARGE_PRODUCT_ROWS.get(jax.default_backend(), 8192)
    matrix = jnp.ones((rows, rows), dtype)
    return 2 * rows**3 / timed(jax.jit(jnp.matmul), matrix, matrix, repeats=5)["min_s"]


def train_if_unfinished(flags: list[str], workdir: Path) -> None:
    """Runs `main.py` with these flags, unless the run in that workdir has its test row."""
    metrics = workdir / "metrics.jsonl"
    if metrics.exists() and '"split": "test"' in metrics.read_text(encoding="utf-8"):
        return
    command = [sys.executable, "main.py", *flags, f"--workdir={workdir}"]
    subprocess.run(command, check=True, cwd=ROOT)


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Writes the facts about the machine and the results to a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine_facts(), **results}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
