"""The parts of the check: the processes that each starts, and its use of their results."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.gpu.children import Child, ChildError, call

FORWARD_BAR, GRADIENT_BAR = 2e-5, 2e-4
"""Largest relative errors that the parity tests allow in float32, on a CPU."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Sizes:
    """The amount of work of each part.

    Attributes:
        model: "full", as in `benchmarks/comparison.py`, or "small", which compiles in seconds.
        fixtures: fixtures of the parity part; None for all.
        parity_precisions: precisions of the parity part, in order; None for all.
        repeats: number of timed calls of a step.
        saves: number of checkpoints to write.
        starts: number of starts from a checkpoint.
        throughput_precisions: precisions of the throughput part, in order.
        examples: size of the first batch of each precision.
        largest: size of the largest batch to try.
        steps: length of the run that is killed and resumed.
    """

    model: str
    fixtures: tuple[str, ...] | None
    parity_precisions: tuple[str, ...] | None
    repeats: int
    saves: int
    starts: int
    throughput_precisions: tuple[str, ...]
    examples: int
    largest: int
    steps: int


SIZES = {
    "full": Sizes(
        "full", None, None, 20, 5, 2, ("bfloat16", "tf32", "float32"), 64, 4096, steps=40
    ),
    "small": Sizes(
        "small", ("projection",), ("float32", "float64"), 1, 1, 1, ("float32",), 16, 32, steps=8
    ),
}


class PartError(Exception):
    """A part did not finish.

    Attributes:
        partial: its measurements before it failed.
    """

    def __init__(self, message: str, partial: Any) -> None:
        super().__init__(message)
        self.partial = partial


def machine(sizes: Sizes, deadline: float) -> Any:
    """The machine, its device and the versions of the relevant packages."""
    del sizes
    return call("machine", {}, deadline)


def parity(sizes: Sizes, deadline: float) -> Rows:
    """Errors of every fixture in every precision, and whether they are within tolerance.

    The tolerances are those of the float32 tests. They apply to "float32", where matrix products
    round in float32; "float64" shows whether an error there is due to rounding at all.
    """
    arguments = {"fixtures": sizes.fixtures, "precisions": sizes.parity_precisions}
    try:
        return _judged(call("parity", arguments, deadline))
    except ChildError as error:
        raise PartError(str(error), _judged(error.partial or [])) from error


def _judged(rows: Rows) -> Rows:
    for row in rows:
        row["within_bars"] = row["forward"] < FORWARD_BAR and row["gradient"] < GRADIENT_BAR
    return rows


def step(sizes: Sizes, deadline: float) -> Any:
    """One training step, its parts and its compilation."""
    return call("step", {"size": sizes.model, "repeats": sizes.repeats}, deadline)


def checkpoint(sizes: Sizes, deadline: float) -> Any:
    """Time that a save blocks training (device to host), and time to start a run again."""
    arguments = {"size": sizes.model, "saves": sizes.saves, "starts": sizes.starts}
    return call("checkpoint", arguments, deadline)


def kill_and_resume(sizes: Sizes, deadline: float) -> dict[str, Any]:
    """Compares a killed and resumed run with an undisturbed one, with deterministic operations.

    The later runs find the program of the first in the compilation cache, and show the time that
    this saves.
    """
    save_every = max(2, sizes.steps // 8)
    with tempfile.TemporaryDirectory(prefix="gpu_check_runs_") as folder:
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true"
        environment = {"XLA_FLAGS": flags.strip()}

        def arguments(name: str) -> dict[str, Any]:
            workdir = f"{folder}/{name}"
            Path(workdir).mkdir(exist_ok=True)
            return {"size": sizes.model, "workdir": workdir, "steps": sizes.steps} | {
                "save_every": save_every
            }

        undisturbed = call("train", arguments("undisturbed"), deadline, environment)
        with Child("train", arguments("killed"), environment) as child:
            killed_at = _kill_after(child, sizes.steps // 2, deadline)
        resumed = call("train", arguments("killed"), deadline, environment)
    ours, expected = resumed["arrays"], undisturbed["arrays"]
    different = sorted(
        path for path in ours.keys() | expected.keys() if ours.get(path) != expected.get(path)
    )
    return {
        "steps": sizes.steps,
        "killed_after_step": killed_at,
        "resumed_from_step": resumed["first"],
        "arrays": len(expected),
        "equal_arrays": len(expected) - len(different),
        "different": different[:20],
        "first_step_cold_s": undisturbed["first_step_s"],
        "first_step_with_compilation_cache_s": resumed["first_step_s"],
    }


def _kill_after(child: Child, step: int, deadline: float) -> int:
    """Kills a run once it has reached `step`; returns the last step that it reported."""
    while time.monotonic() < deadline:
        done = child.partial() or {"step": 0}
        if done["step"] >= step:
            child.kill()
            return int((child.partial() or done)["step"])
        if child.process.poll() is not None:
            child.result(deadline)  # raises the error of the child
            raise ChildError("the run had finished before it was killed", done)
        time.sleep(0.005)
    raise child.out_of_time()


def throughput(sizes: Sizes, deadline: float) -> Rows:
    """Examples per second and fraction of the peak, for one batch and the largest that fits.

    All precisions come before the first large batch, which takes longer. The largest is estimated
    as a power of two from the memory of the first batch; while it does not fit, it is halved.
    """
    rows: Rows = []

    def case(precision: str, examples: int) -> dict[str, Any]:
        arguments = {"precision": precision, "examples": examples}
        arguments |= {"size": sizes.model, "repeats": sizes.repeats}
        # JAX takes three quarters of a GPU's memory by default; the largest batch needs more.
        environment = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"}
        try:
            return call("throughput", arguments, deadline, environment)
        except ChildError as error:
            if "RESOURCE_EXHAUSTED" in str(error) or "exit code -9" in str(error):
                return {"precision": precision, "examples": examples, "fits": False}
            raise PartError(f"{precision}, {examples} examples: {error}", rows) from error

    for precision in sizes.throughput_precisions:
        rows.append(case(precision, sizes.examples))
    for first in rows.copy():
        examples = _largest(first, sizes.largest)
        while examples > sizes.examples:
            rows.append(case(first["precision"], examples))
            if rows[-1].get("fits", True):
                break
            examples //= 2
    return rows


def _largest(row: dict[str, Any], at_most: int) -> int:
    """The largest power of two of examples that should fit, from the memory of a smaller batch."""
    limit = row.get("device_memory_bytes")
    if not row.get("fits", True):
        return 0
    examples = row["examples"]
    while 2 * examples <= at_most and (
        limit is None or 2 * examples / row["examples"] * row["memory_gib"] * 2**30 < 0.95 * limit
    ):
        examples *= 2
    return examples


# Name -> (function, weight). A part's time limit is its share, by weight, of the time that is left
# to it and the parts after it, so time that one does not need goes to the later ones. The most
# important parts come first.
PARTS: dict[str, tuple[Callable[[Sizes, float], Any], float]] = {
    "machine": (machine, 30),
    "parity": (parity, 120),
    "step": (step, 150),
    "kill_and_resume": (kill_and_resume, 210),
    "checkpoint": (checkpoint, 90),
    "throughput": (throughput, 300),
}
