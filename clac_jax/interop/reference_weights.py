"""Conversion of the state dict of the PyTorch release to parameters and batch statistics.

The same functions convert the moments of the optimizer, which have the names and shapes of the
parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections
import numpy as np

from clac_jax.crystals.elements import NUM_FEATURES
from clac_jax.models.text.weights import TextConfig, text_params
from clac_jax.models.torch_layout import TensorReader, Tensors

Tree = dict[str, Any]

# This project -> the release, whose blocks are named after images.
_HEADS = {"cross_head": "global_d", "visual_head": "visual_d", "textual_head": "textual_d"}
_SIDES = {"left": "img_block", "right": "text_block"}
_PRIORS = {"crystal_discriminator": "prior_d", "text_discriminator": "text_prior_d"}
_PRIOR_HIDDEN = (1000, 200)


def model_params(
    tensors: Tensors, config: ml_collections.ConfigDict, text_config: TextConfig
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
    params = {
        "graph_encoder": graph_params(tensors, config.graph_encoder),
        "text_encoder": text_params(text_tensors, text_config),
        **{head: head_params(tensors, f"loss.{_HEADS[head]}.") for head in heads},
    }
    if config.loss.name == "jsd":
        wanted = (config.loss.crystal_prior, config.loss.text_prior)
        for (ours, theirs), has_prior in zip(_PRIORS.items(), wanted, strict=True):
            if has_prior:
                params[ours] = discriminator_params(tensors, f"loss.{theirs}.")
    return params


def model_statistics(tensors: Tensors, config: ml_collections.ConfigDict) -> Tree:
    """Converts the BatchNorm statistics of the model; errors as for `model_params`."""
    statistics: Tree = {
        head: head_statistics(tensors, f"loss.{_HEADS[head]}.") for head in heads_of(config)
    }
    if config.graph_encoder.name == "cgcnn":
        statistics["graph_encoder"] = cgcnn_statistics(tensors, config.graph_encoder)
    return statistics


def heads_of(config: ml_collections.ConfigDict) -> list[str]:
    """The names of the contrastive heads of the model of a config."""
    heads = ["cross_head"]
    heads += ["visual_head"] if config.use_visual_intramodal_loss else []
    return heads + (["textual_head"] if config.use_textual_intramodal_loss else [])


def graph_params(tensors: Tensors, options: ml_collections.ConfigDict) -> Tree:
    """Converts the parameters of the graph encoder; `options` is its group of the config."""
    encoder = painn_params if options.name == "painn" else cgcnn_params
    return encoder(tensors, options)


def painn_params(
    tensors: Tensors, options: ml_collections.ConfigDict, prefix: str = "graph_encoder."
) -> Tree:
    """Converts the parameters of `PaiNN`."""
    reader, size = TensorReader(tensors, prefix=prefix), options.num_features
    params: Tree = {
        "embedding": reader.dense("embedding", NUM_FEATURES, size),
        "readout_hidden": reader.dense("lin1", size, size),
        "readout": reader.dense("lin2", size, options.out_dim),
    }
    for k in range(options.num_interactions):
        message, update = f"list_message.{k}", f"list_update.{k}"
        kernel, bias = reader.dense(f"{message}.lin_rbf", options.num_rbf, 3 * size).values()
        params[f"message_{k}"] = {
            "hidden": reader.dense(f"{message}.lin1", size, size),
            "phi": reader.dense(f"{message}.lin2", size, 3 * size),
            "filter_kernel": kernel,
            "filter_bias": bias,
        }
        params[f"update_{k}"] = {
            "u": reader.dense(f"{update}.denseU", size, size, use_bias=False),
            "v": reader.dense(f"{update}.denseV", size, size, use_bias=False),
            "hidden": reader.dense(f"{update}.lin_up", 2 * size, size),
            "gates": reader.dense(f"{update}.lin2", size, 3 * size),
        }
    return params


def cgcnn_params(
    tensors: Tensors, options: ml_collections.ConfigDict, prefix: str = "graph_encoder."
) -> Tree:
    """Converts the parameters of `CGCNN`."""
    reader = TensorReader(tensors, prefix=prefix)
    size, edge, hidden = options.atom_fea_len, options.nbr_fea_len, options.h_fea_len
    params: Tree = {"embedding": reader.dense("embedding", NUM_FEATURES, size)}
    for k in range(options.n_conv):
        # The release applies a linear layer per gate to the concatenation [receiver, sender, edge].
        gates = [
            reader.dense(f"convs.{k}.{gate}", 2 * size + edge, size) for gate in ("lin_f", "lin_s")
        ]
        kernel = np.concatenate([gate["kernel"] for gate in gates], axis=1)
        receiver, sender, edges = np.split(kernel, (size, 2 * size))
        params[f"conv_{k}"] = {
            "receiver": {
                "kernel": receiver,
                "bias": np.concatenate([gate["bias"] for gate in gates]),
            },
            "sender": {"kernel": sender},
            "edge": {"kernel": edges},
            "norm": reader.norm(f"convs.{k}.bn", size),
        }
    # Linear layers have even indices (conv_to_fc.0, .2, ...); activations are between them.
    width = size
    for k in range(options.n_h):
        params[f"hidden_{k}"] = reader.dense(f"conv_to_fc.{2 * k}", width, hidden)
        width = hidden
    params["out"] = reader.dense(f"conv_to_fc.{2 * options.n_h}", width, options.out_dim)
    return params


def cgcnn_statistics(
    tensors: Tensors, options: ml_collections.ConfigDict, prefix: str = "graph_encoder."
) -> Tree:
    """Converts the BatchNorm statistics of `CGCNN`."""
    reader = TensorReader(tensors, prefix=prefix)
    return {
        f"conv_{k}": {"norm": reader.statistics(f"convs.{k}.bn", options.atom_fea_len)}
        for k in range(options.n_conv)
    }


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
