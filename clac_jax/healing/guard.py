"""A training step that is watched: copies of the state, spot checks and changes of the rate."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clac_jax.checkpoint.tree import to_arrays
from clac_jax.errors import warn
from clac_jax.healing.errors import FaultyMachineError
from clac_jax.input_pipeline.batch import Batch
from clac_jax.training.parallel import Parallel
from clac_jax.training.state import TrainState
from clac_jax.training.step import TrainStep

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Way:
    """A way to compute a step, with the same result as any other.

    Attributes:
        parallel: placement on the devices.
        step: the step on these devices; it consumes the state.
        where: the devices, in words.
    """

    parallel: Parallel
    step: TrainStep
    where: str

    def compute(self, arrays: TrainState, batch: Batch) -> Arrays:
        """The state after a step, by slash path; `arrays` is the one before it, on the host."""
        after, _ = self.step(self.parallel.put(arrays), batch)
        return on_host(self.parallel, after)


class SpotCheck:
    """Computes a step twice and compares the results, bit by bit."""

    def __init__(self, usual: Way, other: Way):
        """Chooses the ways to compute a step.

        Args:
            usual: how the run computes it.
            other: the second way, on other devices if there are several.
        """
        self._usual, self._other = usual, other

    def __call__(
        self, state: TrainState, batch: Batch, number: int
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """The step, after it has been checked; in all processes at the same step.

        Args:
            state: the state before the step; consumed.
            batch: its batch.
            number: its number.

        Raises:
            FaultyMachineError: two results on the same devices differ.
        """
        before = self._usual.parallel.to_host(state)
        result = self._usual.step(state, batch)
        first = on_host(self._usual.parallel, result[0])
        second = self._other.compute(before, batch)
        if unlike := unequal(first, second):
            # Which of them is wrong? Whatever repeats itself is right.
            if unequal(first, self._usual.compute(before, batch)):
                raise FaultyMachineError(describe_fault(number, unlike, self._usual.where))
            if unequal(second, self._other.compute(before, batch)):
                raise FaultyMachineError(describe_fault(number, unlike, self._other.where))
            warn(
                f"Step {number:,} has other bits on {self._other.where} than on "
                f"{self._usual.where}, every time: a different order of a sum, or a broken device. "
                "Spot checks use the same devices twice from now on."
            )
            self._other = self._usual
        return result


class Guard:
    """The training step of a run, with what healing needs around it.

    Attributes:
        spot_check: computes a step twice; None for no such checks.
        check_every: steps between them.
        keep_before: number of the step before which the state is copied; 0: none.
        kept: that copy.
        rates: number of steps done -> factors on the learning rate from then on, in their order.
    """

    def __init__(self, step: TrainStep, parallel: Parallel, done: int):
        """Watches nothing yet.

        Args:
            step: the step; it consumes the state.
            parallel: placement of the state on the devices.
            done: number of steps that the run has done.
        """
        self._step, self._parallel, self._done = step, parallel, done
        self.spot_check: SpotCheck | None = None
        self.check_every = 0
        self.keep_before = 0
        self.kept: TrainState | None = None
        self.rates: dict[int, list[float]] = {}

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        """See `TrainStep`."""
        if factors := self.rates.get(self._done):
            scale = self._parallel.to_host(state.learning_rate_scale)
            for each in factors:  # rounded as by `actions.scaled`
                scale = np.float32(scale * np.float32(each))
            state = state.replace(learning_rate_scale=self._parallel.put(scale))
        self._done += 1
        if self._done == self.keep_before:
            self.kept = jax.tree.map(jnp.copy, state)
        if self.spot_check and self._done % self.check_every == 0:
            return self.spot_check(state, batch, self._done)
        return self._step(state, batch)


def on_host(parallel: Parallel, state: TrainState) -> Arrays:
    """The arrays of a state by slash path; a collective if they are sharded."""
    return to_arrays(parallel.to_host(state))


def unequal(a: Arrays, b: Arrays) -> dict[str, int]:
    """Slash path -> number of elements whose bits differ, of the arrays with any."""
    counts = {path: _count(np.asarray(array), np.asarray(b[path])) for path, array in a.items()}
    return {path: count for path, count in counts.items() if count}


def describe_fault(number: int, unlike: Mapping[str, int], where: str) -> str:
    """The difference between two computations of a step, and what to do about it.

    Args:
        number: number of the step.
        unlike: see `unequal`.
        where: the devices on which the same computation had two results.
    """
    path = max(unlike, key=lambda each: unlike[each])
    others = f" and in {len(unlike) - 1} more arrays" if len(unlike) > 1 else ""
    return (
        f"Step {number:,} was computed twice on {where}, with different results: "
        f"{unlike[path]:,} numbers in {path}{others} differ. {advice()}"
    )


def advice() -> str:
    """Advice on a machine that does not repeat its results."""
    if jax.default_backend() == "gpu":
        return (
            "Set config.deterministic=True if it is False, since some operations on a GPU are "
            "otherwise not repeatable; if it is True, run on another device, and have this one "
            "tested."
        )
    return "Run the same command on another machine, and have the memory of this one tested."


def local_devices(devices: Sequence[Any] | None = None) -> str:
    """The devices of this process and its host, in words."""
    names = ", ".join(str(device) for device in devices or jax.local_devices())
    return f"{names} of host {socket.gethostname()}"


def _count(a: np.ndarray, b: np.ndarray) -> int:
    if a.dtype != b.dtype or a.shape != b.shape:
        return max(a.size, 1)
    kind = f"u{a.dtype.itemsize}"
    return int(
        np.count_nonzero(np.ascontiguousarray(a).view(kind) != np.ascontiguousarray(b).view(kind))
    )
