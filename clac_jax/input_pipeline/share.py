"""This process's share of every batch, and how it agrees with the others: handed in by the caller.

The input pipeline asks no devices and no network. `clac_jax.distributed.share` fills this in for a
run; the defaults are one process with one device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from clac_jax.errors import ConfigError

Answer = Callable[[], np.ndarray]
"""Waits for what the processes have agreed on."""


def _own(values: Sequence[int]) -> Answer:
    row = np.asarray(values, np.int32)
    return lambda: row


def _without_order(name: str) -> AbstractContextManager[None]:
    del name
    return contextlib.nullcontext()


@dataclass(frozen=True)
class Share:
    """Which part of a batch this process packs, for how many devices.

    Attributes:
        process_index: this process takes the slice of each batch with this number.
        num_processes: equal slices of a batch.
        num_local_devices: parts that this process packs.
        num_devices: parts of a batch, over all processes.
        maximum: (n,) integers of this process -> a function that waits for their (n,) int32
            elementwise maximum over all processes, which call it at the same point of the run.
        first_goes_first: a context that the first process enters and leaves before the others; its
            argument names the place in the run.
    """

    process_index: int = 0
    num_processes: int = 1
    num_local_devices: int = 1
    num_devices: int = 1
    maximum: Callable[[Sequence[int]], Answer] = _own
    first_goes_first: Callable[[str], AbstractContextManager[None]] = _without_order

    def per_device(self, batch_size: int) -> int:
        """The examples that each device gets of a global batch.

        Raises:
            ConfigError: the batch cannot be split evenly over the devices of all processes.
        """
        if batch_size % self.num_devices:
            lower = batch_size - batch_size % self.num_devices
            raise ConfigError(
                f"A batch of {batch_size} cannot be split evenly over {self.num_devices} devices. "
                f"Use {lower + self.num_devices}" + (f" or {lower}." if lower else ".")
            )
        return batch_size // self.num_devices


ONE_PROCESS = Share()
"""The share of the only process of a run, with one device."""
