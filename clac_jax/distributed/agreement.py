"""Facts that all processes must share, and the report of a difference."""

from __future__ import annotations

from collections.abc import Mapping

Facts = dict[str, str]
"""Name of a compared item -> its value, as text."""


def difference(values: Mapping[int, Facts]) -> str:
    """The first difference between the first process and the others, and the names of further ones.

    Args:
        values: process number -> its facts; must include 0.

    Returns:
        Two sentences, or "" if all agree.
    """
    expected = values[0]
    for number, facts in sorted(values.items()):
        names = [*expected, *(name for name in facts if name not in expected)]
        differing = [n for n in names if facts.get(n, "absent") != expected.get(n, "absent")]
        if differing:
            name, *more = differing
            others = f" {len(more)} more differ: {', '.join(more[:5])}" if more else ""
            return (
                f"{name[0].upper()}{name[1:]} is {facts.get(name, 'absent')} in process {number} "
                f"and {expected.get(name, 'absent')} in process 0."
                f"{others}{', ...' if len(more) > 5 else '.' if more else ''} Start every process "
                "with the same command, in the same environment and on the same data."
            )
    return ""
