"""A checkpoint's model as one safetensors file with its config, and back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from etils import epath
from safetensors.numpy import save_file

from clac_jax.checkpoint.arrays import read_arrays
from clac_jax.checkpoint.layout import CHECKPOINTS, CheckpointInfo, read_all
from clac_jax.checkpoint.manager import Checkpoints
from clac_jax.config import with_defaults
from clac_jax.errors import UserError, one_line
from clac_jax.json_files import parse_object, read_json_object
from clac_jax.progress import RunProgress
from clac_jax.safetensors_files import read_safetensors

MODEL_FILE, CONFIG_FILE = "model.safetensors", "config.json"
PARTS = ("params/", "batch_stats/")


class ExportError(UserError):
    """An exported model cannot be written or read."""


def export(info: CheckpointInfo, folder: Path) -> Path:
    """Writes parameters and batch statistics by their slash paths, and the run's config.

    Args:
        info: of the checkpoint.
        folder: gets `model.safetensors`, with step, metrics and versions as JSON in its header, and
            `config.json`.

    Returns:
        The safetensors file.

    Raises:
        ExportError: the folder holds another file already, or cannot be written.
        DamagedCheckpointError: naming a file that is not what was written.
    """
    arrays = read_arrays(info, [path for path in info.leaves if path.startswith(PARTS)])
    about = {
        "progress": info.progress.to_json(),
        "metrics": info.metrics,
        "versions": info.versions,
        "num_train_examples": info.num_train_examples,
    }
    target = folder / MODEL_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if target.exists():
            raise ExportError(f"{target} exists. Remove it, or name another folder.")
        temporary = target.with_suffix(".tmp")
        save_file(arrays, temporary, metadata={"clac_jax": json.dumps(about)})
        config = json.dumps(info.config, indent=2, sort_keys=True)
        (folder / CONFIG_FILE).write_text(config + "\n", encoding="utf-8")
        temporary.rename(target)
    except OSError as error:
        raise ExportError(
            f"Cannot write {folder}: {error.strerror}. Choose another folder, or make room there."
        ) from error
    return target


def import_model(folder: Path, workdir: Path) -> str:
    """Makes a checkpoint of an exported model, which `config.resume_from` can name.

    It has no optimizer state: a run that starts from it begins with fresh moments.

    Args:
        folder: from `export`.
        workdir: gets `checkpoints/<step>`.

    Returns:
        The checkpoint's folder.

    Raises:
        ExportError: a file is missing or was not written by `export`.
    """
    model = read_exported(folder)
    arrays: dict[str, Any] = dict(model.arrays)
    if read_all(epath.Path(workdir) / CHECKPOINTS)[0]:
        raise ExportError(f"{workdir} holds checkpoints already. Name another folder.")
    progress = model.progress
    arrays["step"] = np.asarray(progress.step, np.int32)
    checkpoints = Checkpoints(
        workdir,
        ml_collections.ConfigDict(model.config),
        {path: jax.ShapeDtypeStruct(a.shape, a.dtype) for path, a in arrays.items()},
        model.num_train_examples,
    )
    checkpoints.save(arrays, progress, model.metrics)
    checkpoints.close()
    return str(checkpoints.directory / str(progress.step))


@dataclass(frozen=True)
class ExportedModel:
    """What `export` has written.

    Attributes:
        config: of the run.
        progress: of the checkpoint.
        metrics: of its validation, if there was one.
        num_train_examples: of the run's training split.
        arrays: slash path -> parameter or running average.
    """

    config: dict[str, Any]
    progress: RunProgress
    metrics: dict[str, float] | None
    num_train_examples: int
    arrays: dict[str, np.ndarray]


def read_exported(folder: Path) -> ExportedModel:
    """Reads a folder from `export`; its files may have been elsewhere meanwhile.

    Raises:
        ExportError: a file is missing or was not written by `export`.
    """
    for name in (CONFIG_FILE, MODEL_FILE):
        if not (folder / name).exists():
            raise ExportError(f"{folder} lacks {name}. Give a folder from `clac-jax ckpt export`.")
    try:
        config = read_json_object(folder / CONFIG_FILE)
        arrays, texts = read_safetensors(folder / MODEL_FILE)
        about = parse_object(texts.get("clac_jax", ""))
        for name, group in with_defaults({}).items():
            if isinstance(group, dict) and not isinstance(config.get(name, {}), dict):
                raise ValueError(f"its config has no group {name}")
        if not arrays or not all(path.startswith(PARTS) for path in arrays):
            raise ValueError("its arrays are not those of a model")
        progress = _progress(about.get("progress"))
        metrics, number = about.get("metrics"), about.get("num_train_examples")
        if not (isinstance(metrics, dict | None) and isinstance(number, int) and number >= 0):
            raise ValueError("its header does not tell metrics and number of examples")
        return ExportedModel(config, progress, metrics, number, arrays)
    except (OSError, ValueError, TypeError) as error:
        raise ExportError(
            f"{folder} was not written by `clac-jax ckpt export` ({one_line(error)}). Export it "
            "again."
        ) from error


def _progress(values: Any) -> RunProgress:
    progress = RunProgress.from_json(values)
    counts = (progress.step, progress.epoch, progress.examples_in_epoch, progress.examples_seen)
    if not all(isinstance(count, int) and 0 <= count < 1 << 31 for count in counts):
        raise ValueError(f"its progress is {values}")
    return progress
