"""Conversion of a TrainState to flat arrays by slash path, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from clac_jax.training.state import TrainState


def to_arrays(state: TrainState) -> dict[str, Any]:
    """Slash path -> leaf of the state ("params/logit_scale", "opt_state/...", "step", "key").

    Nodes without arrays (optax's empty states, frozen leaves) have no path.
    """
    return {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(state)}


def from_arrays(template: TrainState, arrays: Mapping[str, Any]) -> TrainState:
    """The state with the template's structure and these leaves.

    Args:
        template: a state, or its shapes (`jax.eval_shape`).
        arrays: a leaf for every path of `to_arrays(template)`.

    Raises:
        KeyError: a leaf is missing.
    """
    state: TrainState = jax.tree.map_with_path(lambda path, _: arrays[_name(path)], template)
    return state


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
