"""The average of the parameters in a checkpoint: when it is the model, and what it starts from."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from clac_jax.checkpoint.arrays import Arrays, read_arrays
from clac_jax.checkpoint.layout import CheckpointInfo
from clac_jax.checkpoint.renaming import AVERAGE


def evaluated_path(info: CheckpointInfo, path: str) -> str:
    """The array of a checkpoint that its run evaluated as the model's array `path`.

    It is the average of a parameter, if the run evaluated its average (`config.ema`), and the array
    of that name otherwise.
    """
    average = f"{AVERAGE}/{path.removeprefix('params/')}"
    is_averaged = path.startswith("params/") and average in info.leaves
    return average if is_averaged and _evaluates_average(info) else path


def read_evaluated(info: CheckpointInfo, paths: Collection[str]) -> Arrays:
    """The arrays of the model that the run of a checkpoint evaluated, by their names in the model.

    Raises the errors of `read_arrays`.
    """
    sources = {path: evaluated_path(info, path) for path in paths}
    arrays: Mapping[str, np.ndarray] = read_arrays(info, set(sources.values()))
    return {path: arrays[source] for path, source in sources.items()}


def describe_weights(info: CheckpointInfo) -> str:
    """Which weights of a checkpoint are its model's, in a few words."""
    if any(evaluated_path(info, path) != path for path in info.leaves):
        decay = info.config["ema"]["decay"]
        return f"exponential moving average of the parameters (decay {decay:g})"
    return f"parameters of step {info.step:,}"


def _evaluates_average(info: CheckpointInfo) -> bool:
    options = info.config.get("ema")
    return isinstance(options, dict) and bool(options.get("evaluate"))
