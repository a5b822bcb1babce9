"""The times at which a run saves: by epoch, step or minute, on a stop request, and on failure."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import ml_collections

from clac_jax.checkpoint.arrays import read_targets
from clac_jax.checkpoint.averages import evaluated_path
from clac_jax.checkpoint.best import Shapes
from clac_jax.checkpoint.division import is_sharded
from clac_jax.checkpoint.files import DamagedCheckpointError
from clac_jax.checkpoint.shard_handler import Target
from clac_jax.checkpoint.tree import from_arrays, to_arrays
from clac_jax.checkpoint.writer import CheckpointWriter
from clac_jax.digests.digest import Digest
from clac_jax.distributed import processes
from clac_jax.distributed.lost_process import LostProcessError
from clac_jax.distributed.preemption import Preempted
from clac_jax.distributed.sending import any_text
from clac_jax.distributed.supervisor_pipe import report_saved
from clac_jax.distributed.watchdog import SAVE, NoWatchdog, Watch
from clac_jax.errors import LostWorkdirError, UserError, warn
from clac_jax.training.parallel import Parallel
from clac_jax.training.progress import RunProgress
from clac_jax.training.state import TrainState


class Syncable(Protocol):
    """The run's log, which must be on disk before a checkpoint that depends on it."""

    def sync(self) -> None:
        """Forces all rows to the disk."""


class Saver:
    """Saves a run's state at the times set in `config.checkpoint`.

    Every process has one and calls it at the same points of the run; only the first one writes.
    """

    def __init__(
        self,
        parallel: Parallel,
        checkpoints: CheckpointWriter,
        log: Syncable,
        options: ml_collections.ConfigDict,
        watchdog: Watch | None = None,
        digest: Callable[[TrainState], Mapping[str, Digest]] | None = None,
    ):
        """Starts the clock of `every_n_minutes`.

        Args:
            parallel: placement of the state on the devices.
            checkpoints: the run's checkpoints; `NoCheckpoints` in all processes except the first.
            log: the log, whose rows must be on disk before the checkpoint that follows them.
            options: the group `config.checkpoint`.
            watchdog: watches the saves; by default, nothing does.
            digest: computes the digests of a state on the devices; None if they are not recorded.
        """
        self._parallel = parallel
        self.checkpoints = checkpoints
        self._watchdog = checkpoints.watchdog = watchdog or NoWatchdog()
        self._log = log
        self._options = options
        self._digest = digest
        self._last = time.monotonic()
        # The thread that notices a lost process saves while the main thread may be saving.
        self._lock = threading.RLock()

    def due_at_step(self, progress: RunProgress) -> bool:
        """Whether the number of this step makes a save due."""
        options = self._options
        return any(
            every and progress.step % every == 0
            for every in (options.every_n_steps, options.keep_every_n_steps)
        )

    def due_by_time(self) -> bool:
        """Whether `every_n_minutes` have passed, by the clock of this process."""
        minutes = (time.monotonic() - self._last) / 60
        return bool(self._options.every_n_minutes and minutes >= self._options.every_n_minutes)

    def due_after_validation(self, progress: RunProgress, is_last: bool) -> bool:
        """Whether a save is due after epoch `progress.epoch - 1`, by epoch or by last step."""
        by_epoch = progress.epoch % self._options.every_n_epochs == 0
        return is_last or by_epoch or self.due_at_step(progress)

    def save(
        self,
        state: TrainState,
        progress: RunProgress,
        metrics: Mapping[str, float] | None = None,
        together: bool = True,
    ) -> None:
        """Saves the state, in the background if configured.

        Args:
            state: the state, on the devices.
            progress: position of the run.
            metrics: results of the validation at this step, or None between validations.
            together: whether all processes save; if not, the state is saved without its digests.

        Raises:
            CheckpointError: see `Checkpoints.save`.
        """
        self._last = time.monotonic()
        with self._watchdog.watching(SAVE):
            # Before the copy, which is compared with them.
            can_digest = together or not processes.are_several()
            digests = self._digest(state) if self._digest and can_digest else {}
            arrays = to_arrays(self._parallel.local(state))
            with self._lock:
                self.checkpoints.save(arrays, progress, metrics, self._log.sync, digests)
        if not processes.is_first():
            report_saved(progress.step)

    def save_before_leaving(
        self, state: TrainState, progress: RunProgress, error: Exception
    ) -> None:
        """Saves what is safe when `error` ends the loop, and finishes the save in progress.

        Nothing is saved if the numbers, the rows or the saving itself failed, if the failed step
        has already consumed the state's memory, or if a save would need the other processes, which
        do not know of the error.

        Raises:
            UserError: the run was asked to stop, and its last state could not be saved.
        """
        unsafe = isinstance(error, UserError) and error.prevents_saving
        deleted = any(leaf.is_deleted() for leaf in jax.tree.leaves(state))
        safe = progress.step > 0 and not unsafe and not deleted
        if isinstance(error, LostWorkdirError) and error.moved_to:
            self.checkpoints.follow(error.moved_to)
        try:
            together = isinstance(error, Preempted)
            if safe and (together or self._parallel.is_local(state)):
                self._save_unless_saved(state, progress, together)
            if isinstance(error, Preempted):
                self.checkpoints.wait_for_last()
            self.checkpoints.wait()
        except UserError as second:  # the first error is the one to raise
            if isinstance(error, Preempted):  # its message would say that all is saved
                raise
            warn(str(second))

    def save_without_others(self, state: TrainState, progress: RunProgress) -> str:
        """Saves the state of a run that has lost a process, if it is available, without the others.

        A step consumes the memory of the previous state, so no state is available while a step
        waits for the lost process; one is during a validation and between steps. The save in
        progress is finished first.

        Args:
            state: may be in use by the main thread, or be the result of a step that never ends.
            progress: position of the run.

        Returns:
            A sentence on the newest checkpoint.

        Raises:
            UploadError, LostWorkdirError: what was saved is not in the bucket; the message says
                where it is.
            LostProcessError: a save failed; the message says why, and which checkpoint is the
                newest.
        """
        self.checkpoints.others_are_lost()
        failure = ""
        try:
            if progress.step > 0 and self._is_intact(state, progress):
                self._save_unless_saved(state, progress, together=False)
        except UserError as error:
            failure = str(error)
        except (RuntimeError, ValueError) as error:  # JAX's, for a state deleted in the meantime
            warn(str(error))
        self.checkpoints.drain()  # its error says that what was saved is not where it belongs
        try:
            self.checkpoints.wait_for_last()
        except UserError as error:
            failure = failure or str(error)
        if failure:
            raise LostProcessError(f"{failure} {self.checkpoints.describe_newest()}")
        return self.checkpoints.describe_newest()

    def best_state(self, template: TrainState, state: TrainState) -> tuple[TrainState, int]:
        """The state to test, on the devices, and the step of its parameters.

        Args:
            template: shapes and dtypes of a state on the host.
            state: the final state to evaluate; it is tested if no checkpoint of the model is
                better.
        """
        last_step = int(self._parallel.to_host(state.step))
        model = template.model_only()
        shapes = to_arrays(self._parallel.describe(model))
        if is_sharded(to_arrays(self._parallel.describe(template))):
            with self._watchdog.watching("the best checkpoint"):
                step, arrays = self._read_best_in_parts(shapes, last_step)
        else:
            step, found = self.checkpoints.read_best(shapes, last_step)
            step = int(processes.maximum([step])()[0])
            if step != last_step:
                arrays, _ = processes.from_first(lambda: (found, b""), shapes)
        if step == last_step:
            return state, step
        best = self._parallel.put(from_arrays(model, arrays))
        return state.replace(params=best.params, batch_stats=best.batch_stats), step

    def _read_best_in_parts(self, shapes: Shapes, last_step: int) -> tuple[int, Mapping[str, Any]]:
        """Like `CheckpointWriter.read_best`, but each process reads what its devices need."""
        fitting = self.checkpoints.best_fitting(shapes, last_step)
        while True:
            info = next(fitting, None)  # always None except in the first process
            step = last_step if info is None and processes.is_first() else info.step if info else 0
            step = int(processes.maximum([step])()[0])
            if step == last_step:
                return step, {}
            arrays, damage = {}, ""
            try:
                info = self.checkpoints.info(step)
                wanted = {
                    path: Target(evaluated_path(info, path), leaf) for path, leaf in shapes.items()
                }
                arrays = read_targets(info, wanted)
            except DamagedCheckpointError as error:
                damage = str(error)
            if not (damage := any_text(damage)):
                return step, arrays
            if processes.is_first():
                warn(f"{damage} The next best is tested.")

    def _is_intact(self, state: TrainState, progress: RunProgress) -> bool:
        """Whether the state is complete on this host, computed, and at the step of `progress`."""
        leaves = jax.tree.leaves(state)
        if any(leaf.is_deleted() or not leaf.is_ready() for leaf in leaves):
            return False
        if not self._parallel.is_local(state):
            return False
        try:
            return int(self._parallel.to_host({"step": state.step})["step"]) == progress.step
        except (RuntimeError, ValueError):  # the result of a failed step
            return False

    def _save_unless_saved(self, state: TrainState, progress: RunProgress, together: bool) -> None:
        # Only the first process knows what was saved; a distributed state needs all to save.
        saved = self.checkpoints.saved == progress
        if not (saved and self._parallel.is_local(state)):
            self.save(state, progress, together=together)
