"""Inference of the config of a PyTorch model from its tensors only."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import ml_collections
import numpy as np

from clac_jax.config.schema import default_config
from clac_jax.interop.reference_config import ImportedConfig, ImportedConfigError

_GRAPH = "graph_encoder."


def inferred_config(state_dict: Mapping[str, np.ndarray]) -> ImportedConfig:
    """A config with the model sizes of a state dict and the defaults of this project otherwise.

    Args:
        state_dict: all tensors of the model by name.

    Raises:
        ImportedConfigError: the tensors are not those of a PaiNN or CGCNN model of the release.
    """
    shapes = {name: tensor.shape for name, tensor in state_dict.items()}
    config = default_config()
    config.input.group_by = "none"
    try:
        if f"{_GRAPH}list_message.0.lin1.weight" in shapes:
            _painn(state_dict, shapes, config.graph_encoder)
        elif f"{_GRAPH}convs.0.lin_f.weight" in shapes:
            _cgcnn(shapes, config.graph_encoder)
        else:
            raise KeyError("graph_encoder.list_message.0.lin1.weight")
    except (KeyError, ValueError, IndexError) as error:
        raise ImportedConfigError(
            "The checkpoint has no hyper_parameters, and its tensors are not those of a PaiNN or "
            f"CGCNN model ({error}). Use a checkpoint written by the training of the release."
        ) from error
    config.use_visual_intramodal_loss = any(name.startswith("loss.visual_d.") for name in shapes)
    config.use_textual_intramodal_loss = any(name.startswith("loss.textual_d.") for name in shapes)
    note = (
        f"the model is a {config.graph_encoder.name} with the sizes of the tensors; optimizer, "
        "schedule, batch size, augmentation and data are the defaults of this project"
    )
    return ImportedConfig(config, [note])


def _painn(
    state_dict: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    options: ml_collections.ConfigDict,
) -> None:
    options.name = "painn"
    options.num_features = shapes[f"{_GRAPH}embedding.weight"][0]
    options.out_dim = shapes[f"{_GRAPH}lin2.weight"][0]
    options.num_rbf = shapes[f"{_GRAPH}list_message.0.lin_rbf.weight"][1]
    options.num_interactions = _count(shapes, r"list_message\.(\d+)\.lin1\.weight")
    waves = state_dict.get(f"{_GRAPH}list_message.0.RBF.freqs")  # pi / cutoff, 2 pi / cutoff, ...
    if waves is not None and waves.size and 0.1 < float(waves.flat[0]) < 10:
        options.cutoff = round(math.pi / float(waves.flat[0]), 4)


def _cgcnn(shapes: Mapping[str, tuple[int, ...]], options: ml_collections.ConfigDict) -> None:
    options.name = "cgcnn"
    options.atom_fea_len = shapes[f"{_GRAPH}embedding.weight"][0]
    options.nbr_fea_len = shapes[f"{_GRAPH}convs.0.lin_f.weight"][1] - 2 * options.atom_fea_len
    options.n_conv = _count(shapes, r"convs\.(\d+)\.lin_f\.weight")
    # Linear layers have even indices; activations are between them.
    options.n_h = _count(shapes, r"conv_to_fc\.(\d+)\.weight") - 1
    options.h_fea_len = shapes[f"{_GRAPH}conv_to_fc.0.weight"][0]
    options.out_dim = shapes[f"{_GRAPH}conv_to_fc.{2 * options.n_h}.weight"][0]


def _count(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> int:
    return sum(re.fullmatch(re.escape(_GRAPH) + pattern, name) is not None for name in shapes)
