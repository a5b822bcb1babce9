"""Listing, showing, comparing and verifying checkpoints, without the model."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from clac_jax.checkpoint.files import DamagedCheckpointError, check_files, read_manifest
from clac_jax.checkpoint.groups import ARRAYS_FILE, groups_of
from clac_jax.checkpoint.layout import STATE, CheckpointInfo, Leaf
from clac_jax.checkpoint.made_from import describe_made_from
from clac_jax.checkpoint.remote import read_remote, verify_stored
from clac_jax.checkpoint.usage import is_local, sharers, usage_of
from clac_jax.checkpoint.yardstick import retention_of
from clac_jax.digests.digest import TOTAL
from clac_jax.errors import counted, noun_for, shown


def list_run(
    intact: Mapping[int, CheckpointInfo], damaged: Mapping[int, DamagedCheckpointError]
) -> list[dict[str, Any]]:
    """One object per checkpoint of a run, oldest first; arguments from `layout.read_all`.

    Each has `step`, `epoch` (number of epochs done), `ended_epoch` (the one that `@epoch=` takes;
    None within an epoch), `examples_in_epoch`, `metrics`, `bytes`, `own_bytes` (what its removal
    would free), `saved_at` (seconds since 1970), `kept` (the reasons, by
    the rules of the newest config) and `damage` (None, or a description of the damage; then all
    other fields except `step` are None).
    """
    reasons: dict[int, list[str]] = {}
    if intact:
        newest = intact[max(intact)]
        retention, metrics = retention_of(newest.config, newest.data, intact)
        reasons = retention.reasons(metrics)
    rows = []
    for step in sorted({*intact, *damaged}):
        info = intact.get(step)
        rows.append(
            {
                "step": step,
                "epoch": info and info.progress.epoch,
                "ended_epoch": info and info.ended_epoch,
                "examples_in_epoch": info and info.progress.examples_in_epoch,
                "metrics": info and info.metrics,
                "bytes": info and info.num_bytes,
                "own_bytes": _own_bytes(info) if info else None,
                "saved_at": info and info.saved_at,
                "kept": reasons.get(step, []) if info else None,
                "damage": None if info else str(damaged[step]),
            }
        )
    return rows


def format_list(rows: list[dict[str, Any]], monitor: str | None) -> str:
    """`list_run` as a table; "own" is what nothing but this checkpoint needs."""
    table: list[tuple[str, ...]] = [
        ("step", "epoch", "example", monitor or "metric", "top-1", "size", "own", "age", "kept")
    ]
    for row in rows:
        if row["damage"]:
            table.append((str(row["step"]), f"DAMAGED: {row['damage']}"))
            continue
        metrics = row["metrics"] or {}
        table.append(
            (
                str(row["step"]),
                _epoch(row["epoch"], row["ended_epoch"]),
                str(row["examples_in_epoch"]),
                _number(metrics.get(monitor or "")),
                _percent(metrics.get("text_to_crystal_top1")),
                _size(row["bytes"]),
                _size(row["own_bytes"]),
                _age(row["saved_at"]),
                ", ".join(row["kept"]) or "until the next save",
            )
        )
    return _aligned(table)


def describe_disk(folders: Collection[epath.Path]) -> str:
    """A line on the space that checkpoints take together; "" if they share nothing."""
    if not all(map(is_local, folders)):
        return ""
    together, each = usage_of(folders), [usage_of([folder]) for folder in folders]
    apart = sum(usage.num_bytes for usage in each)
    if together.num_bytes == apart and together.own == apart:
        return ""
    line = f"{len(folders)} checkpoints take {_size(together.num_bytes)} on the disk"
    if together.num_bytes < apart:
        line += f" ({_size(apart)} if they shared no files)"
    outside = together.num_bytes - together.own
    return line + (f"; {_size(outside)} of it is also used elsewhere" if outside else "")


def shared_by(info: CheckpointInfo) -> list[dict[str, Any]]:
    """One object per group of arrays that is stored once: its paths, bytes, and who else has it."""
    found = []
    for group in groups_of(Path(info.folder)):
        database = Path(info.folder) / STATE / group.name
        found.append(
            {
                "arrays": list(group.arrays),
                "bytes": sum(_leaf_bytes(each.leaf) for each in group.arrays.values()),
                "steps": sharers(database / ARRAYS_FILE, info.folder),
                "links": os.stat(database / ARRAYS_FILE).st_nlink,
            }
        )
    return found


def show(info: CheckpointInfo) -> dict[str, Any]:
    """Everything about one checkpoint; `arrays` holds shape, dtype, norm and bytes of each."""
    return {
        "folder": shown(info.folder),
        "step": info.step,
        "epoch": info.progress.epoch,
        "ended_epoch": info.ended_epoch,
        "progress": info.progress.to_json(),
        "metrics": info.metrics,
        "versions": info.versions,
        "saved_at": info.saved_at,
        "digests": dict(info.digests),
        "made_from": info.made_from,
        "bytes": info.num_bytes,
        "own_bytes": _own_bytes(info),
        "shared": shared_by(info),
        "config": info.config,
        "arrays": {
            path: {
                "shape": list(leaf.shape),
                "dtype": leaf.dtype,
                "norm": leaf.norm,
                "bytes": _leaf_bytes(leaf),
            }
            for path, leaf in info.leaves.items()
        },
    }


def format_show(info: CheckpointInfo, all_arrays: bool = False) -> str:
    """`show` as text; without `all_arrays` the optimizer's arrays are summarized."""
    progress = info.progress
    place = f"end of epoch {info.ended_epoch}"
    if info.ended_epoch is None:
        examples = f"{progress.examples_in_epoch} of {info.num_train_examples}"
        place = f"in epoch {progress.epoch}, example {examples}"
    lines = [
        shown(info.folder),
        f"step {progress.step}, {place}; {_size(info.num_bytes)}, {_age(info.saved_at)} old",
        ", ".join(f"{name} {version}" for name, version in info.versions.items()),
        *([f"digest {info.digests[TOTAL]}"] if TOTAL in info.digests else []),
        *describe_made_from(info.made_from),
        *(f"{name:<26}{value:.5g}" for name, value in (info.metrics or {}).items()),
    ]
    table: list[tuple[str, ...]] = [("array", "shape", "dtype", "norm")]
    for path, leaf in info.leaves.items():
        if all_arrays or not path.startswith("opt_state/"):
            table.append((path, _shape(leaf.shape), leaf.dtype, f"{leaf.norm:.4g}"))
    lines += ["", _aligned(table), ""]
    for part in dict.fromkeys(path.split("/", 1)[0] for path in info.leaves):
        leaves = [leaf for path, leaf in info.leaves.items() if path.split("/", 1)[0] == part]
        numbers = sum(int(np.prod(leaf.shape)) for leaf in leaves)
        size = _size(sum(map(_leaf_bytes, leaves)))
        arrays = f"{len(leaves):>5} {noun_for(len(leaves), 'array'):<6}"
        what = f"{noun_for(numbers, 'number'):<7}"
        lines.append(f"{part:<20}{arrays}{numbers:>14,} {what}{size:>12}")
    for shared in shared_by(info):
        others = ", ".join(map(str, shared["steps"])) or "none at present"
        count, size = len(shared["arrays"]), _size(shared["bytes"])
        arrays = f"{count:>5} {noun_for(count, 'array'):<6}"
        lines.append(f"{'stored once':<20}{arrays}{size:>34} shared with checkpoints: {others}")
    return "\n".join(lines)


@dataclass(frozen=True)
class Difference:
    """The differences between two checkpoints.

    Attributes:
        config: (dotted key, value in A, value in B).
        changed: (path, l2 norm of the change relative to that of A, largest absolute change), in
            descending order.
        reshaped: (path, shape in A, shape in B).
        only_a: paths of arrays that only A has.
        only_b: paths of arrays that only B has.
        num_equal: number of bitwise equal arrays.
    """

    config: list[tuple[str, Any, Any]]
    changed: list[tuple[str, float, float]]
    reshaped: list[tuple[str, tuple[int, ...], tuple[int, ...]]]
    only_a: list[str]
    only_b: list[str]
    num_equal: int


def diff(a: CheckpointInfo, b: CheckpointInfo) -> Difference:
    """Compares configs and arrays; only those with different checksums or other shards are read.

    Raises:
        DamagedCheckpointError: a file differs from what was written; the message names it.
    """
    from clac_jax.checkpoint.arrays import read_arrays  # imports JAX, which takes a second
    from clac_jax.config.schema import differences

    common = [path for path in a.leaves if path in b.leaves]
    same_shape = [path for path in common if a.leaves[path].shape == b.leaves[path].shape]
    unlike = [path for path in same_shape if not _is_equal(a.leaves[path], b.leaves[path])]
    left, right = read_arrays(a, unlike), read_arrays(b, unlike)
    # Arrays saved in other shards have other checksums, and may be equal.
    unequal = [path for path in unlike if left[path].tobytes() != right[path].tobytes()]
    changed = []
    for path in unequal:
        x, y = (side[path].astype(np.float64) for side in (left, right))
        norm = float(np.linalg.norm(x))
        delta = float(np.linalg.norm(y - x))
        relative = delta / norm if norm else float("inf") if delta else 0.0
        changed.append((path, relative, float(np.max(np.abs(y - x), initial=0.0))))
    return Difference(
        config=differences(a.config, b.config),
        changed=sorted(changed, key=lambda row: (-row[1], row[0])),
        reshaped=[
            (path, a.leaves[path].shape, b.leaves[path].shape)
            for path in common
            if path not in set(same_shape)
        ],
        only_a=[path for path in a.leaves if path not in b.leaves],
        only_b=[path for path in b.leaves if path not in a.leaves],
        num_equal=len(same_shape) - len(unequal),
    )


def format_diff(difference: Difference, limit: int | None = 20) -> str:
    """`diff` as text, with at most `limit` arrays of each kind."""
    lines = [f"config    {key}: {then!r} -> {now!r}" for key, then, now in difference.config]
    lines += [f"only in A {path}" for path in difference.only_a[:limit]]
    lines += [f"only in B {path}" for path in difference.only_b[:limit]]
    lines += [
        f"reshaped  {path}: {_shape(then)} -> {_shape(now)}"
        for path, then, now in difference.reshaped[:limit]
    ]
    if difference.changed:
        table: list[tuple[str, ...]] = [("array", "|B - A| / |A|", "largest change")]
        table += [(p, f"{rel:.3g}", f"{most:.3g}") for p, rel, most in difference.changed[:limit]]
        lines += ["", _aligned(table)]
        if limit is not None and len(difference.changed) > limit:
            lines.append(f"and {len(difference.changed) - limit} more (--all)")
    are = noun_for(difference.num_equal, "is", "are")
    lines.append(f"{counted(difference.num_equal, 'array')} {are} equal bit for bit")
    return "\n".join(lines)


def verify(folder: epath.Path) -> str | None:
    """Checks every byte of a checkpoint against its checksums; returns the damage or None.

    A checkpoint in an object store is checked there, not its local copy.
    """
    try:
        remote = read_remote(folder)
        if remote is None:
            check_files(folder, every_byte=True)
        else:
            verify_stored(remote, read_manifest(folder))
    except DamagedCheckpointError as error:
        others = sharers(Path(error.path), folder) if is_local(folder) else []
        plural = "s" if len(others) > 1 else ""
        also = f" (also in checkpoint{plural} {', '.join(map(str, others))})" if others else ""
        return f"{shown(error.path)} {error.what}{also}"
    return None


def _own_bytes(info: CheckpointInfo) -> int:
    """The part of a checkpoint's size that its removal would free; in a bucket, all of it."""
    if not is_local(info.folder):
        return info.num_bytes
    usage = usage_of([info.folder])
    return info.num_bytes - (usage.num_bytes - usage.own)


def _is_equal(a: Leaf, b: Leaf) -> bool:
    """Whether two arrays of the same shape are equal, as far as their checksums show."""
    return a.checksums == b.checksums and a.grid == b.grid


def _aligned(table: list[tuple[str, ...]]) -> str:
    columns = max(len(row) for row in table)
    widths = [
        max((len(row[k]) for row in table if len(row) == columns), default=0)
        for k in range(columns)
    ]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in table
    )


def _leaf_bytes(leaf: Leaf) -> int:
    return int(np.prod(leaf.shape, dtype=np.int64)) * np.dtype(leaf.dtype).itemsize


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "()"


def _epoch(done: int, ended: int | None) -> str:
    """The epoch as `@epoch=` takes it, or the one within which the checkpoint was saved."""
    return f"in {done}" if ended is None else str(ended)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB"


def _age(saved_at: float) -> str:
    seconds = max(time.time() - saved_at, 0)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
