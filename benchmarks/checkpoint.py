"""Time that a save costs the training step, and time to the first step of a resumed run.

The model and batch of `benchmarks/comparison.py`: 42.1 million parameters with AdamW, about half a
gigabyte of state. Saves in the middle of training, then starts again: once from random parameters
and once from the checkpoint, both with the step already compiled.

    python -m benchmarks.checkpoint [--saves=5] [--output=benchmarks/results/checkpoint.json]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from benchmarks.common import RESULTS, write_results
from benchmarks.comparison import (
    NUM_EXAMPLES,
    TEXTS,
    comparison_config,
    load_examples,
    packed,
)
from benchmarks.stored_run import StoredRun
from clac_jax.training.progress import RunProgress


def seconds_of(call: Callable[..., Any], *args: Any) -> tuple[float, Any]:
    """Wall seconds of one call, and what it returned."""
    start = time.perf_counter()
    result = call(*args)
    return time.perf_counter() - start, result


def measure(
    config: ml_collections.ConfigDict, saves: int, steps_between: int, starts: int = 5
) -> dict[str, Any]:
    """Times saves and starts on this process's devices.

    Args:
        config: config of the run, which trains on the stored batch.
        saves: number of checkpoints to write.
        steps_between: number of steps without a save before each of them.
        starts: number of restarts of each kind, fresh and resumed.
    """
    config.checkpoint.save_top_k = 0
    batch, _ = packed(load_examples(), NUM_EXAMPLES, 1, config.text_encoder.max_length)
    run = StoredRun(config, batch)
    first_s, state = seconds_of(run.step, run.put(run.initialize()))  # compiles
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder)
        steps, after, blocked, committed = [], [], [], []
        checkpoints = run.checkpoints(workdir)
        for number in range(saves):
            for _ in range(steps_between):
                seconds, state = seconds_of(run.step, state)
                steps.append(seconds)
            arrays = run.arrays(state)
            started = time.perf_counter()
            checkpoints.save(arrays, RunProgress(step=number + 1), None)
            blocked.append(time.perf_counter() - started)
            del arrays
            seconds, state = seconds_of(run.step, state)
            after.append(seconds)
            checkpoints.wait()
            committed.append(time.perf_counter() - started)
        checkpoints.close()
        to_host = [seconds_of(run.host_arrays, run.step(run.put(run.initialize())))[0]]
        to_host += [seconds_of(run.host_arrays, state)[0]]
        del state

        fresh, restored, resumed = [], [], []
        for _ in range(starts):
            fresh.append(seconds_of(lambda: run.step(run.put(run.initialize())))[0])
            started = time.perf_counter()
            state = run.put(run.resume(workdir)[0])
            restored.append(time.perf_counter() - started)
            run.step(state)
            resumed.append(time.perf_counter() - started)
            del state
        num_bytes = sum(f.stat().st_size for f in workdir.rglob("*") if f.is_file())

    sizes = {path: int(np.prod(a.shape)) for path, a in run.shapes.items()}
    state_bytes = sum(size * run.shapes[path].dtype.itemsize for path, size in sizes.items())
    return {
        "parameters": sum(size for path, size in sizes.items() if path.startswith("params/")),
        "state_bytes": state_bytes,
        "checkpoint_bytes": num_bytes,
        "first_step_s": first_s,
        "step_s": {"min": min(steps), "median": float(np.median(steps))},
        "blocked_by_save_s": {"min": min(blocked), "median": float(np.median(blocked))},
        "step_while_saving_s": {"min": min(after), "median": float(np.median(after))},
        "save_until_committed_s": float(np.median(committed)),
        "device_to_host_gb_per_s": state_bytes / min(to_host) / 1e9,
        "start_to_first_step_fresh_s": min(fresh),
        "restored_on_the_device_s": {"min": min(restored), "median": float(np.median(restored))},
        "start_to_first_step_resumed_s": min(resumed),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--steps_between", type=int, default=3)
    parser.add_argument("--text", choices=TEXTS, default="minilm", help="sizes of the text encoder")
    parser.add_argument("--output", type=Path, default=RESULTS / "checkpoint.json")
    options = parser.parse_args()
    result = measure(comparison_config(options.text), options.saves, options.steps_between)
    for name, value in result.items():
        print(f"{name:32}{value}")
    write_results(options.output, result)


if __name__ == "__main__":
    main()
