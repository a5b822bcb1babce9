"""The checksum of a model: equal for all copies that give the same numbers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
from flax import traverse_util

from clac_jax.models.build import pair_loss_of
from clac_jax.models.encoders import graph_settings, text_settings

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
# Settings that matter in training only, or for speed.
_OF_TRAINING = ("hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range")


def checksum(
    config: ml_collections.FrozenConfigDict,
    variables: Mapping[str, Any],
    tokenizer: Path | None = None,
    vocab_size: int | None = None,
) -> str:
    """The SHA-256 of what determines a model's results, hexadecimal.

    Args:
        config: config that the model was built from.
        variables: nested, the variables used for inference.
        tokenizer: folder of the tokenizer; None: the model reads no texts.
        vocab_size: size of its vocabulary.
    """
    digest = hashlib.sha256(json.dumps(_settings(config, vocab_size), sort_keys=True).encode())
    for name in TOKENIZER_FILES if tokenizer else ():
        if tokenizer and (tokenizer / name).is_file():
            digest.update(f"\0{name}\0".encode())
            digest.update(hashlib.sha256((tokenizer / name).read_bytes()).digest())
    flat = traverse_util.flatten_dict(dict(variables), sep="/")
    for path in sorted(flat):
        array = np.ascontiguousarray(flat[path], np.float32)
        digest.update(f"\0{path}\0{array.dtype}\0{flat[path].shape}\0".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _settings(config: ml_collections.FrozenConfigDict, vocab_size: int | None) -> dict[str, Any]:
    """The values of a config that determine the results of a trained model, without paths."""
    values = {
        "task": config.task,
        "precision": config.precision,
        "graph_encoder": [
            config.graph_encoder.name,
            _changed(graph_settings(config.graph_encoder)),
            config.graph_encoder.add_composition,
        ],
    }
    if config.task == "property":
        return values | {"property": [config.property.name, config.property.kind]}
    text = text_settings(config, vocab_size)
    return values | {
        "text_encoder": [type(text).__name__, _changed(text)],
        "feature": config.text_encoder.feature,
        "max_length": config.text_encoder.max_length,
        "projection_dim": config.projection_dim,
        "critic": pair_loss_of(config.loss).heads.cross_critic,
    }


def _changed(settings: Any) -> dict[str, Any]:
    """The fields that differ from their defaults, so that a later version may add a field."""
    return {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if getattr(settings, field.name) != field.default and field.name not in _OF_TRAINING
    }
