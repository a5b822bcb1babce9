"""Named points between the operations of saves, commits, removals and uploads."""

from __future__ import annotations


def reached(point: str) -> None:
    """Marks a point between two operations; does nothing.

    Tests replace this function with one that kills the process at a point of their choice. Call it
    as `protocol.reached(...)`, so that the replacement takes effect.

    Args:
        point: name of the point, such as "part written" or "manifest put".
    """
    del point
