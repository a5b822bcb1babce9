"""The devices of this machine, shared out among the trials that run on it together."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from clac_jax.errors import UserError, counted

Environment = dict[str, str]

_DEV = Path("/dev")
# Chips of one process -> how they are arranged on the board.
_TPU_BOUNDS = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,4,1"}
# Variables by which the launcher of this program would make a trial one of several processes.
_SIZES = ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


class DevicesError(UserError):
    """The machine has too few devices for what was asked."""


def slots(devices_per_trial: int, trials_together: int) -> list[Environment]:
    """The environment of each trial that this program runs at the same time.

    Args:
        devices_per_trial: GPUs or TPU chips of each; 0: all that are visible, shared equally.
        trials_together: their number; 0: as many as there are devices for, or 1 on a CPU.

    Raises:
        DevicesError: there are not enough devices.
    """
    kind, devices = visible(os.environ)
    own = {name: "1" for name in _SIZES if os.environ.get(name, "1") != "1"}
    if not devices:
        return [dict(own) for _ in range(trials_together or 1)]
    each = devices_per_trial or max(1, len(devices) // (trials_together or 1))
    number = trials_together or max(1, len(devices) // each)
    if each * number > len(devices):
        raise DevicesError(
            f"{counted(number, 'trial')} with {counted(each, 'device')} each need "
            f"{each * number}, and this machine has {len(devices)}. Lower --devices-per-trial or "
            "--trials-at-once."
        )
    parts = [devices[k * each : (k + 1) * each] for k in range(number)]
    return [own | _pinned(kind, part) for part in parts]


def visible(environment: Mapping[str, str]) -> tuple[str, list[str]]:
    """(kind, names) of the accelerators that this program may use: "cuda", "tpu" or none.

    They are counted without opening them: a driver that holds a GPU would take memory from trials.
    """
    if environment.get("JAX_PLATFORMS", "").startswith("cpu"):
        return "", []
    for kind, variable, pattern in (
        ("cuda", "CUDA_VISIBLE_DEVICES", r"nvidia(\d+)"),
        ("tpu", "TPU_VISIBLE_CHIPS", r"accel(\d+)"),
    ):
        if variable in environment:
            if names := [name for name in environment[variable].split(",") if name.strip()]:
                return kind, names
            continue
        found = [re.fullmatch(pattern, path.name) for path in _DEV.glob("*")]
        if numbers := sorted(int(each[1]) for each in found if each):
            return kind, [str(number) for number in numbers]
    return "", []


def _pinned(kind: str, devices: list[str]) -> Environment:
    names = ",".join(devices)
    if kind == "cuda":
        return {"CUDA_VISIBLE_DEVICES": names}
    if len(devices) not in _TPU_BOUNDS:
        raise DevicesError(
            f"A process can have {', '.join(map(str, _TPU_BOUNDS))} TPU chips, not {len(devices)}. "
            "Set --devices-per-trial to one of these."
        )
    return {
        "TPU_VISIBLE_CHIPS": names,
        "TPU_CHIPS_PER_PROCESS_BOUNDS": _TPU_BOUNDS[len(devices)],
        "TPU_PROCESS_BOUNDS": "1,1,1",
    }
