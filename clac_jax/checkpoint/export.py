"""A checkpoint's model as one safetensors file with its config, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from etils import epath
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from clac_jax.checkpoint.arrays import read_arrays
from clac_jax.checkpoint.layout import CHECKPOINTS, CheckpointInfo, read_all
from clac_jax.checkpoint.manager import Checkpoints
from clac_jax.errors import UserError
from clac_jax.progress import RunProgress

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
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        with safe_open(folder / MODEL_FILE, framework="numpy") as file:
            about = json.loads((file.metadata() or {})["clac_jax"])
            arrays: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise ExportError(
            f"{folder} lacks {MODEL_FILE} or {CONFIG_FILE}. Give a folder from "
            "`clac-jax ckpt export`."
        ) from error
    except (SafetensorError, ValueError, KeyError) as error:
        raise ExportError(
            f"{folder} was not written by `clac-jax ckpt export` ({error}). Export it again."
        ) from error
    if read_all(epath.Path(workdir) / CHECKPOINTS)[0]:
        raise ExportError(f"{workdir} holds checkpoints already. Name another folder.")
    progress = RunProgress.from_json(about["progress"])
    arrays["step"] = np.asarray(progress.step, np.int32)
    checkpoints = Checkpoints(
        workdir,
        ml_collections.ConfigDict(config),
        {path: jax.ShapeDtypeStruct(a.shape, a.dtype) for path, a in arrays.items()},
        about["num_train_examples"],
    )
    checkpoints.save(arrays, progress, about["metrics"])
    checkpoints.close()
    return str(checkpoints.directory / str(progress.step))
