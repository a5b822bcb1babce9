"""The functions that run in separate processes: one measurement each, on the first device.

Every function stores its result with `save`, row by row if it has rows, so that a time limit loses
only the remaining rows. JAX is imported inside, after the environment is prepared.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
Save = Callable[[Any], None]

# Precision -> (JAX matmul precision, dtype of the encoders, dtype of the fixture's arrays).
PRECISIONS = {
    "float32": ("highest", "float32", "float32"),
    "tf32": ("default", "float32", "float32"),
    "bfloat16": ("default", "bfloat16", "float32"),
    "float64": ("highest", "float32", "float64"),
}
# Enough for tests of this program on a CPU.
SMALL = {
    "graph_encoder.num_features": 16,
    "graph_encoder.num_interactions": 1,
    "graph_encoder.out_dim": 16,
    "text_encoder.config.hidden_size": 16,
    "text_encoder.config.num_hidden_layers": 1,
    "text_encoder.config.num_attention_heads": 2,
    "text_encoder.config.intermediate_size": 32,
    "text_encoder.config.vocab_size": 30522,
    "projection_dim": 16,
}


def _config(size: str) -> Any:
    from benchmarks.comparison import comparison_config

    config = comparison_config("minilm_random")
    if size == "small":
        with config.unlocked():
            config.update_from_flattened_dict(SMALL)
    return config


def machine(save: Save) -> None:
    """The machine, its device and the versions of the relevant packages."""
    import importlib.metadata

    import jax

    from benchmarks.common import machine_facts

    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorstore", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    memory = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    save(machine_facts() | {"versions": versions, "device_memory_bytes": memory})


def parity(
    save: Save, fixtures: Sequence[str] | None = None, precisions: Sequence[str] | None = None
) -> None:
    """Errors of outputs and gradients of every fixture, one precision after the other."""
    sys.path.insert(0, str(ROOT / "tests"))
    import dataclasses

    import jax
    import numpy as np
    from helpers import parity_cases

    rows: list[dict[str, Any]] = []
    for precision in precisions or PRECISIONS:
        products, towers, numbers = PRECISIONS[precision]
        for name in fixtures or parity_cases.CASES:
            if towers != "float32" and name not in parity_cases.TOWERS:
                continue
            start = time.perf_counter()
            dtype = getattr(np, numbers)
            with jax.default_matmul_precision(products), jax.enable_x64(numbers == "float64"):
                errors = parity_cases.errors_of(parity_cases.CASES[name](dtype, towers))
            seconds = time.perf_counter() - start
            row = {"fixture": name, "precision": precision, **dataclasses.asdict(errors)}
            rows.append(row | {"seconds": seconds})
            save(rows)


def step(save: Save, size: str, repeats: int) -> None:
    """`benchmarks/step.py`, with a random text encoder of MiniLM's size."""
    from benchmarks.step import measure

    floor = ("floor_gflop", "gflop_per_s_of_floor") if size == "small" else ()  # the full model's

    def without_floor(result: dict[str, Any]) -> None:
        save({name: value for name, value in result.items() if name not in floor})

    without_floor(measure(_config(size), repeats, without_floor))


def checkpoint(save: Save, size: str, saves: int, starts: int) -> None:
    """`benchmarks/checkpoint.py` with the same model."""
    from benchmarks.checkpoint import measure

    save(measure(_config(size), saves, steps_between=3, starts=starts))


def throughput(save: Save, size: str, precision: str, examples: int, repeats: int) -> None:
    """One case of `benchmarks/throughput.py`, with the fraction of the device's peak."""
    import jax

    from benchmarks.throughput import measure
    from tools.gpu.peaks import model_flops_utilization

    products, config = PRECISIONS[precision][0], _config(size)
    config.precision = PRECISIONS[precision][1]
    device = jax.devices()[0]
    with jax.default_matmul_precision(products):
        row = measure(config, examples, repeats)
    counted = row["xla_tflop"] or row["tflop"]  # XLA does not count for every GPU
    flops = None if counted is None else counted * 1e12
    used = model_flops_utilization(device.device_kind, precision, flops, row["min_s"])
    limit = (device.memory_stats() or {}).get("bytes_limit")
    save({"precision": precision, **row, "mfu": used, "device_memory_bytes": limit})


def train(save: Save, size: str, workdir: str, steps: int, save_every: int) -> None:
    """Trains or resumes in a workdir, and saves a digest of every array of the last state."""
    from benchmarks.comparison import NUM_EXAMPLES, load_examples, packed
    from benchmarks.stored_run import StoredRun
    from clac_jax.training.progress import RunProgress

    config = _config(size)
    config.deterministic = True
    config.checkpoint.save_top_k = 0
    batch, _ = packed(load_examples(), NUM_EXAMPLES, 1, config.text_encoder.max_length)
    run = StoredRun(config, batch)
    arrays, progress = run.resume(Path(workdir))
    first = progress.step
    state, compile_s = run.put(arrays), None
    del arrays
    checkpoints = run.checkpoints(Path(workdir))
    for number in range(first + 1, steps + 1):
        start = time.perf_counter()
        state = run.step(state)
        compile_s = compile_s or time.perf_counter() - start
        if number % save_every == 0:
            progress = RunProgress(step=number, examples_seen=number * NUM_EXAMPLES)
            checkpoints.save(run.arrays(state), progress, None)
        save({"first": first, "step": number, "first_step_s": compile_s})
    checkpoints.wait()
    checkpoints.close()
    digests = {
        path: hashlib.sha256(leaf.tobytes()).hexdigest()
        for path, leaf in run.host_arrays(state).items()
    }
    save({"first": first, "step": steps, "first_step_s": compile_s, "arrays": digests})


WORKERS: dict[str, Callable[..., None]] = {
    "machine": machine,
    "parity": parity,
    "step": step,
    "checkpoint": checkpoint,
    "throughput": throughput,
    "train": train,
}
