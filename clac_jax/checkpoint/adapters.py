"""Models with adapters (`config.text_encoder.lora`): merged, or without what they adapt."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from clac_jax.chain.record import array_hash, digest_of
from clac_jax.checkpoint.arrays import Arrays
from clac_jax.checkpoint.averages import describe_weights, read_evaluated
from clac_jax.checkpoint.averaging import model_paths
from clac_jax.checkpoint.export import CONFIG_FILE, write_tensors
from clac_jax.checkpoint.layout import CheckpointInfo
from clac_jax.config.adapters import has_adapters, is_frozen
from clac_jax.config.schema import with_defaults
from clac_jax.errors import UserError, one_line, shown
from clac_jax.files.atomic import write_atomically
from clac_jax.files.json import parse_object, read_json_object
from clac_jax.files.paths import explain
from clac_jax.files.safetensors import SafetensorsError, read_safetensors
from clac_jax.surgery.adapters import merged

ADAPTER_FILE = "adapter.safetensors"
_HEADER = "clac_jax_adapter"


class AdapterError(UserError):
    """A model has no adapters, or a folder's adapters cannot be read or used."""


@dataclass(frozen=True)
class Adapter:
    """The arrays that a run with adapters has trained, without the frozen weights.

    Attributes:
        config: the nested config of the run.
        step: number of optimizer updates.
        arrays: slash path -> array; nothing but adapters if the run froze everything else.
        base: paths of the frozen arrays that the model has besides.
        base_digest: their digest, see `arrays_digest`.
    """

    config: dict[str, Any]
    step: int
    arrays: Arrays
    base: tuple[str, ...]
    base_digest: str


def arrays_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the names and the content of arrays, hexadecimal."""
    return digest_of({path: array_hash(array) for path, array in arrays.items()})


def merged_model(info: CheckpointInfo) -> tuple[CheckpointInfo, Arrays]:
    """A checkpoint's model without adapters: the same function, up to rounding.

    Returns:
        The description of a checkpoint of that model, which has no record in a chain; and the
        parameters and batch statistics.

    Raises:
        AdapterError: the model has no adapters.
        DamagedCheckpointError: a file differs from what was written; the message names it.
    """
    config = _config_with_adapters(info)
    lora = config["text_encoder"]["lora"]
    arrays = merged(read_evaluated(info, model_paths(info)), lora["alpha"] / lora["rank"])
    plain = copy.deepcopy(config)
    plain["text_encoder"]["lora"]["rank"] = 0
    return dataclasses.replace(info, config=plain, record=None), arrays


def export_adapter(info: CheckpointInfo, folder: Path) -> Path:
    """Writes what a run with adapters has trained, and the digest of the weights that it froze.

    Args:
        info: description of the checkpoint.
        folder: receives `adapter.safetensors` and `config.json`.

    Returns:
        Path of the safetensors file.

    Raises:
        AdapterError: the model has no adapters, or the folder cannot be written.
        DamagedCheckpointError: a file differs from what was written; the message names it.
    """
    config = _config_with_adapters(info)
    paths = model_paths(info)
    base = [path for path in paths if _is_base(path, config)]
    arrays = read_evaluated(info, [path for path in paths if path not in set(base)])
    about = {
        "progress": info.progress.to_json(),
        "metrics": info.metrics,
        "weights": describe_weights(info),
        "versions": info.versions,
        "sha256": arrays_digest(arrays),
        "base": {"arrays": base, "sha256": arrays_digest(read_evaluated(info, base))},
    }
    target = folder / ADAPTER_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise AdapterError(f"{folder} is not empty. Name another folder.")
        text = json.dumps(config, indent=2, sort_keys=True)
        write_atomically(folder / CONFIG_FILE, text + "\n")
        write_tensors(target, arrays, {_HEADER: json.dumps(about)})
    except (OSError, SafetensorError) as error:
        reason = explain(error) if isinstance(error, OSError) else f"{error}."
        raise AdapterError(f"Cannot write {folder}: {reason}") from error
    return target


def read_adapter(folder: Path) -> Adapter:
    """Reads a folder written by `export_adapter`, and compares its arrays with their digest.

    Raises:
        AdapterError: it is not such a folder, or an array differs from what was written.
    """
    path = folder / ADAPTER_FILE
    try:
        if not path.is_file():
            raise AdapterError(
                f"{folder} has no {ADAPTER_FILE}. Give a folder from `clac-jax ckpt export "
                "--adapter`."
            )
        config = with_defaults(read_json_object(folder / CONFIG_FILE))
        arrays, texts = read_safetensors(path)
        about = parse_object(texts[_HEADER])
        adapter = Adapter(
            config,
            int(about["progress"]["step"]),
            arrays,
            tuple(map(str, about["base"]["arrays"])),
            str(about["base"]["sha256"]),
        )
        is_sound = about["sha256"] == arrays_digest(arrays) and has_adapters(config)
    except OSError as error:
        raise AdapterError(f"Cannot read {folder}: {explain(error)}") from error
    except (SafetensorsError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AdapterError(
            f"{folder} was not written by `clac-jax ckpt export --adapter` ({one_line(error)}). "
            "Export it again."
        ) from error
    if not is_sound:
        raise AdapterError(f"{path} is not what was exported. Export or copy it again.")
    return adapter


def _config_with_adapters(info: CheckpointInfo) -> dict[str, Any]:
    config = with_defaults(info.config)
    if not has_adapters(config):
        raise AdapterError(
            f"{shown(info.folder)} has no adapters (text_encoder.lora.rank is 0). Leave out the "
            "flag: its model is exported as it is."
        )
    return config


def _is_base(path: str, config: Mapping[str, Any]) -> bool:
    name = path.removeprefix("params/")
    return name != path and is_frozen(name, config)
