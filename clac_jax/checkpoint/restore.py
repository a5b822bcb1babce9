"""Restores checkpoints into a model, fully or in part, and reports the outcome of every array."""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from clac_jax.checkpoint.arrays import read_targets
from clac_jax.checkpoint.layout import CheckpointInfo
from clac_jax.checkpoint.matching import KEPT, Match, RestoreOptions
from clac_jax.checkpoint.plan import Plan, make_plan
from clac_jax.checkpoint.proposals import suggest_rules
from clac_jax.checkpoint.renaming import Change, parameter_names, part_of, split_name
from clac_jax.checkpoint.shard_handler import Target
from clac_jax.checkpoint.sources import Arrays, Wanted, of_checkpoint, with_growth
from clac_jax.config.adapters import is_adapter
from clac_jax.errors import UserError
from clac_jax.files.atomic import write_atomically
from clac_jax.surgery.transforms import parse

REPORT_FILE = "restore_report.json"


class TreeMismatchError(UserError):
    """The checkpoint's arrays do not fit the model, and the config does not accept that."""


@dataclass(frozen=True)
class Restored:
    """The arrays of a state, and the origin of each.

    Attributes:
        arrays: slash path -> array, for every array of the state.
        plan: outcome for each array of the state and of the sources.
    """

    arrays: dict[str, Any]
    plan: Plan

    @property
    def matches(self) -> list[Match]:
        """The outcomes of the plan."""
        return self.plan.matches


def plan_of_checkpoint(
    info: CheckpointInfo,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    options: RestoreOptions,
    config: ml_collections.ConfigDict | None = None,
) -> Plan:
    """The plan to restore one checkpoint.

    Args:
        info: description of the checkpoint.
        shapes: see `restore`.
        options: what to restore.
        config: the config of the model, which is needed if it is to grow.

    Raises:
        RestoreRuleError: a rule cannot be applied, see `matching.match`.
    """
    sources = [Wanted(of_checkpoint(info), options)]
    return make_plan(sources if config is None else with_growth(sources, config), shapes)


def restore(
    info: CheckpointInfo,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    options: RestoreOptions,
    initialize: Callable[[], Mapping[str, Any]],
    seed: int = 0,
) -> Restored:
    """Restores the parts of a checkpoint that are requested and fit the model.

    Args:
        info: description of the checkpoint.
        shapes: slash path -> shape and dtype of every array of the state; the sharding of one that
            is to be sharded, which is then restored onto the devices.
        options: what to restore, what to rename, and what is an error.
        initialize: returns the arrays of a fresh state by slash path, sharded ones on the devices;
            called only when needed.
        seed: seed of transforms that draw random numbers.

    Raises:
        TreeMismatchError: the message names every array that differs and the flags to accept it.
        RestoreRuleError: a rule cannot be applied, see `matching.match`.
        DamagedCheckpointError: a file differs from what was written; the message names it.
    """
    return restore_plan(plan_of_checkpoint(info, shapes, options), shapes, initialize, seed)


def restore_plan(
    plan: Plan,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    initialize: Callable[[], Mapping[str, Any]],
    seed: int = 0,
) -> Restored:
    """Restores what a plan takes from its sources; arguments and errors as for `restore`."""
    if found := plan.problems():
        raise TreeMismatchError(_complaint(plan.sources, found))
    matches = plan.matches
    kept = [m for m in matches if m.outcome in KEPT]
    fresh = initialize() if any(m.outcome in ("initialized", "resized") for m in matches) else {}
    bases = {m.path: fresh[m.path] for m in kept if m.path is not None and m.outcome == "resized"}
    given = {m.path for m in kept}
    # What is not needed of a fresh state is freed before anything is read.
    arrays = {path: fresh[path] for path in shapes if path in fresh and path not in given}
    for m in matches:  # of the new layers of a model that grows
        change, path = m.change, m.path
        if path in arrays and path is not None and change is not None and not change.inputs:
            rng = np.random.default_rng(seed)
            # Its values are not used: of a fresh array, a process may have a shard only.
            unused = np.zeros(shapes[path].shape, shapes[path].dtype)
            (array,) = parse(change.transform).apply([unused], change.targets, rng)
            arrays[path] = _placed(array, shapes[path], None)
    del fresh
    for number, source in enumerate(plan.sources, start=1):
        mine = [m for m in kept if m.number == number]
        arrays.update(_read(source.arrays, mine, shapes, bases, seed))
    return Restored(arrays, plan)


def _read(
    source: Arrays,
    matches: Sequence[Match],
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    bases: Mapping[str, Any],
    seed: int,
) -> dict[str, Any]:
    """Slash path in the model -> array, for these matches of one source."""
    info, arrays, rest = source.info, {}, []
    targets = {}
    for m in matches:
        is_plain = m.change is None or not m.change.transform
        if info is not None and is_plain and m.path is not None and m.source is not None:
            targets[m.path] = Target(m.source, shapes[m.path], bases.get(m.path))
        else:
            rest.append(m)
    if info is not None:
        arrays.update(read_targets(info, targets))
    saved = source.read({path for m in rest for path in m.sources})
    parameters = parameter_names(path for path in source.leaves if part_of(path) == "params")
    done: dict[Change, list[np.ndarray]] = {}
    for m in rest:
        assert m.path is not None and m.source is not None
        wanted, change = shapes[m.path], m.change
        if change is None or not change.transform:
            array = saved[m.source]
        else:
            # A parameter and its moments draw the same numbers, whatever else is restored.
            _, name = split_name(change.inputs[0], parameters)
            array = _made(change, saved, [seed, zlib.crc32(name.encode())], done)
        arrays[m.path] = _placed(array, wanted, bases.get(m.path))
    return arrays


def _made(
    change: Change,
    saved: Mapping[str, np.ndarray],
    seed: Sequence[int],
    done: dict[Change, list[np.ndarray]],
) -> np.ndarray:
    """The result of a change; `done` has what is made already, and gets all results of it."""
    made = dataclasses.replace(change, index=0)
    if made not in done:
        inputs = [saved[path] for path in change.inputs]
        if change.before is not None:
            inputs = [_made(change.before, saved, seed, done)]
        rng = np.random.default_rng(seed)
        done[made] = parse(change.transform).apply(inputs, change.targets, rng)
    return done[made][change.index]


def _placed(array: np.ndarray, wanted: jax.ShapeDtypeStruct, base: Any) -> Any:
    """The array in the dtype of the model, on the devices if it is to be sharded.

    Args:
        array: the array, or a part of it if there is a base.
        wanted: shape, dtype and sharding.
        base: the array of a fresh state, with the same sharding, of which the common slice is
            replaced; None: none.
    """
    if base is None:
        array = np.ascontiguousarray(array.astype(wanted.dtype, copy=False)).reshape(wanted.shape)
    elif wanted.sharding is None:
        return _replaced(np.array(base), array, (0,) * array.ndim)
    if wanted.sharding is None:
        return array
    # Of a fresh array, each process has its own shards only.
    pieces = {} if base is None else {_first(s.index): s.data for s in base.addressable_shards}

    def shard(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        if base is None:
            return array[index]
        return _replaced(np.array(pieces[_first(index)]), array, _first(index))

    return jax.make_array_from_callback(wanted.shape, wanted.sharding, shard)


def _first(index: tuple[slice, ...]) -> tuple[int, ...]:
    return tuple(part.start or 0 for part in index)


def _replaced(fresh: np.ndarray, array: np.ndarray, first: tuple[int, ...]) -> np.ndarray:
    """A block of a fresh array that begins at `first`, with what an array has for it."""
    sizes = [max(0, min(n, m - k)) for n, m, k in zip(fresh.shape, array.shape, first, strict=True)]
    common = tuple(slice(size) for size in sizes)
    there = tuple(slice(k, k + size) for k, size in zip(first, sizes, strict=True))
    fresh[common] = array[there]
    return fresh


def write_report(path: Path, plan: Plan) -> None:
    """Writes the outcome for every array as JSON, see `Plan.to_json`."""
    write_atomically(path, json.dumps(plan.to_json(), indent=1) + "\n")


def _complaint(sources: Sequence[Wanted], found: Sequence[Match]) -> str:
    missing = [m for m in found if m.source is None]
    extra = [m for m in found if m.path is None]
    shapes = [m for m in found if m.source is not None and m.path is not None]
    count, is_one = len(found), len(sources) == 1
    info = sources[0].arrays.info
    place = info.folder if info is not None else sources[0].arrays.place
    what = f"checkpoint {place} does" if is_one else f"{len(sources)} sources do"
    lines = [
        f"The {what} not fit the model: {count} array{'s differ' if count > 1 else ' differs'}."
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
        of_all = (*(rule for each in sources for rule in each.options.rules), *rules)
        where = "" if is_one else "  (to the rules of the source that has them)"
        lines.append(f'    --config.restore.rules="{of_all if is_one else tuple(rules)!r}"{where}')
    flags = []
    if missing or extra:
        flags.append("--config.restore.strict=False")
    if shapes:
        flags.append("--config.restore.on_shape_mismatch=skip")
    lines.append(
        f"  To {'otherwise ' if rules else ''}initialize what has no counterpart and drop the "
        f"rest, add\n    {' '.join(flags)}"
    )
    if shapes:
        lines.append("  (or on_shape_mismatch=overlap, to copy the common part of each array; or")
        lines.append(
            "  on_shape_mismatch=grow, for a larger model that computes the same at first)"
        )
    lines.append("  `clac-jax ckpt plan` shows all arrays and writes rules that fit.")
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
