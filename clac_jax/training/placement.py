"""The choice of how the steps of a run are placed on the devices."""

from __future__ import annotations

import jax
import ml_collections

from clac_jax.training.fixed_order import FixedOrder
from clac_jax.training.parallel import Parallel, Pmap, ShardMap


def make_parallel(config: ml_collections.ConfigDict) -> Parallel:
    """The placement that a config selects, over the devices of all processes."""
    if config.reproducible == "layout":
        return FixedOrder()
    if config.parallel == "shard_map":
        return ShardMap(config.sharding.what, config.sharding.min_elements)
    return Pmap()


def other_devices(parallel: Parallel) -> Parallel:
    """A placement with each part of a batch on a different device, if that is possible."""
    devices = jax.local_devices()
    if isinstance(parallel, Pmap) and jax.process_count() == 1 and len(devices) > 1:
        return type(parallel)([*devices[1:], *devices[:1]])
    return parallel
