"""Optimizers and learning-rate schedules from a config."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import optax

from clac_jax.config import ConfigError

Params = Any


def parameter_paths(params: Params) -> Params:
    """A tree like `params` whose leaves are slash paths ("text_encoder/layer_0/query/kernel")."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "/".join(str(getattr(entry, "key", entry)) for entry in path), params
    )


def trainable_mask(params: Params, frozen: Sequence[str]) -> Params:
    """A tree of booleans: False where a regex of `frozen` matches the whole parameter path.

    Raises:
        ConfigError: for a regex that matches no parameter.
    """
    paths = parameter_paths(params)
    for pattern in frozen:
        if not any(re.fullmatch(pattern, path) for path in jax.tree.leaves(paths)):
            raise ConfigError(
                f'Config key "frozen" has {pattern!r}, which matches no parameter. '
                "The start-up summary lists the modules; a path looks like "
                f"{jax.tree.leaves(paths)[0]!r}."
            )
    return jax.tree.map(
        lambda path: not any(re.fullmatch(pattern, path) for pattern in frozen), paths
    )


def make_schedule(config: ml_collections.ConfigDict, total_steps: int) -> optax.Schedule:
    """Learning rate as a function of the optimizer step.

    Linear warm-up from 0 over `warmup_steps`, then constant, or a cosine that reaches
    `min_learning_rate` at `total_steps`.
    """
    warmup = min(config.warmup_steps, total_steps)
    if config.schedule == "constant":
        main = optax.constant_schedule(config.learning_rate)
    else:
        main = optax.cosine_decay_schedule(
            config.learning_rate,
            max(total_steps - warmup, 1),
            alpha=min(config.min_learning_rate / config.learning_rate, 1.0)
            if config.learning_rate
            else 0.0,
        )
    if not warmup:
        return main
    # From the first step on: a step with learning rate 0 would be a wasted batch.
    rising = optax.linear_schedule(
        config.learning_rate / (warmup + 1), config.learning_rate, warmup
    )
    return optax.join_schedules([rising, main], [warmup])


def make_optimizer(
    config: ml_collections.ConfigDict, params: Params, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter, 2019) behind a global-norm clip, for the trainable parameters.

    Weight decay acts on matrices and higher tensors, not on biases, scales and temperatures.
    Frozen parameters have no optimizer state and no update.

    Raises:
        ConfigError: for a regex in `frozen` or `optimizer.learning_rate_factors` that matches
            nothing.
    """
    options = config.optimizer
    steps = []
    if config.gradient_clip:
        steps.append(optax.clip_by_global_norm(config.gradient_clip))
    steps.append(optax.scale_by_adam(b1=options.b1, b2=options.b2, eps=options.eps))
    if config.weight_decay:
        steps.append(optax.add_decayed_weights(config.weight_decay, mask=_is_matrix))
    if options.learning_rate_factors:
        steps.append(_scale_by_factors(_factors(params, options.learning_rate_factors)))
    steps.append(optax.scale_by_learning_rate(schedule))
    return optax.masked(optax.chain(*steps), trainable_mask(params, config.frozen))


def _is_matrix(params: Params) -> Params:
    return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)


def _factors(params: Params, rules: Sequence[tuple[str, float]]) -> dict[str, float]:
    paths = jax.tree.leaves(parameter_paths(params))
    for pattern, _ in rules:
        if not any(re.fullmatch(pattern, path) for path in paths):
            raise ConfigError(
                f'Config key "optimizer.learning_rate_factors" has {pattern!r}, which matches no '
                f"parameter. A path looks like {paths[0]!r}."
            )
    return {
        path: next((factor for pattern, factor in rules if re.fullmatch(pattern, path)), 1.0)
        for path in paths
    }


def _scale_by_factors(factors: dict[str, float]) -> optax.GradientTransformation:
    """Multiplies each update by the factor of its path (frozen leaves are absent here)."""

    def update(updates: Params, params: Params | None = None) -> Params:
        del params
        return jax.tree.map(
            lambda leaf, path: leaf * factors[path], updates, parameter_paths(updates)
        )

    return optax.stateless(update)
