"""The start of a run: fresh, resumed, or from another run; and what has changed since."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from clac_jax.checkpoint.changes import Present, carried_over, describe_changes
from clac_jax.checkpoint.division import spans_processes
from clac_jax.checkpoint.files import DamagedCheckpointError
from clac_jax.checkpoint.finished import read_finished
from clac_jax.checkpoint.layout import (
    CHECKPOINTS,
    DAMAGED,
    CheckpointInfo,
)
from clac_jax.checkpoint.locate import is_inside
from clac_jax.checkpoint.matching import PARTS, RestoreOptions
from clac_jax.checkpoint.opening import giver_of
from clac_jax.checkpoint.origin import Origin as Origin  # re-exported for callers
from clac_jax.checkpoint.origin import ResumeError as ResumeError
from clac_jax.checkpoint.origin import find_origin as find_origin
from clac_jax.checkpoint.origin import origin_elsewhere as origin_elsewhere
from clac_jax.checkpoint.origin import shared_origin as shared_origin
from clac_jax.checkpoint.placed import expected_digests
from clac_jax.checkpoint.plan import make_plan
from clac_jax.checkpoint.restore import (
    REPORT_FILE,
    Restored,
    plan_of_checkpoint,
    restore_plan,
    write_report,
)
from clac_jax.checkpoint.sources import Wanted, with_growth
from clac_jax.digests.digest import Digest
from clac_jax.distributed import processes
from clac_jax.distributed.sending import any_text
from clac_jax.errors import counted, shown
from clac_jax.training.progress import RunProgress
from clac_jax.training.run_end import has_ended


@dataclass(frozen=True)
class Start:
    """The initial state of a run.

    Attributes:
        arrays: slash path -> array, for the entire state.
        progress: position of the run.
        origin: description of the start: fresh, resumed, or from another run.
        notes: lines on what was restored, what has changed and what was damaged.
        damaged: steps whose checkpoints must be set aside.
        is_own: whether it resumes from a checkpoint in its own workdir.
        source: the checkpoint; "" for a fresh run.
        digests: part of the state -> digest that it must have on the devices, where known.
    """

    arrays: Mapping[str, Any]
    progress: RunProgress
    origin: str
    notes: list[str]
    damaged: list[int]
    is_own: bool = False
    source: str = ""
    digests: Mapping[str, Digest] = field(default_factory=dict)


def begin(
    origin: Origin,
    workdir: Path,
    now: Present,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    initialize: Callable[[], Mapping[str, Any]],
) -> Start:
    """The initial state; of the workdir's checkpoints the newest intact one is used.

    Args:
        origin: the result of `find_origin`.
        workdir: the run's workdir; the report of a restore is written there.
        now: the run's config and data, which may differ from those of the checkpoint.
        shapes: slash path -> shape and dtype of every array of the state.
        initialize: returns the arrays of a fresh state.

    Raises:
        TreeMismatchError, RestoreRuleError: the checkpoint does not fit, see `restore.restore`.
        DamagedCheckpointError: no intact checkpoint is left.
    """
    config = now.config
    options = RestoreOptions.from_config(config.restore)
    damaged = dict(origin.damaged)
    if origin.sources:
        return _from_sources(origin.sources, workdir, now, shapes, initialize)
    if origin.other is not None:
        info = origin.other
        plan = plan_of_checkpoint(info, shapes, options, config)
        restored = _together(lambda: restore_plan(plan, shapes, initialize, config.seed), shapes)
        words = "starts from another run's checkpoint"
    elif origin.own or damaged:
        info, restored = _newest(origin.own, damaged, shapes, config, initialize)
        words = "resumed from its checkpoint"
    else:
        return Start(initialize(), RunProgress(), "fresh run", [], [])

    notes = [f"damaged   {error}" for _, error in sorted(damaged.items())]
    if damaged:
        aside = workdir / CHECKPOINTS / DAMAGED
        notes.append(f"          set aside in {aside}; resumes from step {info.step}")
    is_own = origin.other is None
    parts = PARTS if is_own else options.parts
    progress, position_notes = carried_over(info.progress, info, now, is_own, parts)
    notes += [f"renamed   {line}" for line in info.renamed]
    notes += [f"changed   {line}" for line in describe_changes(info, now, progress, is_own)]
    if is_own and is_inside(config.resume_from, workdir):
        notes.append(
            f"unused    resume_from: {config.resume_from!r} is this run's own workdir. To continue "
            "from an older checkpoint of it, give a new --workdir"
        )
    notes += [f"changed   {line}" for line in position_notes]
    if processes.is_first():
        write_report(workdir / REPORT_FILE, restored.plan)
    notes += _restore_notes(restored)
    arrays = _at(restored.arrays, progress)
    ended = read_finished(workdir, origin.own) if is_own else None
    if ended is not None:
        end, _ = carried_over(ended, info, now, is_own, parts)
        gone = f"its checkpoint of step {end.step:,} is gone (checkpoint.save_last=False)"
        if has_ended(config, end):
            where = f"this run has ended; {gone}"
            return Start(arrays, end, where, notes, sorted(damaged), is_own=True)  # trains nothing
        notes.append(
            f"          this run had ended; {gone}, so the steps up to it are trained again"
        )
    place = f"epoch {progress.epoch}, example {progress.examples_in_epoch:,}"
    where = f"{words} {shown(info.folder)} ({place} of {now.num_train_examples:,})"
    digests = expected_digests(info, restored.matches, restored.arrays, arrays)
    source = str(info.folder)
    return Start(arrays, progress, where, notes, sorted(damaged), is_own, source, digests)


def _from_sources(
    sources: tuple[Wanted, ...],
    workdir: Path,
    now: Present,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    initialize: Callable[[], Mapping[str, Any]],
) -> Start:
    """The initial state of a run that starts from several sources; arguments as for `begin`."""
    plan = make_plan(with_growth(sources, now.config), shapes)
    restored = _together(lambda: restore_plan(plan, shapes, initialize, now.config.seed), shapes)
    progress = RunProgress()
    notes: list[str] = []
    giver = giver_of("progress", sources)
    if giver is not None and (info := giver.arrays.info) is not None:
        progress, notes = carried_over(info.progress, info, now, False, giver.options.parts)
        notes = [f"changed   {line}" for line in notes]
        notes.insert(
            0, f"progress  step, epoch and position in the data are those of {giver.arrays.place}"
        )
    else:
        notes.append("progress  no source gives it: starts at step 0, epoch 0")
    if processes.is_first():
        write_report(workdir / REPORT_FILE, plan)
    notes += _restore_notes(restored)
    source = ", ".join(each.arrays.place for each in sources)
    words = f"starts from {counted(len(sources), 'source')}"
    return Start(_at(restored.arrays, progress), progress, words, notes, [], False, source)


def _restore_notes(restored: Restored) -> list[str]:
    lines = restored.plan.describe(REPORT_FILE).splitlines()
    return [("restore   " if not k else "          ") + line for k, line in enumerate(lines)]


def in_all_processes(
    begin_in_first: Callable[[], Start], shapes: Mapping[str, jax.ShapeDtypeStruct]
) -> Start:
    """Begins in the first process, which sends the arrays and the position to the others.

    If arrays are sharded over them, all processes begin, and each reads what its devices need.

    Args:
        begin_in_first: a call of `begin`.
        shapes: slash path -> shape and dtype of every array of the state.

    Returns:
        The start; without description and notes in all processes but the first.
    """
    if spans_processes(shapes):
        start = begin_in_first()
        # The position may come from a file in the workdir that only the first process sees.
        facts = json.dumps(_facts(start))
        shared = json.loads(any_text(facts if processes.is_first() else ""))
        return dataclasses.replace(start, **_from_facts(shared))
    start = begin_in_first() if processes.is_first() else Start({}, RunProgress(), "", [], [])

    def sent() -> tuple[Mapping[str, Any], bytes]:
        return start.arrays, json.dumps(_facts(start)).encode()

    arrays, content = processes.from_first(sent, shapes)
    return dataclasses.replace(start, arrays=arrays, **_from_facts(json.loads(content)))


def _facts(start: Start) -> dict[str, Any]:
    """The facts about a start that all processes must know, besides its arrays."""
    return {
        "progress": start.progress.to_json(),
        "is_own": start.is_own,
        "source": start.source,
        "digests": {part: str(digest) for part, digest in start.digests.items()},
    }


def _from_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `Start` that `_facts` describes."""
    digests = {part: Digest.of_text(text) for part, text in facts["digests"].items()}
    return facts | {"progress": RunProgress.from_json(facts["progress"]), "digests": digests}


def _newest(
    own: dict[int, CheckpointInfo],
    damaged: dict[int, DamagedCheckpointError],
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    config: ml_collections.ConfigDict,
    initialize: Callable[[], Mapping[str, Any]],
) -> tuple[CheckpointInfo, Restored]:
    """The newest checkpoint with intact arrays; adds the damaged ones to `damaged`."""
    for step in sorted(own, reverse=True):
        info = own[step]
        try:
            return info, _restored_own(info, shapes, config, initialize)
        except DamagedCheckpointError as error:
            damaged[step] = error
    newest = damaged[max(damaged)]
    raise DamagedCheckpointError(
        newest.path, f"{newest.what} and the run has no older intact checkpoint"
    )


def _restored_own(
    info: CheckpointInfo,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    config: ml_collections.ConfigDict,
    initialize: Callable[[], Mapping[str, Any]],
) -> Restored:
    options = _for_own(info, shapes, RestoreOptions.from_config(config.restore))
    plan = plan_of_checkpoint(info, shapes, options, config)
    return _together(lambda: restore_plan(plan, shapes, initialize, config.seed), shapes)


def _together(call: Callable[[], Restored], shapes: Mapping[str, Any]) -> Restored:
    """The result of a restore, unless one of the processes that take part finds damage.

    Raises:
        DamagedCheckpointError: raised in every process.
    """
    if not spans_processes(shapes):
        return call()
    restored, damage = None, ""
    try:
        restored = call()
    except DamagedCheckpointError as error:
        damage = json.dumps([str(error.path), error.what])
    if damage := any_text(damage):
        raise DamagedCheckpointError(*json.loads(damage))
    assert restored is not None
    return restored


def _for_own(
    info: CheckpointInfo, shapes: Mapping[str, jax.ShapeDtypeStruct], options: RestoreOptions
) -> RestoreOptions:
    """Options to restore all parts of a run's own checkpoint, by `config.restore` only if needed.

    The rules and parts in the config usually refer to the other run's checkpoint it started from.
    """
    everything = RestoreOptions()
    fits = not plan_of_checkpoint(info, shapes, everything).problems()
    return everything if fits else dataclasses.replace(options, parts=PARTS)


def _at(arrays: Mapping[str, Any], progress: RunProgress) -> dict[str, Any]:
    """The arrays, with the step of the state and of the schedule set to that of `progress`.

    They differ if only one of them was restored, or if the schedule has changed.
    """
    counters = [path for path in arrays if path.endswith("/learning_rate/count")]
    return {
        **arrays,
        **{path: np.asarray(progress.step, np.int32) for path in ("step", *counters)},
        "learning_rate_scale": np.asarray(progress.learning_rate_scale, np.float32),
    }
