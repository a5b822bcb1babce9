"""A trained model as stored: its config, its step and its arrays."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from clac_jax.checkpoint.arrays import MissingArraysError
from clac_jax.config.schema import to_plain, with_defaults

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


def frozen(values: dict[str, Any]) -> ml_collections.FrozenConfigDict:
    """A saved config, completed with the defaults of keys that it lacks."""
    return ml_collections.FrozenConfigDict(with_defaults(values))


def chosen(arrays: Mapping[str, np.ndarray], paths: list[str]) -> Mapping[str, np.ndarray]:
    """The arrays at these paths.

    Raises:
        MissingArraysError: some are missing.
    """
    if missing := sorted(set(paths) - set(arrays)):
        raise MissingArraysError(
            f"The published model lacks {missing[0]} and {len(missing) - 1} more. Publish it again."
        )
    return {path: arrays[path] for path in paths}
