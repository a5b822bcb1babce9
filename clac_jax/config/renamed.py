"""Config keys renamed since earlier versions: one table, applied to every saved config."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Renamed:
    """A key that has been renamed.

    Attributes:
        old: former dotted name.
        new: current dotted name.
        version: first version with the new name.
        is_used: nested old config -> whether the old key had an effect in that run; if it had
            none, the new key keeps its value.
    """

    old: str
    new: str
    version: str
    is_used: Callable[[Mapping[str, Any]], bool] = lambda config: True

    def __str__(self) -> str:
        return (
            f'Config key "{self.old}" is called "{self.new}" since version {self.version}. '
            f'Set "{self.new}" instead.'
        )


def _had_its_own_cutoff(config: Mapping[str, Any]) -> bool:
    return config["graph_encoder"].get("name") in ("cgcnn", "orb")


RENAMED = (
    # `cutoff` was the radius of PaiNN's graph, `graph_cutoff` that of CGCNN's and ORB's graphs.
    Renamed("graph_encoder.graph_cutoff", "graph_encoder.cutoff", "0.2.0", _had_its_own_cutoff),
)


def upgraded(config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A saved config of any version, converted to the keys of this version.

    Args:
        config: nested; values of any type, as a file may hold them. Not modified.

    Returns:
        The converted config, and one line for each renamed key that had an effect.
    """
    config, lines = copy.deepcopy(config), []
    for each in RENAMED:
        (*groups, old), (*new_groups, new) = each.old.split("."), each.new.split(".")
        source, target = _below(config, groups), _below(config, new_groups)
        if source is None or target is None or old not in source:
            continue
        is_used = each.is_used(config)
        value = source.pop(old)
        if is_used:
            target[new] = value
            lines.append(f"{each.old} is now {each.new}: {value!r}")
    return config, lines


def hint(text: str) -> str:
    """Explains a renamed key mentioned in an unknown-key error; "" if none is mentioned."""
    for each in RENAMED:
        if re.search(rf"\b{re.escape(each.old.rpartition('.')[2])}\b", text):
            return str(each)
    return ""


def _below(config: Any, groups: list[str]) -> dict[str, Any] | None:
    """A nested group of a config; None if the file has something else there."""
    for name in groups:
        config = config.get(name) if isinstance(config, dict) else None
    return config if isinstance(config, dict) else None
