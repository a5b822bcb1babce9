"""When a run saves: by epochs, steps and minutes, when it is asked to stop, and when it fails."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import ml_collections

from clac_jax.checkpoint.best import read_best
from clac_jax.checkpoint.manager import CheckpointError, Checkpoints
from clac_jax.checkpoint.tree import from_arrays, to_arrays
from clac_jax.distributed import processes
from clac_jax.distributed.preemption import Preempted
from clac_jax.errors import LostWorkdirError, UserError
from clac_jax.training.parallel import Parallel
from clac_jax.training.progress import RunProgress
from clac_jax.training.state import TrainState


class Syncable(Protocol):
    """What must be on the disk before a checkpoint that depends on it: the log of the run."""

    def sync(self) -> None:
        """Forces it to the disk."""


class Saver:
    """Saves a run's state at the times that `config.checkpoint` names.

    Every process has one and calls it at the same points of the run; the first one writes.
    """

    def __init__(
        self,
        parallel: Parallel,
        checkpoints: Checkpoints | None,
        log: Syncable,
        options: ml_collections.ConfigDict,
    ):
        """Starts the clock of `every_n_minutes`.

        Args:
            parallel: how the state lies on the devices.
            checkpoints: of the run; None in the processes behind the first.
            log: whose rows must be on the disk before the checkpoint that follows them.
            options: the group `config.checkpoint`.
        """
        self._parallel = parallel
        self._checkpoints = checkpoints
        self._log = log
        self._options = options
        self._last = time.monotonic()
        # The thread that notices a lost process saves while the main thread may be saving.
        self._lock = threading.RLock()

    def due_at_step(self, progress: RunProgress) -> bool:
        """Whether a save is due after this step by its number."""
        options = self._options
        return any(
            every and progress.step % every == 0
            for every in (options.every_n_steps, options.keep_every_n_steps)
        )

    def due_by_time(self) -> bool:
        """Whether `every_n_minutes` are over, by the clock of this process."""
        minutes = (time.monotonic() - self._last) / 60
        return bool(self._options.every_n_minutes and minutes >= self._options.every_n_minutes)

    def due_after_validation(self, progress: RunProgress, is_last: bool) -> bool:
        """Whether a save is due behind epoch `progress.epoch - 1`, by it or by its last step."""
        by_epoch = progress.epoch % self._options.every_n_epochs == 0
        return is_last or by_epoch or self.due_at_step(progress)

    def save(
        self, state: TrainState, progress: RunProgress, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Saves the state; in the background if so configured.

        Raises:
            CheckpointError: see `Checkpoints.save`.
        """
        self._last = time.monotonic()
        arrays = to_arrays(self._parallel.whole(state))
        if self._checkpoints is not None:
            with self._lock:
                self._checkpoints.save(arrays, progress, metrics, before_commit=self._log.sync)

    def save_before_leaving(
        self, state: TrainState, progress: RunProgress, error: Exception
    ) -> None:
        """Saves what is safe when `error` ends the loop, and ends the save that is under way.

        Nothing is saved where the numbers, the rows or the saving itself are what failed, where the
        failed step has already taken the state's memory, or where the other processes, which do not
        know of the error, would have to help.

        Raises:
            UserError: the run was asked to stop, and its last state could not be saved.
        """
        spoilt = isinstance(error, CheckpointError) or getattr(error, "spoils_state", False)
        deleted = any(leaf.is_deleted() for leaf in jax.tree.leaves(state))
        safe = progress.step > 0 and not spoilt and not deleted
        if self._checkpoints is not None and isinstance(error, LostWorkdirError) and error.moved_to:
            self._checkpoints.follow(error.moved_to)
        try:
            if safe and (isinstance(error, Preempted) or self._parallel.is_whole(state)):
                self._save_unless_saved(state, progress)
            if isinstance(error, Preempted):
                self.wait_for_last()
            self.wait()
        except UserError as second:  # the first error is the one to raise
            if isinstance(error, Preempted):  # which would say that all is saved
                raise
            print(f"warning: {second}", file=sys.stderr, flush=True)

    def save_what_is_there(self, state: TrainState, progress: RunProgress) -> str:
        """Saves the state of a run that has lost a process, if it is intact, without the others.

        A step takes the memory of the state before it, so there is none while a step waits for the
        lost process; there is one in a validation and between steps. The save under way is ended.

        Args:
            state: may be in use by the main thread, or be the result of a step that never ends.
            progress: where the run is.

        Returns:
            What the newest checkpoint is, in a sentence.
        """
        if self._checkpoints is None:
            return ""
        try:
            if progress.step > 0 and self._is_intact(state, progress):
                self._save_unless_saved(state, progress)
            self._checkpoints.drain()
        except (UserError, RuntimeError, ValueError) as error:  # JAX's, of a state that is gone
            print(f"warning: {error}", file=sys.stderr, flush=True)
        steps = self._checkpoints.read_all()[0]
        if not steps:
            return "There is no checkpoint yet."
        return f"The newest checkpoint is of step {max(steps)}."

    def check(self) -> None:
        """See `Checkpoints.check`."""
        if self._checkpoints is not None:
            self._checkpoints.check()

    def wait(self) -> None:
        """See `Checkpoints.wait`."""
        if self._checkpoints is not None:
            self._checkpoints.wait()

    def wait_for_last(self) -> None:
        """See `Checkpoints.wait_for_last`."""
        if self._checkpoints is not None:
            self._checkpoints.wait_for_last()

    def end(self, progress: RunProgress) -> None:
        """See `Checkpoints.end`."""
        if self._checkpoints is not None:
            self._checkpoints.end(progress)

    def close(self) -> None:
        """See `Checkpoints.close`."""
        if self._checkpoints is not None:
            self._checkpoints.close()

    def best_state(self, template: TrainState, state: TrainState) -> tuple[TrainState, int]:
        """The state to test, on the devices, and the step of its parameters.

        Args:
            template: shapes and dtypes of a state on the host.
            state: at the end of the run; it is tested where no checkpoint of the model is better.
        """
        last_step = int(self._parallel.to_host(state.step))
        model = template.model_only()
        shapes = to_arrays(model)
        step = 0
        arrays: Mapping[str, Any] = {}
        if self._checkpoints is not None:
            intact, _ = self._checkpoints.read_all()
            step, arrays = read_best(intact, self._checkpoints.best_first(), shapes, last_step)
        step = int(processes.maximum([step])()[0])
        if step == last_step:
            return state, step
        arrays, _ = processes.from_first(lambda: (arrays, b""), shapes)
        best = self._parallel.put(from_arrays(model, arrays))
        return state.replace(params=best.params, batch_stats=best.batch_stats), step

    def _is_intact(self, state: TrainState, progress: RunProgress) -> bool:
        """Whether the state is here in full, computed, and of the step that `progress` says."""
        leaves = jax.tree.leaves(state)
        if any(leaf.is_deleted() or not leaf.is_ready() for leaf in leaves):
            return False
        if not self._parallel.is_whole(state):
            return False
        try:
            return int(self._parallel.to_host({"step": state.step})["step"]) == progress.step
        except (RuntimeError, ValueError):  # the result of a step that has failed
            return False

    def _save_unless_saved(self, state: TrainState, progress: RunProgress) -> None:
        # Only the first process knows what it has saved; where all must help, all do.
        saved = self._checkpoints is not None and self._checkpoints.saved == progress
        if not (saved and self._parallel.is_whole(state)):
            self.save(state, progress)
