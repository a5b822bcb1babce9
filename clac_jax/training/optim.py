"""Optimizers built from a config."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax

from clac_jax.config.adapters import frozen_patterns, is_adapter
from clac_jax.errors import ConfigError

Params = Any


def parameter_paths(params: Params) -> Params:
    """A tree like `params` whose leaves are slash paths ("text_encoder/layer_0/query/kernel")."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "/".join(str(getattr(entry, "key", entry)) for entry in path), params
    )


def trainable_mask(params: Params, frozen: Sequence[str]) -> Params:
    """A tree of booleans: False where a regex in `frozen` matches a full parameter path.

    Raises:
        ConfigError: a regex matches no parameter.
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


def trainable_parameters(config: ml_collections.ConfigDict, params: Params) -> Params:
    """A tree of booleans like `params`: what the config trains; see `frozen_patterns`.

    Raises:
        ConfigError: a regex in `frozen` matches no parameter, or freezes all adapters.
    """
    mask = trainable_mask(params, frozen_patterns(config))
    pairs = zip(jax.tree.leaves(parameter_paths(params)), jax.tree.leaves(mask), strict=True)
    adapters = [is_trained for path, is_trained in pairs if is_adapter(path)]
    if adapters and not any(adapters):
        raise ConfigError(
            f'Config key "frozen" is {tuple(config.frozen)!r}, which freezes all adapters of the '
            "text encoder (text_encoder.lora). Leave the text encoder out of it: its own weights "
            "are frozen anyway."
        )
    return mask


def make_optimizer(
    config: ml_collections.ConfigDict, params: Params, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """The optimizer for the trainable parameters, after clipping by global norm.

    Adam (Kingma and Ba, 2015), AdamW (Loshchilov and Hutter, 2019), SGD with momentum, Lion (Chen
    et al., 2023). Weight decay acts on matrices and higher-rank tensors, not on biases, scales and
    temperatures, unless `optimizer.weight_decays` says otherwise. It is added to the gradient in
    Adam and SGD, and to the update in AdamW and Lion. Frozen parameters have no optimizer state
    and are never updated.

    Raises:
        ConfigError: a regex in `frozen`, `optimizer.learning_rate_factors` or
            `optimizer.weight_decays` matches nothing.
    """
    options = config.optimizer
    decays = _weight_decays(config, params)
    decay, has_decay = _add_decayed_weights(decays), any(decays.values())
    # Named, so that removing one part does not move the others' state in a checkpoint.
    steps: list[tuple[str, optax.GradientTransformation]] = []
    if config.gradient_clip:
        steps.append(("clip", optax.clip_by_global_norm(config.gradient_clip)))
    if has_decay and options.name in ("adam", "sgd"):
        steps.append(("weight_decay", decay))
    if options.name in ("adam", "adamw"):
        steps.append(("adam", scale_by_adam(options.b1, options.b2, options.eps)))
    elif options.name == "sgd":
        steps.append(("momentum", optax.trace(options.momentum)))
    else:
        steps.append(("lion", optax.scale_by_lion(b1=options.b1, b2=options.b2)))
    if has_decay and options.name in ("adamw", "lion"):
        steps.append(("weight_decay", decay))
    if options.learning_rate_factors:
        factors = _scale_by_factors(
            _first_match(
                params, "optimizer.learning_rate_factors", options.learning_rate_factors, 1.0
            )
        )
        steps.append(("learning_rate_factors", factors))
    steps.append(("learning_rate", optax.scale_by_learning_rate(schedule)))
    return optax.masked(optax.named_chain(*steps), trainable_parameters(config, params))


class AdamState(NamedTuple):
    """Adam's state per parameter: three trees like the parameters.

    Attributes:
        count: () int32, number of updates in the moments.
        mu: running mean of the gradient, before bias correction.
        nu: running mean of the squared gradient, before bias correction.
    """

    count: Params
    mu: Params
    nu: Params


def scale_by_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam's direction, with a step count per parameter.

    When all counts are equal, it is bitwise identical to `optax.scale_by_adam`, which has a single
    count. Bias correction compensates for moments that start at zero, so it must know when each
    moment started. If a run is changed midway, that differs between parameters: those unfrozen at
    step 2,000, or retrained from scratch, start there. With one count for all, their first updates
    would be 3 to 6 times too large.
    """

    def init(params: Params) -> AdamState:
        count = jax.tree.map(lambda _: jnp.zeros((), jnp.int32), params)
        return AdamState(count, optax.tree.zeros_like(params), optax.tree.zeros_like(params))

    def update(
        updates: Params, state: Any, params: Params | None = None
    ) -> tuple[Params, AdamState]:
        del params
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2)
        count = jax.tree.map(optax.safe_increment, state.count)

        def direction(count: jax.Array, mu: jax.Array, nu: jax.Array) -> jax.Array:
            step: jax.Array = _corrected(mu, b1, count)
            return step / (jnp.sqrt(_corrected(nu, b2, count)) + eps)

        return jax.tree.map(direction, count, mu, nu), AdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


@functools.partial(jax.jit, inline=True)
def _corrected(moment: jax.Array, decay: float, count: jax.Array) -> jax.Array:
    """A running mean that started at zero, divided by its total weight after `count` updates."""
    # XLA turns a division by a scalar used once into a product with its inverse, which rounds
    # differently; division by an array stays a division. The added term is 0 if moments are finite.
    return moment / ((1 - decay**count).astype(moment.dtype) + 0 * moment)


def _first_match(
    params: Params, key: str, rules: Sequence[tuple[str, float]], otherwise: float | None
) -> dict[str, Any]:
    """For each parameter path, the number of the first rule whose regex matches all of it."""
    paths = jax.tree.leaves(parameter_paths(params))
    for pattern, _ in rules:
        if not any(re.fullmatch(pattern, path) for path in paths):
            raise ConfigError(
                f'Config key "{key}" has {pattern!r}, which matches no parameter. '
                f"A path looks like {paths[0]!r}."
            )
    return {
        path: next((number for pattern, number in rules if re.fullmatch(pattern, path)), otherwise)
        for path in paths
    }


def _weight_decays(config: ml_collections.ConfigDict, params: Params) -> dict[str, float]:
    chosen = _first_match(params, "optimizer.weight_decays", config.optimizer.weight_decays, None)
    leaves = zip(jax.tree.leaves(parameter_paths(params)), jax.tree.leaves(params), strict=True)
    usual = {path: config.weight_decay if leaf.ndim >= 2 else 0.0 for path, leaf in leaves}
    return {path: usual[path] if decay is None else decay for path, decay in chosen.items()}


def _add_decayed_weights(decays: dict[str, float]) -> optax.GradientTransformation:
    """Adds to each update its parameter times the decay of its path."""

    def update(updates: Params, params: Params | None = None) -> Params:
        return jax.tree.map(
            lambda leaf, path, param: leaf + decays[path] * param if decays[path] else leaf,
            updates,
            parameter_paths(updates),
            params,
        )

    return optax.stateless(update)


def _scale_by_factors(factors: dict[str, float]) -> optax.GradientTransformation:
    """Multiplies each update by the factor for its path (frozen leaves are absent here)."""

    def update(updates: Params, params: Params | None = None) -> Params:
        del params
        return jax.tree.map(
            lambda leaf, path: leaf * factors[path], updates, parameter_paths(updates)
        )

    return optax.stateless(update)
