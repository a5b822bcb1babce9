"""Inference of the config of a PyTorch model from its tensors only."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from clac_jax.config.schema import default_config
from clac_jax.interop.reference_config import ImportedConfig, ImportedConfigError
from clac_jax.models.graph import GRAPH_ENCODERS

_GRAPH = "graph_encoder."


def inferred_config(state_dict: Mapping[str, np.ndarray]) -> ImportedConfig:
    """A config with the model sizes of a state dict and the defaults of this project otherwise.

    Args:
        state_dict: all tensors of the model by name.

    Raises:
        ImportedConfigError: the tensors are not those of a graph encoder of the release.
    """
    tensors = {
        name.removeprefix(_GRAPH): tensor
        for name, tensor in state_dict.items()
        if name.startswith(_GRAPH)
    }
    config = default_config()
    config.input.group_by = "none"
    reason = "none is the first layer of one"
    for name, kind in GRAPH_ENCODERS.items():
        try:
            sizes = kind.release_sizes(tensors)
        except (KeyError, ValueError, IndexError) as error:
            reason = f"as a {name}: {error}"
            continue
        if sizes is not None:
            config.graph_encoder.name = name
            config.graph_encoder.update(sizes)
            break
    else:
        known = [name for name, kind in GRAPH_ENCODERS.items() if kind.release_names]
        raise ImportedConfigError(
            "The checkpoint has no hyper_parameters, and its tensors are not those of a graph "
            f"encoder of the release, {' or '.join(known)} ({reason}). Use a checkpoint "
            "written by the training of the release."
        )
    losses = {name.split(".")[1] for name in state_dict if name.startswith("loss.")}
    config.use_visual_intramodal_loss = "visual_d" in losses
    config.use_textual_intramodal_loss = "textual_d" in losses
    note = (
        f"the model is a {config.graph_encoder.name} with the sizes of the tensors; optimizer, "
        "schedule, batch size, augmentation and data are the defaults of this project"
    )
    return ImportedConfig(config, [note])
