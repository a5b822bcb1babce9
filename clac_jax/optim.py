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

    Linear warm-up from 0 over `warmup_steps`, then constant (which the plateau schedule lowers
    from outside), or a cosine that reaches `min_learning_rate` at `total_steps`.
    """
    warmup = min(config.warmup_steps, total_steps)
    if config.schedule in ("constant", "plateau"):
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
    """The optimizer behind a global-norm clip, for the trainable parameters.

    Adam (Kingma and Ba, 2015), AdamW (Loshchilov and Hutter, 2019), SGD with momentum, Lion (Chen
    et al., 2023). Weight decay acts on matrices and higher tensors, not on biases, scales and
    temperatures; it is added to the gradient in Adam and SGD, to the update in AdamW and Lion.
    Frozen parameters have no optimizer state and no update.

    Raises:
        ConfigError: for a regex in `frozen` or `optimizer.learning_rate_factors` that matches
            nothing.
    """
    options = config.optimizer
    decay = optax.add_decayed_weights(config.weight_decay, mask=_is_matrix)
    # Named, so that a part of the state keeps its place in a checkpoint when another one goes.
    steps: list[tuple[str, optax.GradientTransformation]] = []
    if config.gradient_clip:
        steps.append(("clip", optax.clip_by_global_norm(config.gradient_clip)))
    if config.weight_decay and options.name in ("adam", "sgd"):
        steps.append(("weight_decay", decay))
    if options.name in ("adam", "adamw"):
        adam = optax.scale_by_adam(b1=options.b1, b2=options.b2, eps=options.eps)
        steps.append(("adam", adam))
    elif options.name == "sgd":
        steps.append(("momentum", optax.trace(options.momentum)))
    else:
        steps.append(("lion", optax.scale_by_lion(b1=options.b1, b2=options.b2)))
    if config.weight_decay and options.name in ("adamw", "lion"):
        steps.append(("weight_decay", decay))
    if options.learning_rate_factors:
        factors = _scale_by_factors(_factors(params, options.learning_rate_factors))
        steps.append(("learning_rate_factors", factors))
    steps.append(("learning_rate", optax.scale_by_learning_rate(schedule)))
    return optax.masked(optax.named_chain(*steps), trainable_mask(params, config.frozen))


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
