"""What `clac_jax.load` accepts: the config, the step and the arrays of a trained model."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from clac_jax.checkpoint.arrays import MissingArraysError, read_arrays
from clac_jax.checkpoint.export import MODEL_FILE, read_export
from clac_jax.checkpoint.layout import CHECKPOINTS
from clac_jax.checkpoint.locate import locate
from clac_jax.config.schema import to_plain, with_defaults
from clac_jax.files.paths import local_path

Reader = Callable[[list[str]], Mapping[str, np.ndarray]]
"""Slash paths -> the arrays of a model at these paths."""


@dataclass(frozen=True)
class Source:
    """A trained model as stored.

    Attributes:
        name: what it was loaded by ("outputs/base@best").
        config: the config of the run that trained it, read-only.
        step: number of optimizer updates in its training.
        shapes: slash path -> shape of each stored array.
        read: reads the arrays at given paths.
        text_folder: folder with the tokenizer's files, and the config.json of a pretrained text
            encoder; None: those that the config names.
    """

    name: str
    config: ml_collections.FrozenConfigDict
    step: int
    shapes: Mapping[str, tuple[int, ...]]
    read: Reader
    text_folder: Path | None = None

    @property
    def build_config(self) -> ml_collections.FrozenConfigDict:
        """The config with the text encoder's files where they are."""
        if self.text_folder is None:
            return self.config
        values = copy.deepcopy(to_plain(self.config))
        text = values["text_encoder"]
        text["tokenizer"] = str(self.text_folder)
        if text["pretrained"] is not None:
            text["pretrained"] = str(self.text_folder)
        return ml_collections.FrozenConfigDict(values)


def open_source(what: str | os.PathLike[str]) -> Source:
    """Finds a model; arguments and errors as for `clac_jax.load`."""
    name = os.fspath(what)
    if folder := _exported(what):
        config, about, arrays = read_export(folder)
        return Source(
            name,
            _frozen(to_plain(config)),
            int(about["progress"]["step"]),
            {path: array.shape for path, array in arrays.items()},
            functools.partial(_chosen, arrays),
        )
    info = locate(name)
    return Source(
        name,
        _frozen(info.config),
        info.step,
        {path: leaf.shape for path, leaf in info.leaves.items()},
        functools.partial(read_arrays, info),
    )


def _frozen(values: dict[str, Any]) -> ml_collections.FrozenConfigDict:
    return ml_collections.FrozenConfigDict(with_defaults(values))


def _exported(what: str | os.PathLike[str]) -> Path | None:
    """The folder of an exported model, if `what` names one; otherwise None."""
    path = local_path(what, "The name of a model")
    if path.name == MODEL_FILE and path.is_file():
        return path.parent
    return path if (path / MODEL_FILE).is_file() and not (path / CHECKPOINTS).exists() else None


def _chosen(arrays: Mapping[str, np.ndarray], paths: list[str]) -> Mapping[str, np.ndarray]:
    if missing := sorted(set(paths) - set(arrays)):
        raise MissingArraysError(
            f"The exported model lacks {missing[0]} and {len(missing) - 1} more. Export it again."
        )
    return {path: arrays[path] for path in paths}
