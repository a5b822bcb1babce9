"""Restores a checkpoint into a model, fully or in part, and reports the outcome of every array."""

from __future__ import annotations

import collections
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from clac_jax.checkpoint.arrays import read_targets
from clac_jax.checkpoint.layout import CheckpointInfo
from clac_jax.checkpoint.matching import (
    OUTCOMES,
    Match,
    RestoreOptions,
    match,
    problems,
    suggest_rules,
)
from clac_jax.checkpoint.shard_handler import Target
from clac_jax.config.adapters import is_adapter
from clac_jax.errors import UserError, noun_for, shown
from clac_jax.files.atomic import write_atomically

REPORT_FILE = "restore_report.json"
_LISTED = 8  # modules per outcome in the table; the report lists all arrays


class TreeMismatchError(UserError):
    """The checkpoint's arrays do not fit the model, and the config does not accept that."""


@dataclass(frozen=True)
class Restored:
    """The arrays of a state, and the origin of each.

    Attributes:
        arrays: slash path -> array, for every array of the state.
        matches: outcome for each array of the state and of the checkpoint.
    """

    arrays: dict[str, Any]
    matches: list[Match]


def match_checkpoint(
    info: CheckpointInfo, shapes: Mapping[str, jax.ShapeDtypeStruct], options: RestoreOptions
) -> list[Match]:
    """Matches a checkpoint to the arrays of a state; arguments as for `restore`.

    Raises:
        RestoreRuleError: a rule cannot be applied, see `matching.match`.
    """
    return match(
        {path: leaf.shape for path, leaf in info.leaves.items()},
        {path: leaf.shape for path, leaf in shapes.items()},
        options,
    )


def restore(
    info: CheckpointInfo,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    options: RestoreOptions,
    initialise: Callable[[], Mapping[str, Any]],
) -> Restored:
    """Restores the parts of a checkpoint that are requested and fit the model.

    Args:
        info: description of the checkpoint.
        shapes: slash path -> shape and dtype of every array of the state; the sharding of one that
            is to be sharded, which is then restored onto the devices.
        options: what to restore, what to rename, and what is an error.
        initialise: returns the arrays of a fresh state by slash path, sharded ones on the devices;
            called only when needed.

    Raises:
        TreeMismatchError: the message names every array that differs and the flags to accept it.
        RestoreRuleError: a rule cannot be applied, see `matching.match`.
        DamagedCheckpointError: a file differs from what was written; the message names it.
    """
    matches = match_checkpoint(info, shapes, options)
    if found := problems(matches, options):
        raise TreeMismatchError(_complaint(info, found, options))
    kept = [m for m in matches if m.outcome in ("restored", "renamed", "resized")]
    fresh = initialise() if any(m.outcome in ("initialised", "resized") for m in matches) else {}
    bases = {m.path: fresh[m.path] for m in kept if m.path is not None and m.outcome == "resized"}
    targets = {
        m.path: Target(m.source, shapes[m.path], bases.get(m.path))
        for m in kept
        if m.path is not None and m.source is not None
    }
    # What is not needed of a fresh state is freed before anything is read.
    arrays = {path: fresh[path] for path in shapes if path in fresh and path not in targets}
    del fresh
    arrays.update(read_targets(info, targets))
    return Restored(arrays, matches)


def describe(matches: Sequence[Match], info: CheckpointInfo) -> str:
    """A table of the arrays and bytes with each outcome, and the modules that changed."""
    lines = []
    for outcome in OUTCOMES:
        some = [m for m in matches if m.outcome == outcome]
        if not some:
            continue
        arrays = f"{noun_for(len(some), 'array'):<6}"
        lines.append(f"{outcome:<12}{len(some):>5} {arrays}  {_megabytes(some, info):>10}")
        if outcome == "restored":
            continue
        groups = collections.Counter(_group(m) for m in some)
        lines += [f"  {count:>3} x {text}" for text, count in list(groups.items())[:_LISTED]]
        if len(groups) > _LISTED:
            more = noun_for(len(groups) - _LISTED, "group")
            lines.append(f"  and {len(groups) - _LISTED} more {more}, see {REPORT_FILE}")
    return "\n".join(lines)


def write_report(path: Path, info: CheckpointInfo, matches: Sequence[Match]) -> None:
    """Writes the outcome for every array as JSON.

    The file holds `checkpoint` (its folder or URL), `step`, `counts` by outcome, and `arrays`: one
    object with `outcome`, `path`, `source`, `shape`, `saved_shape` and `reason` for each.
    """
    report = {
        "checkpoint": shown(info.folder),
        "step": info.step,
        "counts": {o: sum(m.outcome == o for m in matches) for o in OUTCOMES},
        "arrays": [
            {
                "outcome": m.outcome,
                "path": m.path,
                "source": m.source,
                "shape": m.shape,
                "saved_shape": m.saved_shape,
                "reason": m.reason,
            }
            for m in matches
        ],
    }
    write_atomically(path, json.dumps(report, indent=1) + "\n")


def _megabytes(some: Sequence[Match], info: CheckpointInfo) -> str:
    """Megabytes of the arrays in the model, or in the checkpoint for dropped arrays."""
    total = 0
    for m in some:
        shape = m.shape if m.shape is not None else m.saved_shape
        leaf = info.leaves.get(m.source or "")
        size = np.dtype(leaf.dtype).itemsize if leaf else 4
        total += int(np.prod(shape or (), dtype=np.int64)) * size
    return f"{total / 1e6:.1f} MB"


def _group(m: Match) -> str:
    """The module of an array, to a depth of two names, and the reason for its outcome."""
    module = _module(m.name)
    text = module if m.outcome != "renamed" else f"{_module(m.source or '')} -> {module}"
    return f"{text} ({m.reason})" if m.reason else text


def _module(path: str) -> str:
    names = path.split("/")
    return "/".join(names[: max(1, min(3, len(names) - 1))])


def _complaint(info: CheckpointInfo, found: Sequence[Match], options: RestoreOptions) -> str:
    missing = [m for m in found if m.source is None]
    extra = [m for m in found if m.path is None]
    shapes = [m for m in found if m.source is not None and m.path is not None]
    count = len(found)
    lines = [
        f"The checkpoint {info.folder} does not fit the model: {count} "
        f"array{'s differ' if count > 1 else ' differs'}."
    ]
    for title, some in (
        ("only in the model", missing),
        ("only in the checkpoint", extra),
        ("of a different shape", shapes),
    ):
        if some:
            lines.append(f"  {title} ({len(some)}):")
            lines += [f"    {_difference(m)}" for m in sorted(some, key=lambda m: m.name)]
    rules = suggest_rules(found)
    if rules:
        renames = ", ".join(f"{old} is now {new}" for old, new in rules)
        lines.append(f"  If modules were renamed ({renames}), add")
        lines.append(f'    --config.restore.rules="{(*options.rules, *rules)!r}"')
    flags = []
    if missing or extra:
        flags.append("--config.restore.strict=False")
    if shapes:
        flags.append("--config.restore.on_shape_mismatch=skip")
    lines.append(
        f"  To {'otherwise ' if rules else ''}initialise what has no counterpart and drop the "
        f"rest, add\n    {' '.join(flags)}"
    )
    if shapes:
        lines.append("  (or on_shape_mismatch=overlap, to copy the common part of each array)")
    if any(is_adapter(m.name) for m in extra):
        lines.append(
            "  To keep what the adapters (lora_a, lora_b) have learned, merge them before: "
            "`clac-jax ckpt export --merge`, then `ckpt import`."
        )
    lines.append("  To continue with the same model, use the config.json next to the checkpoints.")
    return "\n".join(lines)


def _difference(m: Match) -> str:
    if m.source is None:
        return f"{m.path}: {m.shape}"
    if m.path is None:
        return f"{m.source}: {m.saved_shape}"
    name = m.path if m.path == m.source else f"{m.path} (from {m.source})"
    return f"{name}: {m.saved_shape} in the checkpoint, {m.shape} in the model"
