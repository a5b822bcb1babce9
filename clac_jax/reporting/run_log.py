"""The log of a run: writes rows to metrics.jsonl and to the trackers that the config names."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import ml_collections

from clac_jax.distributed.workdir import HeldFolder
from clac_jax.errors import LostWorkdirError, MovedMetricsError, WorkdirError
from clac_jax.journal.journal_file import NO_JOURNAL, Journal, JournalFile
from clac_jax.journal.record import StepRecord
from clac_jax.reporting.metrics_file import MetricsFile
from clac_jax.reporting.trackers import TensorBoard, WeightsAndBiases


class Kept(Protocol):
    """Files that stay open throughout a run."""

    def sync(self) -> None:
        """Forces all that was written so far to disk."""

    def follow(self, workdir: Path) -> None:
        """Sets the new location of the workdir; open files were moved with it."""

    def close(self) -> None:
        """Closes the files."""


class Sink(Kept, Protocol):
    """A destination of metric rows."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Writes one row."""


class RunLog:
    """Writes each row to all destinations, and what is recorded of each step to the journal.

    Attributes:
        start: number of this start of the program.
    """

    def __init__(
        self,
        workdir: Path,
        config: ml_collections.ConfigDict,
        step: int,
        validated: bool = True,
        resumed: bool = True,
    ):
        """Opens the configured destinations; see `MetricsFile` for the effect of a resumed run."""
        self._held = HeldFolder(workdir)
        self._file = MetricsFile(workdir / "metrics.jsonl", step, validated, resumed)
        self._journal = JournalFile(workdir, step, resumed)
        self.start = self._journal.start
        self._sinks: list[Sink] = [self._file]
        if config.logging.tensorboard:
            self._sinks.append(TensorBoard(workdir / "tensorboard", step))
        if config.logging.wandb:
            self._sinks.append(WeightsAndBiases(workdir, config))
        self._others: list[Kept] = []
        self._pending: WorkdirError | None = None

    @property
    def _kept(self) -> list[Kept]:
        return [*self._sinks, self._journal, *self._others]

    def take_journal(self) -> Journal:
        """The records up to the step that is resumed, which take no memory here afterwards."""
        kept, self._journal.kept = self._journal.kept, NO_JOURNAL
        return kept

    def keep(self, files: Kept) -> None:
        """Follows the workdir with further files, and closes them with its own."""
        self._others.append(files)

    def write(self, row: Mapping[str, Any]) -> None:
        """Writes one row to all destinations.

        Raises:
            LostWorkdirError: the workdir is no longer the folder in which the run started.
            WorkdirError: the row cannot be written.
        """
        lost = self._pending or self._lost()
        for sink in reversed(self._sinks):  # metrics.jsonl last: it has all that the others have
            lost = self._unless_lost(functools.partial(sink.write, row)) or lost
        if lost:
            raise lost

    def record(self, record: StepRecord) -> None:
        """Appends the record of a step to the journal.

        An error after which the state can be saved is only raised by the next call of any method:
        the row of the step, without which the state must not be saved, may still have to come.

        Raises:
            LostWorkdirError, WorkdirError: see `write`.
        """
        self._to_journal(functools.partial(self._journal.write, record))

    def record_event(self, event: str, step: int, facts: Mapping[str, Any]) -> None:
        """Appends an event to the journal, see `JournalFile.write_event`; errors as for `write`."""
        self._to_journal(functools.partial(self._journal.write_event, event, step, facts))

    def _to_journal(self, action: Callable[[], None]) -> None:
        if self._pending:
            raise self._pending
        self._pending = self._lost()
        try:
            self._pending = self._unless_lost(action) or self._pending
        except MovedMetricsError as error:
            self._pending = error

    def sync(self) -> None:
        """Forces all rows to disk, before the checkpoint that follows them; see `write`."""
        lost = self._lost()
        for target in self._kept:
            lost = self._unless_lost(target.sync) or lost
        if lost:
            raise lost

    def close(self) -> None:
        """Closes all destinations."""
        for target in self._kept:
            target.close()
        self._held.close()

    def close_files(self) -> None:
        """Closes what is still open on the disk, for a run that an error has ended.

        That error is the one to report, so one of closing is not raised. Weights & Biases is left
        to notice on its own that the run did not finish.
        """
        for sink in self._sinks:
            if isinstance(sink, MetricsFile | TensorBoard):
                with contextlib.suppress(OSError, WorkdirError):
                    sink.close()
        for files in (self._journal, *self._others):
            with contextlib.suppress(OSError, WorkdirError):
                files.close()
        self._held.close()

    def _unless_lost(self, action: Callable[[], None]) -> LostWorkdirError | None:
        """Runs an action; returns the error if the workdir has moved since the last `_lost`.

        The destinations write to open files, so a row is safe even then.
        """
        try:
            action()
        except WorkdirError:
            lost = self._lost()
            if lost is None:
                raise
            return lost
        return None

    def _lost(self) -> LostWorkdirError | None:
        """The error to raise after writing, if the workdir was moved and its new path is known.

        Raises:
            LostWorkdirError: its new path is unknown.
        """
        try:
            self._held.check()
        except LostWorkdirError as error:
            if error.moved_to is None:
                raise
            self._held.follow(error.moved_to)
            for target in self._kept:
                target.follow(error.moved_to)
            return error
        return None


class SilentLog:
    """The log of all processes except the first; it writes nothing."""

    start = 0

    def take_journal(self) -> Journal:
        """Empty."""
        return NO_JOURNAL

    def write(self, row: Mapping[str, Any]) -> None:
        """Does nothing."""

    def record(self, record: StepRecord) -> None:
        """Does nothing."""

    def record_event(self, event: str, step: int, facts: Mapping[str, Any]) -> None:
        """Does nothing."""

    def sync(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""

    def close_files(self) -> None:
        """Does nothing."""
