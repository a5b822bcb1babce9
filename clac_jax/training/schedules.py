"""Learning rate as a function of the optimizer step."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from clac_jax.training.progress import RunProgress


@dataclass(frozen=True)
class Timeline:
    """The mapping from optimizer steps to epochs.

    Attributes:
        total_steps: number of steps at the end of the run, including those done.
        steps_per_epoch: optimizer updates in a full epoch.
        offset: steps done in excess of `steps_per_epoch` times the epochs done; nonzero after the
            batch size has changed in mid-run.
    """

    total_steps: int
    steps_per_epoch: int
    offset: int = 0


def timeline_of(
    config: ml_collections.ConfigDict, num_examples: int, progress: RunProgress
) -> Timeline:
    """The timeline of a run, seen from a position in it.

    Args:
        config: the run's config from here on.
        num_examples: number of examples in the training split.
        progress: current position of the run.
    """
    examples_per_step = config.batch_size * config.accumulate_steps
    steps_per_epoch = num_examples // examples_per_step
    epochs_left = config.max_epochs - progress.epoch
    if epochs_left <= 0:
        return Timeline(progress.step, steps_per_epoch)
    in_this_one = (num_examples - progress.examples_in_epoch) // examples_per_step
    next_epoch_begins = progress.step + in_this_one
    return Timeline(
        total_steps=next_epoch_begins + (epochs_left - 1) * steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
        offset=next_epoch_begins - (progress.epoch + 1) * steps_per_epoch,
    )


def after_plateau(
    config: ml_collections.ConfigDict, progress: RunProgress, value: float
) -> RunProgress:
    """The progress after the plateau schedule has seen the monitored value of a validation."""
    options = config.plateau
    peak, floor = config.learning_rate, config.min_learning_rate
    min_scale = floor / peak if floor < peak else 1.0  # both may be 0
    return progress.after_plateau(
        value, config.checkpoint.mode, options.factor, options.patience, min_scale
    )


def make_schedule(config: ml_collections.ConfigDict, timeline: Timeline) -> optax.Schedule:
    """Learning rate as a function of the optimizer step.

    - "constant" stays at the peak; so does "plateau", which is lowered from outside.
    - "cosine" reaches `min_learning_rate` at the end of the run, or after `cosine.epochs`, after
      which it rises again (Loshchilov and Hutter, 2017, without the restart; PyTorch's
      CosineAnnealingLR).
    - "cosine_restarts" reaches it after `cosine.epochs` and jumps back up; each period is
      `cosine.factor` times as long as the previous one (CosineAnnealingWarmRestarts).
    - "one_cycle" rises and falls once, each as half a cosine (Smith and Topin, 2019).

    The phase of a schedule is the share of epochs done, so a new batch size in mid-run, which
    changes the number of remaining steps, continues from the same phase. With `schedule_unit` =
    "epoch", the rate stays at its value at the start of the epoch, as in the reference. The linear
    warm-up over `warmup_steps` steps precedes a constant rate or a cosine over the run, and scales
    the start of the other schedules.
    """
    peak, floor = config.learning_rate, min(config.min_learning_rate, config.learning_rate)
    per_epoch = config.schedule_unit == "epoch"
    in_one_epoch = 1 if per_epoch else timeline.steps_per_epoch
    warmup = min(config.warmup_steps, timeline.total_steps)
    # The cosine over the run starts where the warm-up ends (at the current batch size).
    begins_late = config.schedule == "cosine" and not config.cosine.epochs and not per_epoch
    delay = warmup if begins_late else 0
    total = config.max_epochs if per_epoch else timeline.total_steps - timeline.offset
    run_length = total - delay
    shape = _shape(config, peak, floor, in_one_epoch, max(run_length, 1))

    def schedule(step: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
        # Number of steps done by now if all had been like the remaining ones.
        count = jnp.asarray(step) - timeline.offset
        if per_epoch:
            count = count // timeline.steps_per_epoch
        rate = shape(jnp.maximum(count - delay, 0))
        if not warmup:
            return rate
        # Nonzero from the first step on: a step with learning rate 0 would waste a batch.
        return rate * jnp.minimum((jnp.asarray(step) + 1) / (warmup + 1), 1.0)

    return schedule


def _shape(
    config: ml_collections.ConfigDict, peak: float, floor: float, in_one_epoch: int, run_length: int
) -> optax.Schedule:
    """The schedule without warm-up, by a count that grows by `in_one_epoch` per epoch."""
    if config.schedule in ("constant", "plateau"):
        return optax.constant_schedule(peak)
    if config.schedule == "one_cycle":
        options = config.one_cycle
        rise = max(options.rise * run_length, 1)
        start, end = peak * options.start_factor, peak * options.end_factor
        return optax.join_schedules(
            [
                lambda count: _cosine(start, peak, count / rise),
                lambda count: _cosine(peak, end, jnp.minimum(count / max(run_length - rise, 1), 1)),
            ],
            [rise],
        )
    if config.schedule == "cosine":
        period = config.cosine.epochs * in_one_epoch
        if period:
            return lambda count: _cosine(peak, floor, count / period)
        return lambda count: _cosine(peak, floor, jnp.minimum(count / run_length, 1))
    first = max(config.cosine.epochs, 1 / in_one_epoch)  # at least one step
    begins = in_one_epoch * _restarts(first, config.cosine.factor, run_length / in_one_epoch)

    def restarts(count: jax.typing.ArrayLike) -> jax.Array:
        count = jnp.asarray(count)
        begin = jnp.asarray(begins, jnp.float32)
        period = jnp.searchsorted(begin, count.astype(jnp.float32), side="right") - 1
        length = begin[period + 1] - begin[period]
        return _cosine(peak, floor, (count - begin[period]) / length)

    return restarts


def _cosine(start: float, end: float, progress: jax.Array) -> jax.Array:
    """From `start` at progress 0 to `end` at 1."""
    return end + (start - end) * 0.5 * (1 + jnp.cos(jnp.pi * progress))


def _restarts(first: float, factor: float, until: float) -> np.ndarray:
    """The epochs at which each period starts, as far as the run needs them."""
    begins, length = [0.0], first
    while begins[-1] <= until:
        begins.append(begins[-1] + length)
        length *= factor
    return np.array(begins)
