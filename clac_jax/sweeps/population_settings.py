"""The part `population` of a sweep file, checked."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, NoReturn

from clac_jax.config.effects import FRESH_RUNS, OTHER_EXAMPLES, OTHER_MODEL, OTHER_TASK
from clac_jax.errors import one_line
from clac_jax.sweeps.definition import Definition, SweepFileError
from clac_jax.sweeps.population import Population, wrong_rule
from clac_jax.sweeps.space import Range

FACTORS = (0.8, 1.25)
"""Of numbers, where the file has no `explore`."""

_COUNTS = {"members": 2, "generations": 1, "epochs": 1}  # and the least of each
_DEFAULTS = {"epochs": 1, "exploit": 0.25}
_PARTS = (*_COUNTS, "exploit", "explore")
# Set by the population itself.
_OWN = ("stop_at_epoch", "stop_at_step", "early_stopping_patience", "checkpoint.save_last")
# A member with another value could not take over a member's model or data.
_FIXED = (FRESH_RUNS, OTHER_EXAMPLES, OTHER_MODEL, OTHER_TASK)


def population_of(definition: Definition) -> Population:
    """The population of a complete definition."""
    assert definition.population is not None
    settings = definition.population
    rules = settings["explore"]
    return Population(
        members=settings["members"],
        generations=settings["generations"],
        epochs=settings["epochs"],
        exploit=float(settings["exploit"]),
        explore={name: r if isinstance(r, str) else tuple(r) for name, r in rules.items()},
        space=definition.space,
        mode=definition.mode,
        seed=definition.seed,
    )


def completed(given: Definition) -> dict[str, Any]:
    """The part `population` of a sweep file, with all settings.

    Args:
        given: the file, with its monitor and the conditions of its space.

    Raises:
        SweepFileError: it cannot be used.
    """
    settings = _checked(given)
    settings["explore"] = _explore(given, settings.get("explore"))
    epochs, generations = settings["epochs"], settings["generations"]
    total, wanted = epochs * generations, given.overrides.get("max_epochs")
    if wanted is not None and wanted < total:
        _fail(
            given,
            f"max_epochs is {wanted}, and the population trains {total} epochs ({epochs} in each "
            f"of {generations} generations). Set it to {total} or more, or leave it out.",
        )
    return settings


def _checked(given: Definition) -> dict[str, Any]:
    settings = given.population
    if not isinstance(settings, Mapping):
        _fail(given, f"population is {one_line(repr(settings))}, and must be a dict.")
    settings = {**_DEFAULTS, **settings}
    for name in settings:
        if name not in _PARTS:
            near = difflib.get_close_matches(str(name), _PARTS, n=1)
            advice = f"Did you mean {near[0]!r}?" if near else f"It may have {', '.join(_PARTS)}."
            _fail(given, f"population has {one_line(repr(name))}. {advice}")
    for name, least in _COUNTS.items():
        value = settings.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            what = f"is {one_line(repr(value))}" if name in settings else "is missing"
            _fail(given, f"population: {name} {what}. Give a whole number, {least} or more.")
    share = settings["exploit"]
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 0.5:
        _fail(
            given,
            f"population: exploit is {one_line(repr(share))}. Give a share of the members above 0 "
            "and at most 0.5, such as 0.25.",
        )
    if not given.space:
        _fail(given, 'space is empty. Give at least one key: {"learning_rate": log(1e-5, 1e-2)}.')
    for part in ("prune", "budget"):
        if getattr(given, part):
            _fail(
                given,
                f"it has a population and {part}, which only other sweeps have: members and "
                f"generations say how much is trained. Remove {part}.",
            )
    for name in (*_OWN, "max_epochs"):
        if name in given.space or (name in given.overrides and name != "max_epochs"):
            where = "the space" if name in given.space else "overrides"
            _fail(given, f'"{name}" is in {where}, and a population sets it itself. Remove it.')
    return settings


def _explore(given: Definition, rules: Any) -> dict[str, tuple[float, ...] | str]:
    if rules is None:
        numbers = [name for name, domain in given.space.items() if isinstance(domain, Range)]
        rules = {name: FACTORS for name in numbers if _can_change(name)}
    if not isinstance(rules, Mapping) or not rules:
        _fail(
            given,
            f"population: explore is {one_line(repr(rules))}. Give a dict of keys of the space: "
            'explore=dict(learning_rate=(0.8, 1.25)), or {"loss.name": "resample"}.',
        )
    for name, rule in rules.items():
        if problem := wrong_rule(name, rule, given.space.get(name)):
            _fail(given, f"population: explore: {problem}")
        if not _can_change(name):
            _fail(
                given,
                f'population: explore: "{name}" cannot change from one generation to the next '
                f"({_effect(name)}). Leave it in the space only: each member keeps "
                "its value, or takes that of the member it exploits.",
            )
    return {name: rule if isinstance(rule, str) else tuple(rule) for name, rule in rules.items()}


def _can_change(name: str) -> bool:
    return _effect(name) not in _FIXED


def _effect(name: str) -> str | None:
    from clac_jax.config.run import all_keys  # takes as long as importing JAX

    return all_keys()[name].on_change


def _fail(given: Definition, what: str) -> NoReturn:
    raise SweepFileError(f"{given.file}: {what}")
