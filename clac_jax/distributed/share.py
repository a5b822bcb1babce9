"""The share of each batch that this process handles, by JAX's processes and devices."""

from __future__ import annotations

import jax

from clac_jax.distributed import processes
from clac_jax.input_pipeline.share import Share


def share_of_process() -> Share:
    """This process's share; initializes the devices, so call it once they are connected."""
    return Share(
        process_index=jax.process_index(),
        num_processes=jax.process_count(),
        num_local_devices=jax.local_device_count(),
        num_devices=jax.device_count(),
        maximum=processes.maximum,
        first_goes_first=processes.first_goes_first,
    )
