"""Conversion of the state dict of the PyTorch release to parameters and batch statistics.

The same functions convert the moments of the optimizer, which have the names and shapes of the
parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections
import numpy as np

from clac_jax.models.build import pair_loss_of
from clac_jax.models.encoders import graph_settings
from clac_jax.models.text.settings import TextEncoderSettings
from clac_jax.models.torch_layout import TensorReader, Tensors

Tree = dict[str, Any]

# This project -> the release, whose blocks are named after images.
_HEADS = {"cross_head": "global_d", "visual_head": "visual_d", "textual_head": "textual_d"}
_SIDES = {"left": "img_block", "right": "text_block"}
_PRIORS = {"crystal_discriminator": "prior_d", "text_discriminator": "text_prior_d"}
_PRIOR_HIDDEN = (1000, 200)


def model_params(
    tensors: Tensors, config: ml_collections.ConfigDict, text_settings: TextEncoderSettings
) -> Tree:
    """Converts the parameters of the model of a config.

    Raises:
        KeyError: a tensor is missing.
        ValueError: a tensor has the wrong shape.
    """
    heads = heads_of(config)
    # Without the language-model loss, the model has no head for it.
    left_out = () if config.lm_weight > 0 else ("cls.",)
    text_tensors = _WithoutPrefix(tensors, "text_encoder.model.", left_out)
    try:
        text_params = text_settings.huggingface_params(text_tensors)
    except (KeyError, ValueError) as error:
        raise type(error)(f"text_encoder: {error.args[0]}") from error
    params = {
        "graph_encoder": graph_settings(config.graph_encoder).release_params(_graph(tensors)),
        "text_encoder": text_params,
        **{head: head_params(tensors, f"loss.{_HEADS[head]}.") for head in heads},
    }
    wanted = pair_loss_of(config.loss).heads
    has_priors = (wanted.crystal_prior, wanted.text_prior)
    for (ours, theirs), has_prior in zip(_PRIORS.items(), has_priors, strict=True):
        if has_prior:
            params[ours] = discriminator_params(tensors, f"loss.{theirs}.")
    return params


def model_statistics(tensors: Tensors, config: ml_collections.ConfigDict) -> Tree:
    """Converts the BatchNorm statistics of the model; errors as for `model_params`."""
    statistics: Tree = {
        head: head_statistics(tensors, f"loss.{_HEADS[head]}.") for head in heads_of(config)
    }
    of_encoder = graph_settings(config.graph_encoder).release_statistics(_graph(tensors))
    return statistics | ({"graph_encoder": of_encoder} if of_encoder else {})


def _graph(tensors: Tensors) -> TensorReader:
    """The tensors of the graph encoder, by the rest of their names."""
    return TensorReader(tensors, prefix="graph_encoder.")


def heads_of(config: ml_collections.ConfigDict) -> list[str]:
    """The names of the contrastive heads of the model of a config."""
    heads = ["cross_head"]
    heads += ["visual_head"] if config.use_visual_intramodal_loss else []
    return heads + (["textual_head"] if config.use_textual_intramodal_loss else [])


def head_params(tensors: Tensors, prefix: str) -> Tree:
    """Converts the parameters of a `ContrastiveHead`."""
    params: Tree = {
        side: block_params(tensors, f"{prefix}{theirs}.") for side, theirs in _SIDES.items()
    }
    return params | {"log_scale": TensorReader(tensors, prefix=prefix).take("temperature")}


def head_statistics(tensors: Tensors, prefix: str) -> Tree:
    """Converts the BatchNorm statistics of a `ContrastiveHead`."""
    return {
        side: block_statistics(tensors, f"{prefix}{theirs}.") for side, theirs in _SIDES.items()
    }


def block_params(tensors: Tensors, prefix: str = "") -> Tree:
    """Converts the parameters of a `ProjectionBlock`, with the sizes of its shortcut."""
    reader = TensorReader(tensors, prefix=prefix)
    size, width = reader.shape("feature_shortcut.weight")
    return {
        "hidden": reader.dense("feature_nonlinear.0", width, size, use_bias=False),
        "norm": reader.norm("feature_nonlinear.1", size),
        "out": reader.dense("feature_nonlinear.3", size, size),
        "shortcut": reader.dense("feature_shortcut", width, size),
        "out_norm": reader.norm("feature_block_ln", size),
    }


def block_statistics(tensors: Tensors, prefix: str = "") -> Tree:
    """Converts the BatchNorm statistics of a `ProjectionBlock`."""
    reader = TensorReader(tensors, prefix=prefix)
    size, _ = reader.shape("feature_shortcut.weight")
    return {"norm": reader.statistics("feature_nonlinear.1", size)}


def discriminator_params(tensors: Tensors, prefix: str) -> Tree:
    """Converts the parameters of a `PriorDiscriminator`."""
    reader = TensorReader(tensors, prefix=prefix)
    first, second = _PRIOR_HIDDEN
    return {
        "layer_0": reader.dense("l0", reader.shape("l0.weight")[1], first),
        "layer_1": reader.dense("l1", first, second),
        "out": reader.dense("l2", second, 1),
    }


class _WithoutPrefix(Mapping[str, np.ndarray]):
    """A view of the tensors with a common name prefix, which is removed from the names."""

    def __init__(self, tensors: Tensors, prefix: str, left_out: tuple[str, ...]):
        self._tensors = tensors
        self._names = {
            name.removeprefix(prefix): name
            for name in tensors
            if name.startswith(prefix) and not name.removeprefix(prefix).startswith(left_out)
        }

    def __getitem__(self, name: str) -> np.ndarray:
        return self._tensors[self._names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
