"""One training step for ONE device; collectives run over the mapped axis "data"."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from clac_jax.digests.device import by_path, tree_digest
from clac_jax.digests.digest import METRIC_PREFIX
from clac_jax.input_pipeline.batch import Batch
from clac_jax.input_pipeline.example_digest import BATCH_DIGESTS
from clac_jax.training.gradients import BatchGradient, GradientFunction
from clac_jax.training.losses import Loss
from clac_jax.training.state import TrainState
from clac_jax.typing import Array

AXIS = "data"

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


@dataclass(frozen=True)
class EvalStep:
    """One evaluation step for one device, in two halves.

    Attributes:
        forward: (state, batch) -> what the model says of this device's examples; no collectives.
        measure: that -> the result of the step; collectives run over the mapped axis.
    """

    forward: Callable[[TrainState, Batch], Any]
    measure: Callable[[Any], Any]

    def __call__(self, state: TrainState, batch: Batch) -> Any:
        """Both halves."""
        return self.measure(self.forward(state, batch))


def make_train_step(
    trainable: Any,
    schedule: optax.Schedule,
    loss: Loss,
    axis_name: str | None = AXIS,
    digests: bool = False,
) -> TrainStep:
    """`make_gradients` and `make_update` in one function (state, batch) -> (state, metrics)."""
    gradients = make_gradients(trainable, loss, axis_name, digests)
    update = make_update(schedule)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        return update(state, gradients(state, batch))

    return train_step


def make_update(
    schedule: optax.Schedule,
) -> Callable[[TrainState, BatchGradient], tuple[TrainState, dict[str, jax.Array]]]:
    """A function (state, gradients) -> (state, metrics), without collectives.

    The metrics are the terms of the loss, `grad_norm` (before clipping) and `learning_rate`, the
    value of `schedule`.
    """

    def update(
        state: TrainState, gradient: BatchGradient
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        metrics = {
            **{name: term for name, term in gradient.terms.items() if not name.startswith("acc_")},
            "grad_norm": optax.tree.norm(gradient.grads),
            "learning_rate": jnp.asarray(schedule(state.step)) * state.learning_rate_scale,
        }
        after = state.apply_gradients(grads=gradient.grads, batch_stats=gradient.batch_stats)
        return after, metrics

    return update


def make_gradients(
    trainable: Any, loss: Loss, axis_name: str | None = AXIS, digests: bool = False
) -> Callable[[TrainState, Batch], BatchGradient]:
    """A function (state, batch) -> gradient summed over devices; it reads no optimizer state.

    The batch's leaves have a leading accumulation axis A. The gradient and the terms are means over
    the A contrastive batches, each contrasted within itself over all devices. An axis of chunks may
    follow, see `GradientFunction`.

    Args:
        trainable: a tree of booleans like the parameters; no gradient is computed where False.
        loss: the loss to minimize.
        axis_name: mapped axis of the devices, or None on a single device without a map.
        digests: whether the gradient (of the trainable parameters, summed over devices) is
            digested, and the digests of the examples in the batch are summed; they are added to the
            terms, with `METRIC_PREFIX` before their names.
    """

    def gradients(state: TrainState, batch: Batch) -> BatchGradient:
        key = state.step_key()
        gradient = GradientFunction(state.apply_fn, loss, trainable, axis_name)

        def accumulate(carry: Any, inputs: Any) -> tuple[Any, dict[str, jax.Array]]:
            grads, batch_stats = carry
            micro_batch, index = inputs
            micro_grads, batch_stats, terms = gradient(
                state.params, batch_stats, micro_batch, jax.random.fold_in(key, index)
            )
            return (jax.tree.map(jnp.add, grads, micro_grads), batch_stats), terms

        num_micro_batches = batch.example_mask.shape[0]
        if num_micro_batches == 1:
            # Without the loop, which would keep XLA from fusing the sum with the optimizer.
            grads, batch_stats, terms = gradient(
                state.params,
                state.batch_stats,
                jax.tree.map(lambda leaf: leaf[0], batch),
                jax.random.fold_in(key, 0),
            )
        else:
            zeros = jax.tree.map(jnp.zeros_like, state.params)
            (grads, batch_stats), terms = jax.lax.scan(
                accumulate,
                (zeros, state.batch_stats),
                (batch, jnp.arange(num_micro_batches)),
            )
            grads = jax.tree.map(lambda leaf: leaf / num_micro_batches, grads)
            terms = jax.tree.map(jnp.mean, terms)
        if axis_name is not None:
            grads = jax.lax.psum(grads, axis_name)
        if digests:
            words = None if batch.digests is None else digests_of_batch(batch.digests, axis_name)
            terms = {**terms, **digest_terms(grads, trainable, words)}
        return BatchGradient(grads, batch_stats, terms)

    return gradients


def digest_terms(grads: Any, trainable: Any, words: jax.Array | None) -> dict[str, jax.Array]:
    """The digests of a step, as terms of its loss.

    Args:
        grads: the gradient of a step, summed over devices.
        trainable: a tree of booleans like the parameters.
        words: (3, 2) uint32 of `digests_of_batch`, or None.
    """
    trained = {path for path, is_trained in by_path(trainable).items() if is_trained}
    arrays = {path: leaf for path, leaf in by_path(grads).items() if path in trained}
    result = {f"{METRIC_PREFIX}gradients": tree_digest(arrays)}
    if words is not None:
        for number, name in enumerate(BATCH_DIGESTS):
            result[f"{METRIC_PREFIX}{name}"] = words[number]
    return result


def digests_of_batch(digests: Array, axis_name: str | None) -> jax.Array:
    """(..., 3, 2) uint32 of the parts of a batch on this device -> (3, 2) of the entire batch."""
    words = jnp.sum(jnp.asarray(digests).reshape(-1, *digests.shape[-2:]), axis=0)
    return words if axis_name is None else jax.lax.psum(words, axis_name)
