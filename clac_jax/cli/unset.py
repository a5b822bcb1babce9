"""Flags that set a key of the config to None, which the parser of flags would take for a text."""

from __future__ import annotations

import re
from collections.abc import Sequence

import ml_collections

_FLAG = re.compile(r"--?config\.([\w.]+)(?:=(.*))?", re.DOTALL)


def without_none(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The flags of a run, and the keys that they set to None.

    Args:
        arguments: the flags as given.

    Returns:
        The flags without those of the keys whose last value is None; and these keys, dotted. A key
        that is never None is not among them: its value is the text "None".
    """
    given: dict[str, list[tuple[range, str]]] = {}
    for place, argument in enumerate(arguments):
        if not (found := _FLAG.fullmatch(argument)):
            continue
        value, words = found[2], range(place, place + 1)
        if value is None and place + 1 < len(arguments):
            value, words = arguments[place + 1], range(place, place + 2)
        given.setdefault(found[1], []).append((words, value or ""))
    if not any(value == "None" for flags in given.values() for _, value in flags):
        return list(arguments), []
    from clac_jax.config.run import all_keys  # takes as long as importing JAX

    keys, left_out = [], set()
    for name, flags in given.items():
        declaration = all_keys().get(name)
        if declaration is None or declaration.default is not None:
            continue
        is_none = flags[-1][1] == "None"
        keys += [name] * is_none
        left_out |= {k for words, value in flags if is_none or value == "None" for k in words}
    return [each for place, each in enumerate(arguments) if place not in left_out], keys


def unset(config: ml_collections.ConfigDict, keys: Sequence[str]) -> None:
    """Sets keys of a config to None."""
    with config.ignore_type():
        config.update_from_flattened_dict(dict.fromkeys(keys))
