"""The state of a training run: what a step changes and a checkpoint holds."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.training import train_state


class TrainState(train_state.TrainState):
    """Flax's TrainState (step, params, opt_state; apply_fn and tx are static) and two more.

    Attributes:
        batch_stats: running statistics of the batch norms, a tree like Flax's collection.
        key: (2,) uint32, the run's PRNG key; a step folds `step` into it and never changes it.
    """

    batch_stats: Any
    key: jax.Array


def create_train_state(
    apply_fn: Any,
    variables: dict[str, Any],
    tx: optax.GradientTransformation,
    seed: int,
) -> TrainState:
    """A state at step 0.

    Args:
        apply_fn: the model's `apply`.
        variables: Flax variables with "params" and, where the model has any, "batch_stats".
        tx: the optimizer.
        seed: of the run; dropout and other randomness on the device derive from it.
    """
    state = TrainState.create(
        apply_fn=apply_fn,
        params=variables["params"],
        tx=tx,
        batch_stats=variables.get("batch_stats", {}),
        key=jax.random.PRNGKey(seed),
    )
    return state.replace(step=jnp.zeros((), jnp.int32))
