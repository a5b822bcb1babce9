"""The state of a training run: what a step updates and a checkpoint holds."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.training import train_state

from clac_jax.training.ema import Averaging, averaged_params


class TrainState(train_state.TrainState):
    """Flax's TrainState (step, params, opt_state; apply_fn and tx are static) with extra fields.

    Attributes:
        batch_stats: running statistics of the batch norms, a tree like Flax's collection.
        key: (2,) uint32, the words of the run's PRNG key, as stored in checkpoints. A step never
            changes them; it derives its typed key from them, see `step_key`.
        learning_rate_scale: () float32, current factor on the learning rate; initially 1.
        ema: average of the trained parameters, a tree like `params` without the frozen ones; None
            if there is none.
        averaging: static, how it is updated.
    """

    batch_stats: Any
    key: jax.Array
    learning_rate_scale: jax.Array
    ema: Any = None
    averaging: Averaging | None = flax.struct.field(pytree_node=False, default=None)

    def step_key(self) -> jax.Array:
        """(), the typed PRNG key of the next step: the run's key with `step` folded in."""
        return jax.random.fold_in(jax.random.wrap_key_data(self.key), self.step)

    def model_only(self) -> TrainState:
        """The state with only its parameters and batch statistics; the other fields are None."""
        model: TrainState = self.replace(
            step=None, opt_state=None, key=None, learning_rate_scale=None, ema=None
        )
        return model

    def evaluated(self, use_average: bool) -> TrainState:
        """The state to evaluate, without an average of its own.

        Args:
            use_average: whether its parameters are the average, if there is one.
        """
        params = self.params
        if use_average and self.ema is not None:
            params = averaged_params(self.ema, params)
        state: TrainState = self.replace(params=params, ema=None)
        return state

    def apply_gradients(self, *, grads: Any, **changes: Any) -> TrainState:
        """The state after one update, with other fields replaced as given."""
        updates, opt_state = self.tx.update(grads, self.opt_state, self.params)
        scaled = jax.tree.map(lambda update: self.learning_rate_scale * update, updates)
        params = optax.apply_updates(self.params, scaled)
        if self.averaging is not None:
            changes["ema"] = self.averaging.update(self.ema, params, jnp.asarray(self.step))
        return self.replace(step=self.step + 1, params=params, opt_state=opt_state, **changes)


def create_train_state(
    apply_fn: Any,
    variables: dict[str, Any],
    tx: optax.GradientTransformation,
    seed: int,
) -> TrainState:
    """A state at step 0.

    Args:
        apply_fn: the model's `apply`.
        variables: Flax variables with "params" and, if the model has any, "batch_stats".
        tx: the optimizer.
        seed: the run's seed, from which dropout and other on-device randomness derive.
    """
    state: TrainState = TrainState.create(  # type: ignore[no-untyped-call]  # Flax's base class
        apply_fn=apply_fn,
        params=variables["params"],
        tx=tx,
        batch_stats=variables.get("batch_stats", {}),
        key=jax.random.key_data(jax.random.key(seed)),
        learning_rate_scale=jnp.ones((), jnp.float32),
    )
    state = state.replace(step=jnp.zeros((), jnp.int32))
    return state


def with_average(state: TrainState, averaging: Averaging | None, trainable: Any) -> TrainState:
    """The state with an average that begins at its parameters.

    Args:
        state: a state without one.
        averaging: how it is updated; None for no average.
        trainable: a tree of booleans like the parameters.
    """
    if averaging is None:
        return state
    ema = averaging.begin(state.params, trainable)
    averaged: TrainState = state.replace(ema=ema, averaging=averaging)
    return averaged
