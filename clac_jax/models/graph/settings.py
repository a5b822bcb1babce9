"""The base class of graph encoder settings: what every graph encoder declares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import flax.linen as nn
import numpy as np

from clac_jax.config.effects import OTHER_EDGES
from clac_jax.config.key import key
from clac_jax.models.anatomy import Anatomy
from clac_jax.models.torch_layout import TensorReader

Params = dict[str, Any]


def cutoff_key(default: float) -> Any:
    """The field `cutoff` of an encoder's settings; each kind has its own default."""
    return key(
        default,
        "longest edge of a crystal's graph, angstrom; the encoder's envelope reaches zero there, "
        "unless it has a key for that",
        low=0.1,
        high=100.0,
        on_change=OTHER_EDGES,
    )


@dataclass(frozen=True)
class GraphEncoderSettings:
    """Sizes of a graph encoder, and everything the rest of the package needs from it.

    A kind of encoder is a frozen subclass in a file of its own, with its fields declared by
    `config.key.key`, plus one line in `GRAPH_ENCODERS`. Its fields are read by name from the config
    group `graph_encoder`. Only `build` has to be written; the rest has defaults.

    Attributes:
        has_batch_statistics: whether, in training, the features of a crystal depend on the others
            in its batch, as with batch normalization. Such an encoder cannot run on part of a batch
            (`gradient_cache_chunks`).
        sees_composition: whether the encoder already contains what `add_composition` would add.
        pretrained_files: what `graph_encoder.pretrained` may name, in words; "": nothing.
        release_names: hyperparameter of the PyTorch release -> field; {}: the release has no such
            encoder.
    """

    cutoff: float = cutoff_key(5.0)
    max_neighbours: int = key(
        0, "nearest edges kept per atom; 0 keeps all", low=0, on_change=OTHER_EDGES
    )
    out_dim: int = key(
        512, "width of a crystal's vector; ignored by orb, where it is num_features", low=1
    )

    has_batch_statistics: ClassVar[bool] = False
    sees_composition: ClassVar[bool] = False
    pretrained_files: ClassVar[str] = ""
    release_names: ClassVar[Mapping[str, str]] = {}

    def build(self, dtype: str | None = None, remat: bool = False) -> nn.Module:
        """The module with these settings.

        Called as `module(graphs, train=..., axis_name=...)` with a `GraphBatch`, it returns
        (rows, `width`) features; its output for padding rows is ignored.

        Args:
            dtype: dtype of the arithmetic; None: that of the parameters.
            remat: whether the backward pass recomputes the inside of each block.
        """
        raise NotImplementedError

    @property
    def width(self) -> int:
        """The length of a crystal's feature vector."""
        return self.out_dim

    def anatomy(self) -> Anatomy | None:
        """The units of the module's arrays, so that it can be grown; None: it cannot.

        Its output is (the axis of) the features.
        """
        return None

    def pretrained_params(self, path: str | Path) -> Params:
        """Reads the encoder's parameters from another program's file.

        Raises:
            PretrainedError: the file holds different weights.
            TorchFileError: the file cannot be read.
        """
        raise NotImplementedError

    @classmethod
    def release_sizes(cls, tensors: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
        """Settings deduced from the release's tensors; None if they belong to a different encoder.

        Raises:
            KeyError, ValueError, IndexError: the tensors are not those of an intact encoder.
        """
        del tensors
        return None

    def release_params(self, tensors: TensorReader) -> Params:
        """The parameters from the release's tensors.

        Raises:
            KeyError: a tensor is missing.
            ValueError: a tensor has the wrong shape.
        """
        raise NotImplementedError

    def release_statistics(self, tensors: TensorReader) -> Params:
        """The running averages from the release's tensors; errors as for `release_params`."""
        del tensors
        return {}
