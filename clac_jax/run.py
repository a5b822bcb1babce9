"""The parts of a run: what the training loop receives, and what changes during training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import ml_collections
from etils import epath

from clac_jax.checkpoint.layout import CHECKPOINTS, step_folders
from clac_jax.checkpoint.saving import Saver
from clac_jax.digests.digest import METRIC_PREFIX, Digest
from clac_jax.digests.host import array_digests
from clac_jax.distributed import processes
from clac_jax.distributed.preemption import StopSignals
from clac_jax.distributed.processes import SharedRequests
from clac_jax.distributed.watchdog import Watch
from clac_jax.healing.errors import FaultyMachineError
from clac_jax.healing.errors import TrainingDivergedError as TrainingDivergedError  # for callers
from clac_jax.healing.healer import Healer
from clac_jax.healing.passes import Observed
from clac_jax.input_pipeline.batch import Batch
from clac_jax.input_pipeline.run_data import RunData
from clac_jax.journal.journal_file import STARTS_FILE, STEPS_FILE
from clac_jax.journal.record import NOT_FINITE, UNLIKE_COPIES, StepRecord
from clac_jax.reporting.events import Events, NoEvents
from clac_jax.reporting.progress_line import ProgressLine, SilentLine
from clac_jax.reporting.run_log import RunLog, SilentLog
from clac_jax.tasks import Task
from clac_jax.training.parallel import Parallel
from clac_jax.training.progress import RunProgress
from clac_jax.training.state import TrainState
from clac_jax.training.state_digests import StateDigests
from clac_jax.training.step import TrainStep

ROWS = ("metrics.jsonl", STEPS_FILE, STARTS_FILE)
"""Files of the workdir that are cut back to the step that is resumed."""

NOT_OF_LOSS = ("grad_norm", "learning_rate")
"""Metrics of a step that are not terms of its loss."""


class UnlikeCopiesError(FaultyMachineError):
    """The copies of the state on several devices differ."""


@dataclass(frozen=True)
class QueuedStep:
    """A step that the devices may still be computing.

    Attributes:
        state: the state after it.
        progress: the position after it.
        metrics: its metrics, and digests of its gradient and batch.
        digests: digests of `state`; None if they are not due.
    """

    state: TrainState
    progress: RunProgress
    metrics: Mapping[str, jax.Array]
    digests: Mapping[str, jax.Array] | None


@dataclass(frozen=True)
class FinishedStep:
    """The results of a step, on the host.

    Attributes:
        progress: the position after it.
        metrics: name -> value.
        record: its record in the journal.
        copies: for each local device, part of the state -> digest of the copy on that device; empty
            if the state was not digested after this step.
    """

    progress: RunProgress
    metrics: Mapping[str, float]
    record: StepRecord
    copies: Sequence[Mapping[str, Digest]]


@dataclass
class Current:
    """The part of a run that changes during training.

    Attributes:
        state: the state of the training, on the devices.
        progress: position of the run; always that of `state`.
        queued: the last step, until `Run.finish_step` has fetched its results.
        finished: what that step has computed, once they have been fetched.
        layouts: layouts of the batches so far; each requires its own compiled program.
    """

    state: TrainState
    progress: RunProgress
    queued: QueuedStep | None = None
    finished: FinishedStep | None = None
    layouts: set[Any] = field(default_factory=set)

    def advance(self, queued: QueuedStep) -> None:
        """Moves the run on to the state after a step that has been queued."""
        self.state, self.progress, self.queued = queued.state, queued.progress, queued


@dataclass(frozen=True)
class Run:
    """Everything that the training loop uses.

    Attributes:
        config: the run's config.
        workdir: its local folder; only the first process accesses it.
        shown: name of the workdir in messages: the folder, or the URL of a bucket.
        data: provides the batches.
        task: the model, its loss and its measures.
        parallel: placement of the state and the steps on the devices.
        train_step: compiled for all devices; reuses the memory of the state that it receives.
        state_digests: computes digests of a state on the devices.
        template: shapes and dtypes of the state on the host.
        saver: saves and removes checkpoints.
        log: receives the rows.
        line: shows the progress.
        events: receives what the run does when.
        stop: listens for the signals that request a stop.
        requests: makes a request of one process known to all.
        watchdog: ends the run if something takes far too long.
        healer: decides what happens when a step goes wrong.
        began_at: position at which the run was set up.
        is_own: whether it resumed from a checkpoint in its own workdir.
        current: the only part that changes.
    """

    config: ml_collections.ConfigDict
    workdir: Path
    shown: str
    data: RunData
    task: Task
    parallel: Parallel
    train_step: TrainStep
    state_digests: StateDigests
    template: TrainState
    saver: Saver
    log: RunLog | SilentLog
    line: ProgressLine | SilentLine
    events: Events | NoEvents
    stop: StopSignals
    requests: SharedRequests
    watchdog: Watch
    healer: Healer
    began_at: RunProgress
    is_own: bool
    current: Current

    def queue_step(self, batch: Batch) -> QueuedStep:
        """Queues a step on the devices; it takes the memory of the current state."""
        config, before = self.config, self.current.progress
        progress = before.after_step(self._examples_per_step)
        state, metrics = self.train_step(self.current.state, batch)
        every = config.journal.digest_every
        is_due = every and progress.step % every == 0
        digests = self.state_digests.queue(state) if is_due else None
        return QueuedStep(state, progress, metrics, digests)

    def finish_step(self) -> None:
        """Waits for the results of the last step, unless that is done; records and checks them.

        Raises:
            GoBack: the steps since the newest checkpoint must be computed again.
            TrainingDivergedError: the loss or the gradient is not finite.
            UnlikeCopiesError: the devices have different states.
            WorkdirError: the record cannot be written.
        """
        current = self.current
        queued, current.queued = current.queued, None
        if queued is None:
            return
        current.finished = finished = self._fetch(queued)
        self.log.record(finished.record)
        self.healer.observe(_observed(finished), finished.progress, self._examples_per_step)
        check(finished)

    @property
    def _examples_per_step(self) -> int:
        return int(self.config.batch_size * self.config.accumulate_steps)

    def _fetch(self, queued: QueuedStep) -> FinishedStep:
        copies = [] if queued.digests is None else self.state_digests.fetch(queued.digests)
        values, digests = fetch(self.parallel, queued.metrics, copies)
        if not self.config.journal.digest_every:
            digests = {}
        unlike = any(copy != copies[0] for copy in copies)
        finite = math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])
        record = StepRecord(
            step=queued.progress.step,
            epoch=queued.progress.epoch,
            start=self.log.start,
            loss=values["loss"],
            grad_norm=values["grad_norm"],
            learning_rate=values["learning_rate"],
            digests=digests,
            flags=NOT_FINITE * (not finite) + UNLIKE_COPIES * unlike,
        )
        return FinishedStep(queued.progress, values, record, copies)

    def go_back(self) -> None:
        """Ends this pass over the steps; the run is then set up from its newest checkpoint."""
        checkpoints = self.saver.checkpoints
        processes.save_if_lost(checkpoints.describe_newest)  # never the present state
        self.watchdog.save_first = checkpoints.describe_newest
        self.line.close()
        checkpoints.close()
        self.log.close()
        if processes.is_first() and not step_folders(epath.Path(self.workdir) / CHECKPOINTS):
            for name in ROWS:  # it begins again
                (self.workdir / name).unlink(missing_ok=True)

    def evaluated(self) -> TrainState:
        """The present state with the parameters to validate and test, see `config.ema`."""
        return self.current.state.evaluated(self.config.ema.evaluate)

    def save(self, metrics: Mapping[str, float] | None = None) -> None:
        """Saves the present state.

        Args:
            metrics: results of the validation at this step, or None between validations.

        Raises:
            CheckpointError: see `Checkpoints.save`.
        """
        with self.events.during("save_wait"):
            self.saver.save(self.current.state, self.current.progress, metrics)
        self.requests.saved()
        self.healer.saved(self.current.progress.step)
        self.events.saved(self.current.progress.step)

    def poll(self, save_requested: bool = False) -> bool:
        """Exchanges requests; called by all processes at the same points of the run.

        Args:
            save_requested: whether this process requests a save.

        Returns:
            Whether any process requests a save.

        Raises:
            Preempted: a process has received a signal to stop.
        """
        stop, save = self.requests.poll(self.stop.requested, save_requested)
        self.stop.raise_if_requested(stop)
        return save


def _observed(finished: FinishedStep) -> Observed:
    record, copies = finished.record, finished.copies
    first = copies[0] if copies else {}
    unlike = [number for number, copy in enumerate(copies) if copy != first]
    return Observed(
        finished.progress.step,
        record.loss,
        record.grad_norm,
        {name: str(digest) for name, digest in record.digests.items()},
        f"local devices 0 and {unlike[0]} had different states" if unlike else "",
    )


def fetch(
    parallel: Parallel,
    metrics: Mapping[str, jax.Array],
    copies: Sequence[Mapping[str, Digest]],
) -> tuple[dict[str, float], dict[str, Digest]]:
    """Waits for the results of a step.

    Args:
        parallel: the placement of the results.
        metrics: what the step has returned.
        copies: the digests of the state after it, for each local device; empty for none.

    Returns:
        The metrics, and all digests of the step.
    """
    arrays = parallel.to_host(metrics)
    digests = {
        name.removeprefix(METRIC_PREFIX): Digest.of_words(value)
        for name, value in arrays.items()
        if name.startswith(METRIC_PREFIX)
    }
    terms = {name: value for name, value in arrays.items() if value.ndim == 0}
    of_loss = {name: value for name, value in terms.items() if name not in NOT_OF_LOSS}
    digests["loss"] = Digest.sum(array_digests(of_loss).values())
    digests |= copies[0] if copies else {}
    return {name: float(value) for name, value in terms.items()}, digests


def check_measures(measures: Mapping[str, float], what: str, step: int, advice: str) -> None:
    """Raises an error if a model cannot be ranked by its measures.

    Args:
        measures: name -> value, of a validation or test.
        what: "validation" or "test".
        step: number of steps after which the model was measured.
        advice: what to do if the model is to blame, as a sentence.

    Raises:
        TrainingDivergedError: one is not finite.
    """
    for name, value in measures.items():
        if not math.isfinite(value):
            raise TrainingDivergedError(
                f"After step {step} the {what} has {name} = {value}. {advice} If the loss in "
                "training is as usual, an example of that split is to blame: look for unusual "
                "numbers in it."
            )


def check(finished: FinishedStep) -> None:
    """Raises an error if the results of a step show that training cannot continue from it.

    Raises:
        TrainingDivergedError: the loss or the gradient is not finite.
        UnlikeCopiesError: the devices have different states.
    """
    step, loss, norm = (finished.progress.step, *map(finished.metrics.get, ("loss", "grad_norm")))
    if finished.record.flags & NOT_FINITE:
        raise TrainingDivergedError(
            f"At step {step} the loss is {loss} and the gradient norm {norm}. "
            "The newest checkpoint is from before that: lower learning_rate or gradient_clip, "
            "raise warmup_steps, and start the same command again."
        )
    if finished.record.flags & UNLIKE_COPIES:
        first = finished.copies[0]
        number, copy = next(
            (number, copy) for number, copy in enumerate(finished.copies) if copy != first
        )
        parts = ", ".join(part for part in first if copy[part] != first[part])
        raise UnlikeCopiesError(
            f"After step {step} local devices 0 and {number} have different states ({parts}), "
            "which should be equal bit for bit: the memory or the arithmetic of a device is wrong. "
            "The newest checkpoint is from before that: start the same command again, on other "
            "devices if this returns."
        )
