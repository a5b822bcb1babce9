"""What a run has recorded: its starts, steps and validations, and the checkpoints that it kept."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_collections
from etils import epath

from clac_jax.checkpoint.fetched import fetch_run, fetch_run_files
from clac_jax.checkpoint.files import DamagedCheckpointError
from clac_jax.checkpoint.layout import CHECKPOINTS, CheckpointInfo, read_all
from clac_jax.errors import shown
from clac_jax.files.paths import local_path
from clac_jax.replay.errors import ReplayError
from clac_jax.replay.setting import config_of
from clac_jax.reporting.metrics_file import read_rows
from clac_jax.stores.url import is_url


@dataclass(frozen=True)
class Start:
    """One start of the program that trained a run.

    Attributes:
        step: steps done when it began; the first one that it did is the next.
        config: the config of its steps, nested, as saved.
        versions: package name -> version; {} if unknown.
        devices: number of devices over all processes; None if unknown.
        facts: what else is known of it, by name: devices in words, code, host, data.
    """

    step: int
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    devices: int | None
    facts: Mapping[str, str]


@dataclass(frozen=True)
class StepRecord:
    """What the journal holds of one step.

    Attributes:
        step: its number, from 1.
        epoch: the epoch of its examples.
        loss: its loss.
        grad_norm: norm of its gradient, before clipping.
        digests: name -> digest in hexadecimal, in the order in which a step computes them.
    """

    step: int
    epoch: int
    loss: float
    grad_norm: float
    digests: Mapping[str, str]


@dataclass(frozen=True)
class History:
    """A run, seen from outside.

    Attributes:
        name: the run, as given by the user.
        starts: by step; of two that began at one step only the later one.
        records: step -> what the journal holds of it; empty without a journal.
        checkpoints: step -> intact checkpoint.
        damaged: step -> damage of the others.
        validations: step -> row of the validation after it.
    """

    name: str
    starts: Sequence[Start]
    records: Mapping[int, StepRecord]
    checkpoints: Mapping[int, CheckpointInfo]
    damaged: Mapping[int, DamagedCheckpointError]
    validations: Mapping[int, Mapping[str, Any]]

    @property
    def first_step(self) -> int:
        """The first step whose config is known."""
        return self.starts[0].step + 1

    @property
    def last_step(self) -> int:
        """The last step that is known to have been done."""
        return max([*self.records, *self.checkpoints], default=0)

    def start_of(self, step: int) -> Start:
        """The start in which a step was done.

        Raises:
            ReplayError: the run has not done it, or what it did then is unknown.
        """
        if not 1 <= step <= self.last_step:
            raise ReplayError(
                f"{self.name} has no step {step:,}: it has done {self.last_step:,}. Name a step "
                f"from {self.first_step:,} to {self.last_step:,}."
            )
        number = bisect.bisect_left([start.step for start in self.starts], step) - 1
        if number < 0:
            raise ReplayError(
                f"The journal of {self.name} begins at step {self.first_step:,}, so it is unknown "
                f"how step {step:,} was done. Name a later step."
            )
        return self.starts[number]

    def config_of(self, step: int) -> ml_collections.ConfigDict:
        """The config of a step.

        Raises:
            ReplayError: see `start_of`; or this version cannot read the config.
        """
        return config_of(self.start_of(step).config, self.name)

    def before(self, step: int) -> list[CheckpointInfo]:
        """The intact checkpoints from which a step can be reached, nearest first."""
        known = [each for each in self.checkpoints if self.starts[0].step <= each < step]
        return [self.checkpoints[each] for each in sorted(known, reverse=True)]


def read_history(run: str) -> History:
    """Reads what a run has recorded; it may be running.

    Args:
        run: its workdir: a folder, or a URL in a bucket.

    Raises:
        ReplayError: there is no run.
        StoreError: the bucket cannot be read.
        WorkdirError: a file of the run cannot be read.
    """
    folder = folder_of(run)
    intact, damaged = read_all(epath.Path(folder) / CHECKPOINTS)
    rows = [row for row in read_rows(folder / "metrics.jsonl") if row["split"] == "val"]
    starts, records = _recorded(folder, intact)
    if not starts:
        raise ReplayError(
            f"{shown(folder)} holds neither a journal nor a checkpoint, so there is nothing to go "
            "back to. Name the workdir of a run that has saved at least once."
        )
    return History(run, starts, records, intact, damaged, {row["step"]: row for row in rows})


def folder_of(run: str) -> Path:
    """The local folder of a run; of one in a bucket, a copy of its small files.

    Raises:
        ReplayError: it does not exist.
        StoreError: the bucket cannot be read.
    """
    if is_url(run):
        folder = fetch_run(run)
        fetch_run_files(folder)
        return folder
    folder = local_path(run, "RUN")
    if not folder.is_dir():
        raise ReplayError(f"{folder} is not a folder. Name the workdir of a run.")
    return folder


def _recorded(
    folder: Path, checkpoints: Mapping[int, CheckpointInfo]
) -> tuple[list[Start], dict[int, StepRecord]]:
    """Starts and steps by the journal; of a run without one, starts by its checkpoints."""
    starts, done = [], 0
    for step, info in sorted(checkpoints.items()):
        # The config of the steps up to a checkpoint is that of the checkpoint, unless it changed
        # on the way, which only a journal would know.
        starts.append(Start(done, info.config, info.versions, None, {}))
        done = step
    return starts, {}
