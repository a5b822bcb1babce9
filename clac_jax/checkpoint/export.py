"""Export of a checkpoint's model to one safetensors file with its config, and the import."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
from etils import epath
from safetensors import SafetensorError
from safetensors.numpy import save_file

from clac_jax.checkpoint.arrays import Arrays
from clac_jax.checkpoint.averages import describe_weights, read_evaluated
from clac_jax.checkpoint.layout import CheckpointInfo, wrong_description
from clac_jax.checkpoint.single import ModelFacts, save_single
from clac_jax.config import schema as config_lib
from clac_jax.errors import UserError, one_line
from clac_jax.files.atomic import replacing, write_atomically
from clac_jax.files.json import parse_object, read_json_object
from clac_jax.files.paths import explain
from clac_jax.files.safetensors import read_safetensors
from clac_jax.training.progress import RunProgress

MODEL_FILE, CONFIG_FILE = "model.safetensors", "config.json"
PARTS = ("params/", "batch_stats/")


class ExportError(UserError):
    """An exported model cannot be written or read."""


def export(info: CheckpointInfo, folder: Path, arrays: Arrays | None = None) -> Path:
    """Writes parameters and batch statistics under their slash paths, and the run's config.

    The parameters are their average if the run evaluated that (`config.ema`); the header of the
    file says so.

    Args:
        info: description of the checkpoint.
        folder: receives `model.safetensors`, with step, metrics and versions as JSON in its
            header, and `config.json`.
        arrays: the parameters and batch statistics, if they are not simply those of the checkpoint.

    Returns:
        Path of the safetensors file.

    Raises:
        ExportError: the folder already holds a different file, or cannot be written.
        DamagedCheckpointError: a file differs from what was written; the message names it.
    """
    if arrays is None:
        arrays = read_evaluated(info, [path for path in info.leaves if path.startswith(PARTS)])
    about = {
        "progress": info.progress.to_json(),
        "metrics": info.metrics,
        "weights": describe_weights(info),
        "versions": info.versions,
        "num_train_examples": info.num_train_examples,
    }
    target = folder / MODEL_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if target.exists():
            raise ExportError(f"{target} exists. Remove it, or name another folder.")
        config = json.dumps(info.config, indent=2, sort_keys=True)
        write_atomically(folder / CONFIG_FILE, config + "\n")
        write_tensors(target, arrays, {"clac_jax": json.dumps(about)})
    except (OSError, SafetensorError) as error:  # the library's error has no errno
        reason = explain(error) if isinstance(error, OSError) else f"{error}."
        raise ExportError(f"Cannot write {folder}: {reason}") from error
    return target


def write_tensors(target: Path, arrays: Arrays, header: dict[str, str]) -> None:
    """Writes a safetensors file; it appears complete or not at all.

    Raises:
        WorkdirError, OSError, SafetensorError: it cannot be written.
    """
    with replacing(target) as temporary:
        save_file(arrays, temporary, metadata=header)
        temporary.chmod(0o666 & ~_umask())  # the library makes it private to its owner


def _umask() -> int:
    """The umask of this process; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def import_model(folder: Path, workdir: Path) -> str:
    """Turns an exported model into a checkpoint that `config.resume_from` can name.

    It has no optimizer state: a run that starts from it begins with zero moments.

    Args:
        folder: folder written by `export`.
        workdir: receives `checkpoints/<step>`.

    Returns:
        Path of the checkpoint's folder.

    Raises:
        ExportError: a file is missing or was not written by `export`.
        NotEmptyError: the workdir has checkpoints.
    """
    config, about, arrays = read_export(folder)
    progress = RunProgress.from_json(about["progress"])
    facts = ModelFacts(progress, about["metrics"], about["num_train_examples"])
    return save_single(workdir, config, arrays, facts)


def read_export(
    folder: Path,
) -> tuple[ml_collections.ConfigDict, dict[str, Any], dict[str, np.ndarray]]:
    """Reads the config, the metadata in the header, and the arrays of an exported model.

    Raises:
        ExportError: a file is missing or was not written by `export`.
    """
    try:
        if not (folder / MODEL_FILE).exists():
            raise FileNotFoundError
        values = read_json_object(folder / CONFIG_FILE)
        arrays, texts = read_safetensors(folder / MODEL_FILE)
        about = parse_object(texts["clac_jax"])
        described = CheckpointInfo(
            folder=epath.Path(folder),
            progress=RunProgress.from_json(about["progress"]),
            metrics=about["metrics"],
            config=values,
            versions={},
            num_train_examples=about["num_train_examples"],
            saved_at=0.0,
            leaves={},
        )
        if problem := wrong_description(described):
            raise ValueError(problem)
        config = config_lib.from_plain(values)
    except FileNotFoundError as error:
        raise ExportError(
            f"{folder} lacks {MODEL_FILE} or {CONFIG_FILE}. Give a folder from `clac-jax publish`."
        ) from error
    except OSError as error:
        raise ExportError(f"Cannot read {folder}: {explain(error)}") from error
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise ExportError(
            f"{folder} was not written by `clac-jax publish` ({one_line(e)}). Publish it again."
        ) from e
    return config, about, arrays
