"""A sweep file checked against the declared config keys, and completed from its config."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections
import numpy as np

from clac_jax.config.check import check_value, ready, unknown, validate
from clac_jax.config.key import Key
from clac_jax.config.run import all_keys
from clac_jax.config.saving import MONITORS, PROPERTY_MONITORS
from clac_jax.config.schema import flatten
from clac_jax.config.shipped import config_named
from clac_jax.errors import UserError, one_line
from clac_jax.sweeps.definition import Definition, SweepFileError
from clac_jax.sweeps.population_settings import completed
from clac_jax.sweeps.space import Choice, Domain, Range, is_active, ordered

EXAMINED = 20  # random points of the space, at which the entire config is checked


def complete(given: Definition) -> Definition:
    """The definition with its monitor and its conditions; everything in it can be used.

    Raises:
        SweepFileError: a key is unknown, or a value of the space cannot be used.
        ConfigError: the config itself cannot be used.
    """
    config = config_named(given.config)
    keys = all_keys()
    for name in (*given.space, *given.overrides):
        _check_name(name, keys, given)
    for name, value in given.overrides.items():
        with _in_file(given, f'the override of "{name}"'):
            check_value(name, value, keys[name])
    for name, domain in given.space.items():
        _check_domain(name, domain, keys[name], given)
    config = with_values(config, given.overrides)
    with _in_file(given, "the config with the overrides"):
        flat = flatten(ready(config))
    space = {name: _conditional(name, given, flat, keys) for name in given.space}
    given = dataclasses.replace(given, space=space)
    given = _with_monitor(given, config)
    if given.population is not None:
        given = dataclasses.replace(given, population=completed(given))
    elif "max_epochs" not in given.space:  # a trial's last epoch is known without its config
        overrides = {**given.overrides, "max_epochs": config.max_epochs}
        given = dataclasses.replace(given, overrides=overrides)
    if given.prune is not None:
        _check_pruner(given, config.max_epochs)
    _examine(given, config)
    return given


def with_values(config: ml_collections.ConfigDict, values: Mapping[str, Any]) -> Any:
    """A copy of a config with some values changed, by dotted key."""
    config = config.copy_and_resolve_references()
    with config.ignore_type():
        config.update_from_flattened_dict(dict(values))
    return config


def values_at(space: Mapping[str, Domain], shares: Mapping[str, float]) -> dict[str, Any]:
    """The values of the keys that have an effect, at a point of a space.

    Args:
        space: the space of a completed definition.
        shares: position in each domain, from 0 to 1.
    """
    values: dict[str, Any] = {}
    for name in ordered(space):
        if is_active(space[name], values):
            values[name] = space[name].at(shares[name])
    return values


@contextlib.contextmanager
def _in_file(given: Definition, what: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise SweepFileError(f"{given.file}: {what} cannot be used. {error}") from error


def _check_name(name: str, keys: Mapping[str, Key], given: Definition) -> None:
    if name not in keys:
        raise SweepFileError(f"{given.file}: {unknown(name, list(keys))}")


def _check_domain(name: str, domain: Domain, key: Key, given: Definition) -> None:
    if isinstance(domain, Range):
        if key.kind not in (int, float):
            raise SweepFileError(
                f'{given.file}: the space of "{name}" is a range of numbers, and the key takes '
                "none. Write choice(A, B, ...)."
            )
        if key.kind is int and not domain.is_integer:
            raise SweepFileError(
                f'{given.file}: the space of "{name}" has fractions, and the key takes '
                f"integers. Write integer({math.ceil(domain.low)}, {math.floor(domain.high)})."
            )
    values = domain.values if isinstance(domain, Choice) else (domain.low, domain.high)
    for value in values:
        with _in_file(given, f'the space of "{name}"'):
            check_value(name, value, key)


def _conditional(
    name: str, given: Definition, flat: Mapping[str, Any], keys: Mapping[str, Key]
) -> Domain:
    """A domain whose conditions name only keys of the space; others are met by the config.

    A key that is declared to have an effect only with some value of a second one depends on that,
    whether the file says so or not.

    Raises:
        SweepFileError: the key never has an effect.
    """
    domain, when = given.space[name], {}
    for parent, wanted in {**_declared(keys[name], given), **domain.when}.items():
        _check_name(parent, keys, given)
        options = wanted if isinstance(wanted, list) else [wanted]
        if parent in given.space:
            is_met = any(given.space[parent].contains(option) for option in options)
            when[parent] = options  # JSON would make alternatives of the members of a tuple
        else:
            is_met = is_active(Choice((), {parent: wanted}), flat)
        if not is_met:
            has = (
                "its space has none of them"
                if parent in given.space
                else (f"the config has {flat[parent]!r}")
            )
            values = " or ".join(repr(option) for option in options)
            raise SweepFileError(
                f'{given.file}: "{name}" has an effect only where "{parent}" is {values}, and '
                f'{has}. Set "{parent}" in overrides or in the space, or remove "{name}".'
            )
    return dataclasses.replace(domain, when=when)


def _declared(key: Key, given: Definition) -> dict[str, list[Any]]:
    """The condition under which a key has an effect, from its declaration."""
    parent, _, text = (key.used_with or "").partition("=")
    if not parent:
        return {}
    options: list[Any] = list(text.split(","))
    domain = given.space.get(parent)
    if isinstance(domain, Choice):
        options = [value for value in domain.values if str(value) in options] or options
    return {parent: [_BOOLS.get(option, option) for option in options]}


_BOOLS = {"True": True, "False": False}


def _with_monitor(given: Definition, config: ml_collections.ConfigDict) -> Definition:
    """The definition with a monitor, its mode, and a config whose checkpoints are ranked by it."""
    is_property = config.task == "property"
    monitors = PROPERTY_MONITORS[config.property.kind] if is_property else MONITORS
    monitor = given.monitor or config.checkpoint.monitor
    if monitor not in monitors:
        raise SweepFileError(
            f"{given.file}: monitor is {one_line(repr(monitor))}, which is not measured in a "
            f"validation of the task {config.task}. Give one of {', '.join(monitors)}."
        )
    mode = given.mode or (
        config.checkpoint.mode
        if monitor == config.checkpoint.monitor
        else "min"
        if monitor in ("val_loss", "val_mae")
        else "max"
    )
    own = {"checkpoint.monitor": monitor, "checkpoint.mode": mode}
    as_in_config = (config.checkpoint.monitor, config.checkpoint.mode) == (monitor, mode)
    overrides = dict(given.overrides) if as_in_config else {**own, **given.overrides}
    return dataclasses.replace(given, monitor=monitor, mode=mode, overrides=overrides)


def _check_pruner(given: Definition, epochs: int) -> None:
    """Builds the pruner once: what Optuna does not take is known before a trial starts."""
    from clac_jax.sweeps.pruning import pruner_of  # which imports what runs the trials

    try:
        pruner_of(given, epochs)
    except ValueError as error:
        raise SweepFileError(
            f"{given.file}: prune {given.prune} cannot be used: {one_line(error)}."
        ) from error


def _examine(given: Definition, config: ml_collections.ConfigDict) -> None:
    """Checks the entire config at random points of the space."""
    generator = np.random.default_rng(given.seed)
    for _ in range(EXAMINED if given.space else 0):
        shares = dict(zip(given.space, generator.random(len(given.space)), strict=True))
        values = values_at(given.space, shares)
        shown = ", ".join(f"{name}={value!r}" for name, value in values.items())
        with _in_file(given, f"the trial with {shown}"):
            validate(with_values(config, values))
