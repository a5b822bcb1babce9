"""Pairs of the tensors of other programs and a model's arrays, where the names are known.

The importers of this program convert tensors by name. They are given tensors
filled with their own number, so what they return shows which array each tensor becomes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from clac_jax.checkpoint.renaming import Shape
from clac_jax.checkpoint.sources import Arrays, ForeignArrays
from clac_jax.errors import UserError
from clac_jax.files.huggingface import resolve_folder
from clac_jax.interop.reference_weights import model_params, model_statistics
from clac_jax.merging.rules_of_pairs import Pair
from clac_jax.models.encoders import text_settings
from clac_jax.models.text.pretrained import load_huggingface_config
from clac_jax.text.sentences import Tokenizer

_FIRST_ROW = 1  # added to the number of a tensor in its first row


def known_pairs(arrays: Arrays, config: ml_collections.ConfigDict) -> list[Pair]:
    """The pairs that the importers would make of a source; empty if they do not know its names.

    Args:
        arrays: a source.
        config: the config of the new run.
    """
    names = {
        path.split("/", 1)[1].replace("/", "."): (path, leaf.shape)
        for path, leaf in arrays.leaves.items()
        if "/" in path
    }
    if arrays.info is not None or config.task == "property":
        return []
    folder = Path(arrays.where) if isinstance(arrays, ForeignArrays) else Path()
    vocabulary = Tokenizer.from_folder(resolve_folder(config.text_encoder.tokenizer)).vocab_size
    settings = text_settings(config, vocabulary)

    def of_release(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
        params = model_params(tensors, config, settings)
        return {"params": params, "batch_stats": model_statistics(tensors, config)}

    def of_language_model(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
        own = settings
        if (folder / "config.json").is_file():  # which may have other sizes than the new model
            own = load_huggingface_config(folder)
        return {"params": {"text_encoder": own.huggingface_params(tensors)}}

    for convert, why in (
        (of_release, "a checkpoint of the PyTorch release"),
        (of_language_model, "a language model of Hugging Face"),
    ):
        tensors = _Numbered({name: shape for name, (_, shape) in names.items()})
        try:
            tree = convert(tensors)
        except (KeyError, ValueError, UserError):  # not what this importer reads
            continue
        return _pairs(tree, tensors, why)
    return []


class _Numbered(Mapping[str, np.ndarray]):
    """Tensors that hold twice their number, plus one in the first row; made when they are read."""

    def __init__(self, shapes: Mapping[str, Shape]):
        self.names = list(shapes)
        self._shapes = shapes
        self._numbers = {name: number for number, name in enumerate(self.names)}

    def __getitem__(self, name: str) -> np.ndarray:
        shape = self._shapes[name]
        number = 2.0 * self._numbers[name]
        if len(shape) < 2:
            return np.broadcast_to(np.float64(number), shape)
        column = np.full((shape[0], *[1] * (len(shape) - 1)), number)
        column[0] += _FIRST_ROW
        return np.broadcast_to(column, shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def _pairs(tree: dict[str, Any], tensors: _Numbered, why: str) -> list[Pair]:
    pairs = []
    for name, leaf in _leaves(tree):
        low, high = float(np.min(leaf)), float(np.max(leaf))
        if low // 2 != high // 2:
            continue  # made of several tensors
        tensor = tensors.names[int(low // 2)]
        is_turned = leaf.ndim == 2 and leaf.shape[1] > 1 and leaf[0, 0] != leaf[0, 1]
        transform = "transpose(1, 0)" if is_turned else ""
        pairs.append(Pair((tensor.replace(".", "/"),), (name,), transform, why))
    return pairs


def _leaves(tree: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """(name without its part, array)."""

    def below(node: Any, names: tuple[str, ...]) -> Iterator[tuple[str, np.ndarray]]:
        if isinstance(node, Mapping):
            for name, child in node.items():
                yield from below(child, (*names, name))
        else:
            yield "/".join(names), np.asarray(node)

    for part in tree.values():
        yield from below(part, ())
