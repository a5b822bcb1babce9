"""A TrainState as a nested dict of named arrays without a device axis, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from flax import serialization, traverse_util

from clac_jax.errors import UserError
from clac_jax.train_state import TrainState

Tree = dict[str, Any]


class TreeMismatchError(UserError):
    """The arrays of a checkpoint are not those of the model."""


def to_tree(state: TrainState) -> Tree:
    """The state as nested dicts of NumPy arrays.

    The first keys are "params", "opt_state", "batch_stats", "step" and "key". The arrays are
    copies, so a later step that donates its buffers cannot change them. Empty nodes (optax states
    without arrays, frozen leaves) are left out.
    """
    flat = traverse_util.flatten_dict(serialization.to_state_dict(state))
    return traverse_util.unflatten_dict({path: np.array(leaf) for path, leaf in flat.items()})


def from_tree(template: TrainState, tree: Tree) -> TrainState:
    """The state with the template's structure and the tree's arrays.

    Raises:
        TreeMismatchError: a leaf is missing, left over, or of another shape; every one is named.
    """
    target = traverse_util.flatten_dict(
        serialization.to_state_dict(template), keep_empty_nodes=True
    )
    saved = traverse_util.flatten_dict(tree)
    wanted = {p: leaf for p, leaf in target.items() if leaf is not traverse_util.empty_node}
    problems = [f"{_name(p)}: not in the checkpoint" for p in wanted.keys() - saved.keys()]
    problems += [f"{_name(p)}: not in the model" for p in saved.keys() - wanted.keys()]
    problems += [
        f"{_name(p)}: {saved[p].shape} in the checkpoint, {np.shape(wanted[p])} in the model"
        for p in wanted.keys() & saved.keys()
        if np.shape(saved[p]) != np.shape(wanted[p])
    ]
    if problems:
        listed = "\n  ".join(sorted(problems))
        raise TreeMismatchError(
            f"The checkpoint does not fit the model in {len(problems)} places:\n  {listed}\n"
            "Use the config of the run (config.json in its workdir), or a new workdir."
        )
    filled = {p: saved[p] if p in wanted else leaf for p, leaf in target.items()}
    return serialization.from_state_dict(template, traverse_util.unflatten_dict(filled))


def _name(path: tuple[str, ...]) -> str:
    return "/".join(path)
