"""The weights of an ORB v3 checkpoint file as the parameters of `Orb`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from clac_jax.errors import one_line
from clac_jax.files.huggingface import PretrainedError
from clac_jax.files.paths import local_path
from clac_jax.files.torch import read_torch_file
from clac_jax.models.graph.orb import NUM_ANGULAR, NUM_ELEMENTS, NUM_RADIAL, Orb
from clac_jax.models.torch_layout import TensorReader, Tensors


def load_orb(path: str | Path, model: Orb) -> dict[str, Any]:
    """Reads a checkpoint file of orb-models (`orb-v3-direct-20-omat-*.ckpt`), without PyTorch.

    Args:
        path: the file.
        model: whose sizes the weights must have.

    Raises:
        TorchFileError: the file cannot be read, or holds more than plain data.
        PretrainedError: it is not an ORB v3 of these sizes.
    """
    content = read_torch_file(local_path(path, "graph_encoder.pretrained"))
    try:
        if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
            raise ValueError("it has no tensors by name")
        return orb_params(content, model)
    except (KeyError, ValueError, TypeError) as error:
        raise PretrainedError(
            f"{path} does not hold an ORB v3 of these sizes: {one_line(error.args[0])}. Give an "
            "orb-v3-direct file, and set graph_encoder.num_features, hidden_features and "
            "num_interactions to its sizes (256, 1024 and 5)."
        ) from error


def orb_params(tensors: Tensors, model: Orb) -> dict[str, Any]:
    """Renames the tensors of orb-models; the heads of the force field are left out.

    Raises:
        KeyError: a tensor is missing.
        ValueError: a tensor has another shape, or there are more steps than the model has.
    """
    features, hidden, steps = model.features, model.hidden, model.num_interactions
    reader = TensorReader(tensors, "atom_emb.embeddings.weight")
    if f"gnn_stacks.{steps}._node_mlp.mlp.NN-0.weight" in reader:
        raise ValueError(f"it has more than {steps} interactions")

    def rest(name: str) -> dict[str, Any]:
        return {
            "second": reader.dense(f"{name}.mlp.NN-1", hidden, hidden),
            "third": reader.dense(f"{name}.mlp.NN-2", hidden, features),
            "norm": {"scale": reader.take(f"{name}.layer_norm.weight", features)},
        }

    def first_of_three(name: str, ours: tuple[str, str, str]) -> dict[str, Any]:
        """One map of three inputs side by side, as three maps; the first has the bias."""
        whole = reader.dense(f"{name}.mlp.NN-0", 3 * features, hidden)
        kernels = np.split(whole["kernel"], 3, axis=0)
        maps = {
            part: {"kernel": np.ascontiguousarray(kernel)}
            for part, kernel in zip(ours, kernels, strict=True)
        }
        maps[ours[0]]["bias"] = whole["bias"]
        return maps

    params: dict[str, Any] = {
        "embedding": {
            "embedding": reader.take("atom_emb.embeddings.weight", NUM_ELEMENTS, features)
        },
        "node_encoder_in": reader.dense("_encoder._node_fn.mlp.NN-0", features, hidden),
        "node_encoder": rest("_encoder._node_fn"),
        "edge_encoder_in": reader.dense(
            "_encoder._edge_fn.mlp.NN-0", NUM_RADIAL * NUM_ANGULAR, hidden
        ),
        "edge_encoder": rest("_encoder._edge_fn"),
    }
    for k in range(steps):
        layer = f"gnn_stacks.{k}"
        params[f"interaction_{k}"] = {
            # Their edges go from the centre, which sends, to its neighbour, which receives.
            **first_of_three(
                f"{layer}._edge_mlp", ("edge_from_edge", "edge_from_centre", "edge_from_neighbour")
            ),
            "edge": rest(f"{layer}._edge_mlp"),
            **first_of_three(
                f"{layer}._node_mlp",
                ("node_from_node", "node_from_neighbour_sum", "node_from_centre_sum"),
            ),
            "node": rest(f"{layer}._node_mlp"),
            "neighbour_gate": reader.dense(f"{layer}._receive_attn", features, 1),
            "centre_gate": reader.dense(f"{layer}._send_attn", features, 1),
        }
    return params
