"""When a run saves: by epochs, steps and minutes, when it is told to stop, and when it fails."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Mapping

import jax
import ml_collections

from clac_jax.checkpoint.arrays import Arrays, read_arrays
from clac_jax.checkpoint.files import DamagedCheckpointError
from clac_jax.checkpoint.manager import CheckpointError, Checkpoints
from clac_jax.checkpoint.tree import to_arrays
from clac_jax.errors import UserError
from clac_jax.parallel import Parallel
from clac_jax.preemption import Preempted
from clac_jax.progress import RunProgress
from clac_jax.run_log import RunLog, SilentLog
from clac_jax.train_state import TrainState
from clac_jax.workdir import LostWorkdirError


class Saver:
    """Saves a run's state at the times that `config.checkpoint` names.

    Every process has one and calls it at the same points of the run; the first one writes.
    """

    def __init__(
        self,
        parallel: Parallel,
        checkpoints: Checkpoints | None,
        log: RunLog | SilentLog,
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

    def due_at_epoch(self, progress: RunProgress, is_last: bool) -> bool:
        """Whether a save is due after the validation that ended epoch `progress.epoch - 1`."""
        return is_last or progress.epoch % self._options.every_n_epochs == 0

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
            self._checkpoints.save(arrays, progress, metrics, before_commit=self._log.sync)

    def save_before_leaving(
        self, state: TrainState, progress: RunProgress, error: Exception
    ) -> None:
        """Saves what is safe when `error` ends the loop, and ends the save that is under way.

        Nothing is saved where the numbers, the rows or the saving itself are what failed, where the
        failed step has already taken the state's memory, or where the other processes, which do not
        know of the error, would have to help.
        """
        spoilt = isinstance(error, CheckpointError) or getattr(error, "spoils_state", False)
        deleted = any(leaf.is_deleted() for leaf in jax.tree.leaves(state))
        safe = progress.step > 0 and not spoilt and not deleted
        if self._checkpoints is not None and isinstance(error, LostWorkdirError) and error.moved_to:
            self._checkpoints.follow(error.moved_to)
        try:
            if safe and (isinstance(error, Preempted) or self._parallel.is_whole(state)):
                self._save_unless_saved(state, progress)
            self.wait()
        except UserError as second:  # the first error is the one to raise
            print(f"warning: {second}", file=sys.stderr, flush=True)

    def check(self) -> None:
        """See `Checkpoints.check`."""
        if self._checkpoints is not None:
            self._checkpoints.check()

    def wait(self) -> None:
        """See `Checkpoints.wait`."""
        if self._checkpoints is not None:
            self._checkpoints.wait()

    def end(self) -> None:
        """See `Checkpoints.end`."""
        if self._checkpoints is not None:
            self._checkpoints.end()

    def close(self) -> None:
        """See `Checkpoints.close`."""
        if self._checkpoints is not None:
            self._checkpoints.close()

    def best(self, paths: Collection[str], last_step: int) -> tuple[int, Arrays | None]:
        """The step of the best checkpoint that is whole, and its arrays.

        Args:
            paths: slash paths of the arrays.
            last_step: of the state at hand; None instead of its arrays, if it is the best.
        """
        if self._checkpoints is None:
            return 0, None
        whole, _ = self._checkpoints.read_all()
        for step in self._checkpoints.best_first():
            if step == last_step:
                break
            if step in whole:
                try:
                    return step, read_arrays(whole[step], paths)
                except DamagedCheckpointError as error:
                    print(f"warning: {error} The next best is tested.", flush=True)
        return last_step, None

    def _save_unless_saved(self, state: TrainState, progress: RunProgress) -> None:
        # Only the first process knows what it has saved; where all must help, all do.
        saved = self._checkpoints is not None and self._checkpoints.saved == progress
        if not (saved and self._parallel.is_whole(state)):
            self.save(state, progress)
