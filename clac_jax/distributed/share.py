"""The share that this process takes of each batch, by JAX's processes and devices."""

from __future__ import annotations

import jax

from clac_jax.distributed import processes
from clac_jax.input_pipeline.share import Share


def share_of_process() -> Share:
    """This process's share; to be called when the processes are connected: asks for the devices."""
    return Share(
        process_index=jax.process_index(),
        num_processes=jax.process_count(),
        num_local_devices=jax.local_device_count(),
        num_devices=jax.device_count(),
        maximum=processes.maximum,
        first_goes_first=processes.first_goes_first,
    )
