"""The parts of a run: what the training loop receives, and what changes during training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import ml_collections
from etils import epath

from clac_jax.checkpoint.layout import CHECKPOINTS, step_folders
from clac_jax.checkpoint.saving import Saver
from clac_jax.distributed import processes
from clac_jax.distributed.preemption import StopSignals
from clac_jax.distributed.processes import SharedRequests
from clac_jax.distributed.watchdog import Watch
from clac_jax.healing.errors import TrainingDivergedError as TrainingDivergedError  # for callers
from clac_jax.healing.healer import Healer
from clac_jax.healing.passes import Observed
from clac_jax.input_pipeline.run_data import RunData
from clac_jax.reporting.events import Events, NoEvents
from clac_jax.reporting.progress_line import ProgressLine, SilentLine
from clac_jax.reporting.run_log import RunLog, SilentLog
from clac_jax.tasks import Task
from clac_jax.training.parallel import Parallel
from clac_jax.training.progress import RunProgress
from clac_jax.training.state import TrainState
from clac_jax.training.step import TrainStep


ROWS = ("metrics.jsonl",)  # files of the workdir that are cut back to the step that is resumed


@dataclass
class Current:
    """The part of a run that changes during training.

    Attributes:
        state: the state of the training, on the devices.
        progress: position of the run; always that of `state`.
        metrics: metrics of the last step, on the devices, until they are known to be finite.
        layouts: layouts of the batches so far; each requires its own compiled program.
    """

    state: TrainState
    progress: RunProgress
    metrics: dict[str, jax.Array] | None = None
    layouts: set[Any] = field(default_factory=set)


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

    def check_finite(self) -> None:
        """Waits for the last step, and passes its values to the healer.

        Raises:
            GoBack: the steps since the newest checkpoint must be computed again.
            TrainingDivergedError: its loss or gradient is not finite.
            FaultyMachineError: the machine has computed it wrongly.
        """
        current = self.current
        metrics, current.metrics = current.metrics, None
        if metrics is None:
            return
        values = self.parallel.to_host({name: metrics[name] for name in ("loss", "grad_norm")})
        observed = Observed(
            current.progress.step, float(values["loss"]), float(values["grad_norm"])
        )
        examples = self.config.batch_size * self.config.accumulate_steps
        self.healer.observe(observed, current.progress, examples)

    def go_back(self) -> None:
        """Ends this pass over the steps; the run is then set up again from its newest checkpoint."""
        checkpoints = self.saver.checkpoints
        processes.save_if_lost(checkpoints.describe_newest)  # never the present state
        self.watchdog.save_first = checkpoints.describe_newest
        self.line.close()
        checkpoints.close()
        self.log.close()
        if processes.is_first() and not step_folders(epath.Path(self.workdir) / CHECKPOINTS):
            for name in ROWS:  # it begins anew
                (self.workdir / name).unlink(missing_ok=True)

    def evaluated(self) -> TrainState:
        """The present state, with the parameters to validate and test: the average if configured."""
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
