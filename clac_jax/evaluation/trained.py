"""What a model's checkpoint says about its run: the data of its training, the place for results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from clac_jax.checkpoint.layout import CHECKPOINTS, CheckpointInfo
from clac_jax.checkpoint.locate import CheckpointNotFoundError, locate
from clac_jax.evaluation.pool import EvaluationError
from clac_jax.files.paths import local_path

EVAL = "eval"


def training_data(name: str) -> Mapping[str, str]:
    """Split -> fingerprint of the data of the training; {} if the model is not in a run.

    Args:
        name: the model, as for `clac_jax.load`.
    """
    info = _checkpoint(name)
    return {} if info is None else info.data


def eval_folder(name: str, split: str, out: str | None) -> Path:
    """The folder for the results of a model.

    Args:
        name: the model, as for `clac_jax.load`.
        split: the evaluated split.
        out: folder requested by the user, if any.

    Returns:
        By default `RUN/eval/STEP`, or `RUN/eval/STEP-SPLIT` for another split than the test split.

    Raises:
        EvaluationError: the model is not in a run, and no folder was requested.
    """
    if out is not None:
        return local_path(out, "--out")
    info = _checkpoint(name)
    if info is None or info.folder.parent.name != CHECKPOINTS:
        raise EvaluationError(
            f"{name} is not a checkpoint of a run, so there is no folder for the results. Name one "
            "with --out."
        )
    return Path(info.folder.parent.parent) / EVAL / step_folder_name(info.step, split)


def step_folder_name(step: int, split: str) -> str:
    """Name of the folder for a step and a split: "1404", or "1404-validation"."""
    return str(step) if split == "test" else f"{step}-{split}"


def _checkpoint(name: str) -> CheckpointInfo | None:
    try:
        return locate(name)
    except CheckpointNotFoundError:  # a published folder, or a model that the package includes
        return None
