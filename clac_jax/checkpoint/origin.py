"""The origin of a run: its own checkpoints, another run's, several sources, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import jax
import ml_collections
from etils import epath

from clac_jax.checkpoint.division import spans_processes
from clac_jax.checkpoint.files import DamagedCheckpointError
from clac_jax.checkpoint.layout import (
    CHECKPOINTS,
    DAMAGED,
    EARLIER_DAMAGED,
    CheckpointInfo,
    read_all,
)
from clac_jax.checkpoint.locate import locate
from clac_jax.checkpoint.opening import open_sources
from clac_jax.checkpoint.removal import finish_interrupted, remove_parts
from clac_jax.checkpoint.sources import Wanted
from clac_jax.distributed import processes
from clac_jax.errors import UserError


class ResumeError(UserError):
    """The run cannot start in the way that `config.resume` requires."""


@dataclass(frozen=True)
class Origin:
    """The checkpoints that a run may start from, before any arrays are read.

    Attributes:
        own: step -> intact checkpoint in the workdir.
        damaged: step -> damage of the others.
        other: another run's checkpoint, used if the workdir has none.
        sources: several sources, used instead of `other`.
    """

    own: dict[int, CheckpointInfo] = field(default_factory=dict)
    damaged: dict[int, DamagedCheckpointError] = field(default_factory=dict)
    other: CheckpointInfo | None = None
    sources: tuple[Wanted, ...] = ()


def find_origin(config: ml_collections.ConfigDict, workdir: Path) -> Origin:
    """Finds what the run can start from, by `config.resume` and `config.resume_from`.

    Raises:
        ResumeError: "must" finds no run, "never" finds one.
        CheckpointNotFoundError: `resume_from` names no checkpoint.
        DamagedCheckpointError: the checkpoint that it names is damaged.
    """
    directory = epath.Path(workdir) / CHECKPOINTS
    finish_interrupted(directory)
    remove_parts(directory)
    own, damaged = read_all(directory)
    if config.resume == "never" and (own or damaged or (workdir / "metrics.jsonl").exists()):
        raise ResumeError(
            f"--workdir={workdir} holds a run, and config.resume is 'never'. "
            "Choose a new workdir, or --config.resume=auto to resume."
        )
    if own or damaged:
        return Origin(own, damaged)
    for place in (directory / DAMAGED, epath.Path(workdir) / EARLIER_DAMAGED):
        if place.exists():
            raise ResumeError(
                f"{workdir} has no checkpoint but those in {place}, and a fresh run there would "
                "look like a resumed one. Choose a new workdir."
            )
    if (elsewhere := origin_elsewhere(config)) is not None:
        return elsewhere
    if config.resume == "must":
        raise ResumeError(
            f"--workdir={workdir} holds no checkpoint, and config.resume is 'must'. "
            "Check the path, set config.resume_from, or --config.resume=auto to start from scratch."
        )
    return Origin()


def origin_elsewhere(config: ml_collections.ConfigDict) -> Origin | None:
    """The origin of a run without a checkpoint, by its config; None for a fresh run.

    Raises:
        CheckpointNotFoundError, DamagedCheckpointError, SourceError: see `find_origin`.
    """
    if config.restore.sources:
        return Origin(sources=tuple(open_sources(config.restore)))
    return Origin(other=locate(config.resume_from)) if config.resume_from else None


def shared_origin(
    origin: Origin,
    config: ml_collections.ConfigDict,
    see: Callable[[], Path],
    shapes: Mapping[str, jax.ShapeDtypeStruct],
) -> Origin:
    """The origin in every process, if all of them must read the checkpoint; a collective.

    Args:
        origin: that of the first process; the others pass an empty one.
        config: the run's config.
        see: returns the folder in which this process reads the run, see `RunPlace.see`.
        shapes: slash path -> shape and dtype of every array, and its sharding.

    Raises:
        WorkdirError, StoreError: a process does not see the workdir of the first one.
        ProcessError: a process does not see the same checkpoints.
    """
    if not spans_processes(shapes):
        return origin
    workdir = see()
    if not processes.is_first():
        own, damaged = read_all(epath.Path(workdir) / CHECKPOINTS)
        elsewhere = None if own or damaged else origin_elsewhere(config)
        origin = elsewhere or Origin(own, damaged)
    found = {step: info.saved_at for step, info in origin.own.items()}
    seen = {"the checkpoints in --workdir": f"{found}, damaged {sorted(origin.damaged)}"}
    if origin.other is not None:
        other = origin.other
        seen["the checkpoint of config.resume_from"] = f"step {other.step} of {other.saved_at}"
    if origin.sources:
        leaves = [each.arrays.leaves for each in origin.sources]
        seen["the sources of config.restore"] = f"{[sorted(each.items()) for each in leaves]}"
    processes.agree("origin", seen)
    return origin
