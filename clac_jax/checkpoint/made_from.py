"""The `made_from` of a checkpoint: which others its model was computed from, as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clac_jax.errors import one_line


@dataclass(frozen=True)
class Ingredient:
    """A checkpoint that has gone into a computed model.

    Attributes:
        checkpoint: its folder or URL.
        step: its step.
        weight: its weight in the average.
        arrays: the digest of all of its arrays, see `lineage.arrays_digest`; None if unknown.
        record: the digest of its record in the chain of its run; None without one.
    """

    checkpoint: str
    step: int
    weight: float
    arrays: str | None
    record: str | None


def made_from(
    how: str, ingredients: Sequence[Ingredient], choice: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The description of a model that was computed from others.

    Args:
        how: a few words, "weighted mean".
        ingredients: what it was computed from.
        choice: why these, as plain values.
    """
    listed = [asdict(each) for each in ingredients]
    return {"how": how, "checkpoints": listed} | ({"choice": dict(choice)} if choice else {})


def describe_made_from(value: Mapping[str, Any] | None) -> list[str]:
    """Lines for `ckpt show`; [] for the model of a run. A file may hold anything."""
    if value is None:
        return []
    lines = [f"made from  {one_line(value.get('how'))}"]
    listed = value.get("checkpoints")
    for each in listed if isinstance(listed, list) else []:
        if isinstance(each, dict):
            digest = each.get("arrays")
            named = f", arrays {digest[:16]}" if isinstance(digest, str) else ""
            weight = each.get("weight")
            number = f"{weight:.4g}" if isinstance(weight, int | float) else "?"
            lines.append(f"  {number:<8} x {one_line(each.get('checkpoint'))}{named}")
    return lines
