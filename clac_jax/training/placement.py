"""The choice of how the steps of a run are placed on the devices."""

from __future__ import annotations

import os

import jax
import ml_collections

from clac_jax.errors import warn
from clac_jax.training.compilation_cache import cores
from clac_jax.training.fixed_order import FixedOrder
from clac_jax.training.parallel import Parallel, Pmap, ShardMap


def make_parallel(config: ml_collections.ConfigDict) -> Parallel:
    """The placement that a config selects, over the devices of all processes."""
    if config.reproducible == "layout":
        if problem := too_few_threads():
            warn(problem)
        return FixedOrder()
    if config.parallel == "shard_map":
        return ShardMap(config.sharding.what, config.sharding.min_elements)
    return Pmap()


def too_few_threads() -> str:
    """Why the bits of this run may depend on the number of its devices; "" if they do not.

    The devices that a CPU is divided into share as many threads as there are cores, or devices if
    these are more; and XLA divides a product of matrices by the number of threads.
    """
    given = os.environ.get("NPROC", "")  # XLA reads it
    devices, threads = jax.local_device_count(), int(given) if given.isdigit() else cores()
    if jax.default_backend() != "cpu" or devices <= threads:
        return ""
    return (
        f"The CPU is divided into {devices} devices and has {threads} threads for them. XLA adds a "
        "thread for each further device, and some sums then have other last bits than on fewer "
        f"devices. For the same bits, set the environment variable NPROC={devices} on each machine."
    )


def other_devices(parallel: Parallel) -> Parallel:
    """A placement with each part of a batch on a different device, if that is possible."""
    devices = jax.local_devices()
    if isinstance(parallel, Pmap) and jax.process_count() == 1 and len(devices) > 1:
        return type(parallel)([*devices[1:], *devices[:1]])
    return parallel
