"""This process's share of every batch, and how processes agree on shapes.

The input pipeline never queries devices or the network; the caller passes this object in.
`clac_jax.distributed.share` fills it in for a run; the defaults mean one process with one device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from clac_jax.errors import ConfigError

Answer = Callable[[], np.ndarray]
"""Waits for the value that the processes have agreed on, and returns it."""


def _own(values: Sequence[int]) -> Answer:
    row = np.asarray(values, np.int32)
    return lambda: row


def _without_order(name: str) -> AbstractContextManager[None]:
    del name
    return contextlib.nullcontext()


@dataclass(frozen=True)
class Share:
    """Which part of a batch this process packs, and for how many devices.

    Attributes:
        process_index: number of the slice of each batch that this process takes.
        num_processes: number of equal slices per batch.
        num_local_devices: number of parts that this process packs.
        num_devices: number of parts of a batch, over all processes.
        maximum: (n,) integers of this process -> a function that waits for their (n,) int32
            elementwise maximum over all processes. All processes call it at the same point of the
            run.
        first_goes_first: a context that the first process enters and leaves before the others; its
            argument names the point in the run.
    """

    process_index: int = 0
    num_processes: int = 1
    num_local_devices: int = 1
    num_devices: int = 1
    maximum: Callable[[Sequence[int]], Answer] = _own
    first_goes_first: Callable[[str], AbstractContextManager[None]] = _without_order

    def per_device(self, batch_size: int) -> int:
        """The number of examples of a global batch per device.

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
"""The share of a run's only process, with one device."""
