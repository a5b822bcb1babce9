"""A model's checkpoint in its run: the data of the training, and the folder for results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from clac_jax.checkpoint.export import MODEL_FILE
from clac_jax.checkpoint.layout import CHECKPOINTS, CheckpointInfo
from clac_jax.checkpoint.locate import CheckpointNotFoundError, locate
from clac_jax.errors import shown
from clac_jax.evaluation.pool import EvaluationError
from clac_jax.evaluation.report import EVAL_FILE
from clac_jax.files.json import read_json_object
from clac_jax.files.paths import check_place, local_path
from clac_jax.inference import mini
from clac_jax.inference.hub import PREFIX, hub_folder
from clac_jax.inference.named import published_copy
from clac_jax.stores.url import is_url

EVAL = "eval"


def training_data(name: str) -> Mapping[str, str]:
    """Split -> fingerprint of the data of the training; {} if that is unknown.

    A published folder holds those of the split that its eval.json is about.

    Args:
        name: the model, as for `clac_jax.load`.
    """
    if folder := _published(name):
        try:
            data = read_json_object(folder / EVAL_FILE)["data"]
            known = {str(data["split"]): str(data["fingerprint"])}
            return known if data["is_that_of_the_training"] is True else {}
        except (OSError, ValueError, KeyError, TypeError):  # published without an evaluation
            return {}
    info = _checkpoint(name)
    return {} if info is None else info.data


def eval_folder(name: str, split: str, out: str | None) -> str:
    """The folder for the results of a model: a path, or a URL in an object store.

    Args:
        name: the model, as for `clac_jax.load`.
        split: the evaluated split.
        out: folder requested by the user, if any.

    Returns:
        By default `RUN/eval/STEP`, or `RUN/eval/STEP-SPLIT` for a split other than the test split.

    Raises:
        EvaluationError: the model is not in a run, and no folder was requested.
    """
    if out is not None:
        return check_place(out, "--out")
    info = _checkpoint(name)
    if info is None or info.folder.parent.name != CHECKPOINTS:
        raise EvaluationError(
            f"{name} is not a checkpoint of a run, so there is no folder for the results. Name one "
            "with --out."
        )
    return shown(info.folder.parent.parent / EVAL / step_folder_name(info.step, split))


def step_folder_name(step: int, split: str) -> str:
    """Name of the folder for a step and a split: "1404", or "1404-validation"."""
    return str(step) if split == "test" else f"{step}-{split}"


def _published(name: str) -> Path | None:
    """The folder of a published model; None for a model in a run."""
    if name == mini.NAME:
        return mini.folder()
    if name.startswith(PREFIX):
        return hub_folder(name)
    if is_url(name):
        return published_copy(name)
    path = local_path(name, "The name of a model")
    folder = path.parent if path.name == MODEL_FILE else path
    is_published = (folder / MODEL_FILE).is_file() and not (folder / CHECKPOINTS).exists()
    return folder if is_published else None


def _checkpoint(name: str) -> CheckpointInfo | None:
    if _published(name):
        return None
    try:
        return locate(name)
    except CheckpointNotFoundError:
        return None
