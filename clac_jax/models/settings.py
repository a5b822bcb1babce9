"""Settings of encoders and losses: how they are read from a config group."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import ml_collections

from clac_jax.errors import UserError, one_line

Settings = TypeVar("Settings")


class ModelError(UserError, ValueError):
    """A config requests a model that does not exist or does not fit its weights."""


def settings_of(
    kind: type[Settings], values: Mapping[str, Any] | ml_collections.ConfigDict
) -> Settings:
    """The settings of one kind of encoder or loss, picked by name from a config group.

    The group holds the settings of every kind; those of the other kinds are ignored.

    Args:
        kind: frozen dataclass.
        values: name -> value. A missing name, or None where the config leaves the value to the
            encoder, means the default of the field.

    Raises:
        ValueError: the dataclass rejects a value.
    """
    names = [each.name for each in dataclasses.fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: values[name] for name in names if values.get(name) is not None})


def kind_named(table: Mapping[str, type[Settings]], name: Any, key: str) -> type[Settings]:
    """The entry with a given name in a table of encoders or losses.

    Raises:
        ModelError: no entry has that name; the message lists the available ones.
    """
    if name not in table:
        *first, last = table
        known = f"{', '.join(first)} or {last}" if first else last
        raise ModelError(f"{key} = {one_line(repr(name))} is unknown. Use {known}.")
    return table[name]
