"""BERT weights from a Hugging Face folder (config.json and model.safetensors)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from clac_jax.huggingface import PretrainedError, resolve_folder
from clac_jax.models.bert import BertConfig


@dataclass(frozen=True)
class PretrainedBert:
    """A BERT as stored.

    Attributes:
        config: sizes.
        params: nested dict of float32 arrays, the parameters of `clac_jax.models.bert.Bert`.
        has_lm_head: whether params include "lm_head".
    """

    config: BertConfig
    params: dict[str, Any]
    has_lm_head: bool


def load_huggingface_config(folder: str | Path) -> BertConfig:
    """Reads config.json.

    Raises:
        PretrainedError: the file is missing or describes something other than a plain BERT.
    """
    path = Path(folder) / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PretrainedError(
            f"{path} does not exist. Give a folder with config.json and model.safetensors."
        ) from error
    except json.JSONDecodeError as error:
        raise PretrainedError(f"{path} is not JSON ({error}). Download it again.") from error
    for key, allowed in (
        ("model_type", "bert"),
        ("hidden_act", "gelu"),
        ("position_embedding_type", "absolute"),
    ):
        if values.get(key, allowed) != allowed:
            raise PretrainedError(
                f"{path} has {key} = {values[key]!r}; only {allowed!r} is supported. "
                "Give the folder of a plain BERT."
            )
    try:
        return BertConfig.from_mapping(values)
    except ValueError as error:
        raise PretrainedError(f"{path} cannot be used: {error}") from error


def load_huggingface(name: str | Path) -> PretrainedBert:
    """Loads a BERT from a Hugging Face folder, or "minilm".

    Raises:
        PretrainedError: a file or a tensor is missing, or a tensor has another shape.
    """
    folder = resolve_folder(name)
    config = load_huggingface_config(folder)
    path = folder / "model.safetensors"
    if not path.exists():
        raise PretrainedError(
            f"{path} does not exist. Give a folder with config.json and model.safetensors "
            "(a pytorch_model.bin must be converted to safetensors first)."
        )
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise PretrainedError(f"{path} cannot be read ({error}). Download it again.") from error
    try:
        params = bert_params(tensors, config)
    except (KeyError, ValueError) as error:
        raise PretrainedError(
            f"{path} does not hold the BERT of its config.json: {error.args[0]}. "
            "Give a folder whose two files belong together."
        ) from error
    return PretrainedBert(config, params, has_lm_head="lm_head" in params)


def bert_params(tensors: Mapping[str, np.ndarray], config: BertConfig) -> dict[str, Any]:
    """Renames Hugging Face tensors into the parameters of `Bert`; the pooler is left out.

    Args:
        tensors: by state-dict name, with or without the prefix "bert.".
        config: sizes to check against.

    Raises:
        KeyError: a tensor is missing.
        ValueError: a tensor has another shape.
    """
    prefix = "bert." if any(name.startswith("bert.") for name in tensors) else ""
    hidden, wide = config.hidden_size, config.intermediate_size

    def take(name: str, *shape: int) -> np.ndarray:
        if name not in tensors:
            raise KeyError(f"no tensor {name}")
        tensor = np.asarray(tensors[name])
        if tensor.shape != shape:
            raise ValueError(f"{name} has shape {tensor.shape} instead of {shape}")
        return tensor if tensor.dtype == np.float64 else tensor.astype(np.float32)

    def dense(name: str, fan_in: int, fan_out: int) -> dict[str, np.ndarray]:
        kernel = take(f"{name}.weight", fan_out, fan_in)
        return {"kernel": np.ascontiguousarray(kernel.T), "bias": take(f"{name}.bias", fan_out)}

    def norm(name: str) -> dict[str, np.ndarray]:
        return {"scale": take(f"{name}.weight", hidden), "bias": take(f"{name}.bias", hidden)}

    def embedding(kind: str, count: int) -> dict[str, np.ndarray]:
        return {"embedding": take(f"{prefix}embeddings.{kind}_embeddings.weight", count, hidden)}

    params: dict[str, Any] = {
        "word_embedding": embedding("word", config.vocab_size),
        "position_embedding": embedding("position", config.max_position_embeddings),
        "type_embedding": embedding("token_type", config.type_vocab_size),
        "embedding_norm": norm(f"{prefix}embeddings.LayerNorm"),
    }
    for k in range(config.num_hidden_layers):
        layer = f"{prefix}encoder.layer.{k}"
        params[f"layer_{k}_attention"] = {
            "query": dense(f"{layer}.attention.self.query", hidden, hidden),
            "key": dense(f"{layer}.attention.self.key", hidden, hidden),
            "value": dense(f"{layer}.attention.self.value", hidden, hidden),
            "out": dense(f"{layer}.attention.output.dense", hidden, hidden),
        }
        params[f"layer_{k}_attention_norm"] = norm(f"{layer}.attention.output.LayerNorm")
        params[f"layer_{k}_intermediate"] = dense(f"{layer}.intermediate.dense", hidden, wide)
        params[f"layer_{k}_output"] = dense(f"{layer}.output.dense", wide, hidden)
        params[f"layer_{k}_output_norm"] = norm(f"{layer}.output.LayerNorm")
    if "cls.predictions.bias" in tensors:
        params["lm_head"] = {
            "transform": dense("cls.predictions.transform.dense", hidden, hidden),
            "norm": norm("cls.predictions.transform.LayerNorm"),
            "bias": take("cls.predictions.bias", config.vocab_size),
        }
    return params
