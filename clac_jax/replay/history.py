"""The records of a run: its starts, steps and validations, and the checkpoints that it kept."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_collections
from etils import epath

from clac_jax.chain.record import CHAIN_FILE, DamagedChainError, read_chain
from clac_jax.checkpoint.fetched import fetch_run, fetch_run_files
from clac_jax.checkpoint.files import DamagedCheckpointError
from clac_jax.checkpoint.layout import CHECKPOINTS, CheckpointInfo, read_all
from clac_jax.digests.digest import Digest
from clac_jax.errors import shown
from clac_jax.files.paths import local_path
from clac_jax.journal.journal_file import Journal, read_journal
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
        devices: `platform`, `kind` and `count`; {} if unknown.
        facts: what else is known of it, by name: source, commit, host, settings, data.
    """

    step: int
    config: Mapping[str, Any]
    versions: Mapping[str, str] = field(default_factory=dict)
    devices: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of devices; 1 if it is unknown."""
        count = self.devices.get("count")
        return count if isinstance(count, int) else 1


@dataclass(frozen=True)
class History:
    """A run, seen from outside.

    Attributes:
        name: the run, as given by the user.
        starts: the starts by step; of two that began at one step only the later one.
        journal: its journal; empty if it has none.
        checkpoints: step -> intact checkpoint.
        damaged: step -> damage of the others.
        rows: the rows of its metrics.jsonl.
        first_record: the first record of its chain; {} if it has none.
    """

    name: str
    starts: Sequence[Start]
    journal: Journal
    checkpoints: Mapping[int, CheckpointInfo]
    damaged: Mapping[int, DamagedCheckpointError]
    rows: Sequence[Mapping[str, Any]]
    first_record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def first_step(self) -> int:
        """The first step whose config is known."""
        return self.starts[0].step + 1

    @property
    def last_step(self) -> int:
        """The last step that is known to have been done."""
        steps = self.journal.steps["step"]
        return max([int(step) for step in steps[-1:]] + list(self.checkpoints), default=0)

    def digests(self, step: int) -> Mapping[str, Digest]:
        """The digests that the journal has of a step; {} if it has none."""
        record = self.journal.at(step)
        return {} if record is None else record.digests

    def validation(self, step: int) -> Mapping[str, Any] | None:
        """The row of the validation after a step; None if there is none."""
        rows = [row for row in self.rows if row["split"] == "val" and row["step"] == step]
        return rows[-1] if rows else None

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

    def fingerprint(self, start: Start) -> str:
        """Fingerprint of the training data of a start; "" if it is unknown."""
        data = start.facts.get("data")
        if isinstance(data, Mapping) and "train" in data:
            return str(data["train"])
        later = [other.step for other in self.starts if other.step > start.step]
        end = min(later, default=self.last_step)
        saved = [step for step in self.checkpoints if start.step < step <= end]
        return self.checkpoints[min(saved)].data.get("train", "") if saved else ""

    def check_data(self, start: Start, fingerprint: str) -> None:
        """Compares training data with those that a start had.

        Args:
            start: the start.
            fingerprint: that of the data as they are now.

        Raises:
            ReplayError: they differ.
        """
        then = self.fingerprint(start)
        if then and then != fingerprint:
            raise ReplayError(
                f"The training data of {self.name} have changed since: their fingerprint was "
                f"{then} and is {fingerprint}. Put the data set back as it was (config.dataset), "
                "and start the command in the folder in which the run was started."
            )

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
    journal = read_journal(folder)
    starts = starts_of(journal.starts) or _by_checkpoints(intact)
    if not starts:
        raise ReplayError(
            f"{shown(folder)} holds neither a journal nor a checkpoint, so there is nothing to go "
            "back to. Name the workdir of a run that has saved at least once."
        )
    rows = read_rows(folder / "metrics.jsonl")
    return History(run, starts, journal, intact, damaged, rows, _first_record(folder))


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


def starts_of(events: Sequence[Mapping[str, Any]]) -> list[Start]:
    """The starts that a journal has recorded, without those that did no step that is left."""
    known = ("event", "step", "start", "config", "versions", "devices")
    by_step = {
        event["step"]: Start(
            step=event["step"],
            config=event["config"],
            versions=event.get("versions", {}),
            devices=event.get("devices", {}),
            facts={name: value for name, value in event.items() if name not in known},
        )
        for event in events
    }
    return [start for _, start in sorted(by_step.items())]


def _first_record(folder: Path) -> Mapping[str, Any]:
    try:
        entries = read_chain(folder / CHAIN_FILE)
    except DamagedChainError:  # `clac-jax prove` says where
        return {}
    return entries[0].record if entries else {}


def _by_checkpoints(checkpoints: Mapping[int, CheckpointInfo]) -> list[Start]:
    """The starts of a run without a journal, as far as its checkpoints tell them.

    The config of a checkpoint is that of the steps before it, unless it was changed in between.
    """
    ends = sorted(checkpoints)
    begins = [0, *ends][: len(ends)]
    return [
        Start(begin, checkpoints[end].config, checkpoints[end].versions, {}, {})
        for begin, end in zip(begins, ends, strict=True)
    ]
