"""Proposals of rules for arrays that have no counterpart of the same name."""

from __future__ import annotations

import collections
import re
from collections.abc import Sequence

from clac_jax.checkpoint.matching import Match
from clac_jax.checkpoint.renaming import parameter_names


def suggest_rules(found: Sequence[Match]) -> list[tuple[str, str]]:
    """Renames that would pair arrays of the two sides, largest group first.

    A group is a module: every array under its old name must have a counterpart of the same shape
    under the new one.
    """
    saved = parameter_names(m.source for m in found if m.path is None)
    wanted = parameter_names(m.path for m in found if m.source is None)
    shapes = {
        m.name.split("/", 1)[1]: m.shape if m.saved_shape is None else m.saved_shape for m in found
    }
    saved = {path for path in saved if path not in wanted}
    prefixes: set[tuple[str, str]] = set()
    by_shape = collections.defaultdict(list)
    for path in wanted:
        by_shape[shapes[path], path.rsplit("/", 1)[-1]].append(path)
    for source in saved:
        for path in by_shape[shapes[source], source.rsplit("/", 1)[-1]]:
            prefixes.add(_without_common_end(source, path))
    covers = {}
    for old, new in prefixes:
        inside = {path for path in saved if path.startswith(old + "/")}
        images = {new + path[len(old) :]: path for path in inside}
        if all(image in wanted and shapes[image] == shapes[path] for image, path in images.items()):
            covers[old, new] = (inside, set(images))
    rules: list[tuple[str, str]] = []
    used: set[str] = set()
    for (old, new), (inside, targets) in sorted(
        covers.items(), key=lambda item: (-len(item[1][0]), item[0])
    ):
        if not (inside | targets) & used:
            used |= inside | targets
            rules.append((f"{re.escape(old)}/(.*)", rf"{new}/\1"))
    return rules


def _without_common_end(left: str, right: str) -> tuple[str, str]:
    """Both paths without their longest common suffix; at least one name of each remains."""
    a, b = left.split("/"), right.split("/")
    while len(a) > 1 and len(b) > 1 and a[-1] == b[-1]:
        a.pop()
        b.pop()
    return "/".join(a), "/".join(b)
