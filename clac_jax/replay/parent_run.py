"""The origin of a run: a checkpoint of another run as it was then, several sources, or nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from clac_jax.chain.record import CHAIN_FILE, new_entry
from clac_jax.checkpoint import resume
from clac_jax.checkpoint.changes import Present, carried_over
from clac_jax.checkpoint.layout import CheckpointInfo, read_info
from clac_jax.checkpoint.lineage import arrays_digest
from clac_jax.checkpoint.locate import CheckpointNotFoundError, locate
from clac_jax.checkpoint.matching import RestoreOptions
from clac_jax.checkpoint.opening import giver_of
from clac_jax.checkpoint.sources import Wanted, of_checkpoint
from clac_jax.errors import UserError, one_line
from clac_jax.replay.errors import ReplayError
from clac_jax.replay.history import History
from clac_jax.replay.setting import config_of
from clac_jax.training.progress import RunProgress


def origin_of(history: History) -> resume.Origin | None:
    """The origin of the first recorded start of a run, as it was then.

    A name such as `outputs/a` means another checkpoint once that run is trained further, so it is
    the chain that says which one it was.

    Args:
        history: what the run has recorded.

    Returns:
        An empty origin for a fresh run; None if the steps before the start are of this run.

    Raises:
        ReplayError: the checkpoint is gone, or is not the one of then.
        UserError: another source cannot be read.
    """
    first = history.starts[0]
    recorded: Mapping[str, Any] = history.first_record.get("origin") or {}
    if first.step and (recorded.get("run") is None or recorded["step"] != first.step):
        return None
    config = config_of(first.config, history.name)
    if recorded.get("run") is None:  # fresh, or from before there was a chain
        return resume.origin_elsewhere(config) or resume.Origin()
    if steps := [each["step"] for each in recorded.get("sources", ())]:
        origin = resume.origin_elsewhere(config) or resume.Origin()
        return resume.Origin(sources=tuple(map(_source_at, origin.sources, steps)))
    return resume.Origin(other=_parent(history, config.resume_from))


def position_after(origin: resume.Origin, now: Present) -> RunProgress:
    """The position at which a run with an origin elsewhere began.

    Args:
        origin: the origin.
        now: config and data of its first start.
    """
    info, parts = origin.other, RestoreOptions.from_config(now.config.restore).parts
    if giver := giver_of("progress", origin.sources):
        info, parts = giver.arrays.info, giver.options.parts
    if info is None:
        return RunProgress()
    return carried_over(info.progress, info, now, False, parts)[0]


def _parent(history: History, name: str) -> CheckpointInfo:
    """The checkpoint that the chain names: where it was, or in the run that the config names."""
    recorded = history.first_record["origin"]
    why = ""
    for place in (recorded["run"], name):
        try:
            info = _at(locate(place), recorded["step"])
        except CheckpointNotFoundError:
            why = why or "does not exist any more"
            continue
        except UserError as error:
            why = why or f"cannot be used ({one_line(error)})"
            continue
        if _digest(info) == history.first_record["parent"]:
            return info
        why = why or f"is a different one now: its record is not the one that {CHAIN_FILE} names"
    raise ReplayError(
        f"{history.name} began from the checkpoint {recorded['run']}, which {why}. Put it back."
    )


def _source_at(source: Wanted, step: int | None) -> Wanted:
    """A source as it was, at the step of then."""
    info = source.arrays.info
    if info is None or step is None or info.step == step:
        return source
    arrays = of_checkpoint(_at(info, step), source.arrays.place)
    return dataclasses.replace(source, arrays=arrays)


def _at(info: CheckpointInfo, step: int) -> CheckpointInfo:
    """The checkpoint of a step in the run to which a checkpoint belongs."""
    return info if info.step == step else read_info(info.folder.parent / str(step))


def _digest(info: CheckpointInfo) -> str | None:
    """The digest of the record of a checkpoint; "" if its arrays are not those of the record."""
    if info.record is None:
        return None
    return new_entry(info.record).digest if arrays_digest(info) == info.record["arrays"] else ""
