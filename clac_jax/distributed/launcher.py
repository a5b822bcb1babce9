"""Where the processes of a run are: set in the config, or reported by what has started them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_collections
from jax._src.clusters import ClusterEnv  # no public function returns only the address

from clac_jax.distributed import slurm
from clac_jax.distributed.connection import ProcessError
from clac_jax.errors import one_line, warn

_SETTINGS = (
    "Set config.distributed.coordinator_address (HOST:PORT of the first process), num_processes "
    "and process_id: docs/clusters.md."
)


def place(
    options: ml_collections.ConfigDict,
) -> tuple[str, int, int, Sequence[int] | None] | None:
    """Address of the first process, number of processes, number of this one, and its local devices.

    Args:
        options: the group `config.distributed`.

    Returns:
        None if there is only one process. The devices are None for all that JAX detects.

    Raises:
        ProcessError: settings are missing or wrong.
    """
    devices = list(options.local_devices) or None
    given = _given(options)
    try:
        if slurm.is_step(os.environ) and (given or _in_cluster(os.environ)):
            return *(given or slurm.place(os.environ)), devices or slurm.gpus(os.environ)
        if given:
            rank = os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK")
            return *given, devices or (None if rank is None else [int(rank)])
        if not _in_cluster(os.environ):
            if (nodes := slurm.nodes_without_step(os.environ)) > 1:
                warn(f"This job has {nodes} nodes, and only this one trains. Start it with srun.")
            return None
        address, count, index, detected = ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, devices, None, options.connect_seconds
        )
    except Exception as error:  # also those of the client of Kubernetes
        raise ProcessError(
            f"The launcher does not say where the processes are: {one_line(error, 500)} {_SETTINGS}"
        ) from error
    if address is None or count is None or index is None:
        raise ProcessError(f"The launcher does not say where the processes are. {_SETTINGS}")
    return address, count, index, detected


def _given(options: ml_collections.ConfigDict) -> tuple[str, int, int] | None:
    """The process settings of the config; None if they are left to the launcher.

    Raises:
        ProcessError: only some of them are set, or a number is too large.
    """
    address, count, index = (
        options.coordinator_address,
        options.num_processes,
        options.process_id,
    )
    if not address and count is None and index is None:
        return None
    if not address or count is None or index is None:
        raise ProcessError(
            "config.distributed needs coordinator_address, num_processes and process_id together; "
            f"they are {address!r}, {count} and {index}. Set all three, or none in a cluster that "
            "tells them."
        )
    if not 0 <= index < count:
        raise ProcessError(
            f"config.distributed.process_id is {index}, and num_processes is {count}. Number the "
            "processes from 0, and set num_processes to their number."
        )
    return address, count, index


def _in_cluster(environment: Mapping[str, str]) -> bool:
    """Whether a launcher that JAX supports has started this process together with others."""
    for size in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
        if environment.get(size, "1") != "1":
            return True
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        return True
    has_tpu = Path("/dev/accel0").exists() or Path("/dev/vfio/0").exists()
    return has_tpu and importlib.util.find_spec("libtpu") is not None
