"""The config of a run as an `ml_collections.ConfigDict`, and its JSON form."""

from __future__ import annotations

import json
from typing import Any

import ml_collections
from ml_collections import config_dict

from clac_jax.config.encoders import fill_defaults
from clac_jax.config.key import Group
from clac_jax.config.renamed import upgraded
from clac_jax.config.run import TOWERS, declaration
from clac_jax.config.saving import MONITORS, PROPERTY_MONITORS, RESTORE_PARTS
from clac_jax.errors import ConfigError as ConfigError  # re-exported for callers

__all__ = [
    "MONITORS",
    "PROPERTY_MONITORS",
    "RESTORE_PARTS",
    "TOWERS",
    "ConfigError",
    "default_config",
    "differences",
    "flatten",
    "from_plain",
    "to_json",
    "to_plain",
    "with_defaults",
]


def default_config() -> ml_collections.ConfigDict:
    """All keys of a run at the method's defaults; the config files in `configs/` change some.

    Returns:
        A locked ConfigDict: assigning to a key that does not exist raises `AttributeError`.

    Example:
        >>> config = default_config()
        >>> config.batch_size = 64
        >>> config.graph_encoder.name
        'painn'
    """
    return _defaults(declaration()).lock()


def _defaults(group: Group) -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    for name, member in group.members.items():
        if isinstance(member, Group):
            config[name] = _defaults(member)
        elif member.default is None:
            config[name] = config_dict.placeholder(member.kind)
        else:
            config[name] = member.default
    return config


def from_plain(values: dict[str, Any]) -> ml_collections.ConfigDict:
    """The config that a run has saved, from this version or an earlier one; not checked.

    Args:
        values: nested, from a `config.json` or a checkpoint. Missing keys get their defaults.

    Raises:
        KeyError, AttributeError, TypeError, ValueError: it is not the config of a run.
    """
    config = default_config()
    with config.ignore_type():
        config.update(ml_collections.ConfigDict(upgraded(values)[0]))
    return config


def to_json(config: ml_collections.ConfigDict) -> str:
    """The config as indented JSON text, with sorted keys and tuples as lists."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def to_plain(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The config as a nested dict equal to its parsed JSON form: tuples become lists."""
    values: dict[str, Any] = json.loads(to_json(config))
    return values


def flatten(config: ml_collections.ConfigDict | dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The config as a flat dict from dotted keys ("checkpoint.mode") to plain values."""
    flat: dict[str, Any] = {}
    for key in sorted(config):
        value = config[key]
        if isinstance(value, ml_collections.ConfigDict | dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def with_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """A nested config in which missing keys and keys left to the encoder have their defaults."""

    def merged(known: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        both = {
            key: merged(value, given[key])
            if isinstance(value, dict) and isinstance(given.get(key), dict)
            else given.get(key, value)
            for key, value in known.items()
        }
        return both | {key: value for key, value in given.items() if key not in known}

    complete = merged(to_plain(default_config()), values)
    fill_defaults(complete)
    return complete


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) for each difference of two nested configs, by key.

    A key missing on one side has the value `None` there.
    """
    # Compared via JSON, so that a tuple equals the list it was saved as.
    flat_old, flat_new = (flatten(json.loads(json.dumps(tree))) for tree in (old, new))
    return [
        (key, flat_old.get(key), flat_new.get(key))
        for key in sorted(flat_old.keys() | flat_new.keys())
        if flat_old.get(key) != flat_new.get(key)
    ]
