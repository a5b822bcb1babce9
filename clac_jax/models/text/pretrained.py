"""Text encoder weights from a Hugging Face folder: config.json and the tensor file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clac_jax.errors import error_reason, one_line
from clac_jax.files.huggingface import PretrainedError, read_config, resolve_folder
from clac_jax.files.json import read_json_object
from clac_jax.files.safetensors import SafetensorsError, read_safetensors
from clac_jax.files.torch import TorchFileError, read_torch_file
from clac_jax.models.text import TEXT_ENCODERS
from clac_jax.models.text.settings import TextEncoderSettings
from clac_jax.models.torch_layout import Tensors

# Used for a config.json without a model_type, such as old ones of BERT.
DEFAULT_KIND = next(iter(TEXT_ENCODERS))


@dataclass(frozen=True)
class PretrainedText:
    """A text encoder as stored on disk.

    Attributes:
        settings: sizes of the network.
        params: nested dict of float32 arrays, the parameters of the encoder's module.
        has_lm_head: whether the stored encoder can compute a language-model loss.
    """

    settings: TextEncoderSettings
    params: dict[str, Any]
    has_lm_head: bool


def text_kind_of(folder: str | Path) -> type[TextEncoderSettings]:
    """The kind of text encoder that a folder's config.json names.

    Raises:
        PretrainedError: the file is missing or names an unsupported architecture.
    """
    path, values = Path(folder) / "config.json", read_config(folder)
    name = values.get("model_type", DEFAULT_KIND)
    if not isinstance(name, str) or name not in TEXT_ENCODERS:
        raise PretrainedError(
            f"{path} has model_type = {one_line(repr(name))}, which is not supported. "
            f"Give a model of type {', '.join(TEXT_ENCODERS)}."
        )
    return TEXT_ENCODERS[name]


def load_huggingface_config(folder: str | Path) -> TextEncoderSettings:
    """Reads config.json.

    Raises:
        PretrainedError: the file is missing or describes an unsupported architecture.
    """
    kind = text_kind_of(folder)
    path, values = Path(folder) / "config.json", read_config(folder)
    for key, allowed in kind.required.items():
        if values.get(key, allowed) != allowed:
            raise PretrainedError(
                f"{path} has {key} = {one_line(repr(values[key]))}; only {allowed!r} is supported. "
                "Give the folder of a different model."
            )
    try:
        return kind.from_huggingface(values)
    except KeyError as error:
        raise PretrainedError(f"{path} lacks {error}. Download it again.") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise PretrainedError(
            f"{path} cannot be used: {one_line(error)} Give the folder of a different model."
        ) from error


def load_huggingface(name: str | Path) -> PretrainedText:
    """Loads a text encoder from a Hugging Face folder, or by the name "minilm".

    Raises:
        PretrainedError: a file or a tensor is missing, or a tensor has the wrong shape.
    """
    folder = resolve_folder(name)
    settings = load_huggingface_config(folder)
    path, tensors = load_tensors(folder)
    params = checked_text_params(path, tensors, settings)
    # The logits of a decoder come from its word embedding.
    return PretrainedText(settings, params, settings.causal or "lm_head" in params)


def checked_text_params(
    path: Path, tensors: Tensors, settings: TextEncoderSettings
) -> dict[str, Any]:
    """`huggingface_params` applied to the tensors of a file.

    Raises:
        PretrainedError: a tensor is missing, has the wrong shape, or does not hold floats.
    """
    try:
        return settings.huggingface_params(tensors)
    except (KeyError, ValueError) as error:
        raise PretrainedError(
            f"{path} does not hold the model of its config.json: {one_line(error.args[0])}. "
            "Give a folder whose two files belong together."
        ) from error


def load_tensors(folder: Path) -> tuple[Path, Tensors]:
    """The tensors of a folder by name, and the path of the tensor file or its index.

    `model.safetensors` takes precedence over `pytorch_model.bin`; either may be split into several
    files listed by an index. A .bin file is read without executing the pickle inside it.

    Raises:
        PretrainedError: there is no such file, or one cannot be read.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        path, index = folder / name, folder / f"{name}.index.json"
        if path.exists():
            return path, _read_tensors(path)
        if index.exists():
            return index, _read_split(index)
    raise PretrainedError(
        f"{folder} holds neither model.safetensors nor pytorch_model.bin. "
        "Give a folder with config.json and one of them."
    )


def _read_tensors(path: Path) -> Tensors:
    try:
        is_torch = path.suffix != ".safetensors"
        tensors = read_torch_file(path) if is_torch else read_safetensors(path)[0]
    except (SafetensorsError, TorchFileError) as error:
        raise PretrainedError(str(error)) from error
    if not isinstance(tensors, dict) or not all(isinstance(name, str) for name in tensors):
        raise PretrainedError(
            f"{path} does not hold tensors by name. Give the folder of a different model."
        )
    return {name: tensor for name, tensor in tensors.items() if isinstance(tensor, np.ndarray)}


def _read_split(index: Path) -> Tensors:
    try:
        weight_map = read_json_object(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ValueError("it has no weight_map")
        files = set(map(_file_name, weight_map.values()))
    except (OSError, ValueError) as error:
        reason = error_reason(error)
        raise PretrainedError(f"{index} cannot be read ({reason}). Download it again.") from error
    tensors: dict[str, np.ndarray] = {}
    for name in sorted(files):
        tensors.update(_read_tensors(index.parent / name))
    return tensors


def _file_name(name: object) -> str:
    """The name of a file from an index, which may only refer to files in its own folder."""
    if (
        not isinstance(name, str)
        or not 0 < len(name) < 256
        or name in (".", "..")
        or "\0" in name
        or "/" in name
    ):
        raise ValueError(f"{one_line(repr(name))} is not the name of a file in the same folder")
    return name
