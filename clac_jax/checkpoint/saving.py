"""When a run saves: by epochs, steps and minutes, when it is told to stop, and when it fails."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

import jax
import ml_collections

from clac_jax import parallel
from clac_jax.checkpoint.manager import CheckpointError, Checkpoints
from clac_jax.checkpoint.tree import to_arrays
from clac_jax.errors import UserError
from clac_jax.progress import RunProgress
from clac_jax.run_log import RunLog
from clac_jax.train_state import TrainState


class Saver:
    """Saves a run's replicated state at the times that `config.checkpoint` names."""

    def __init__(self, checkpoints: Checkpoints, log: RunLog, options: ml_collections.ConfigDict):
        """Starts the clock of `every_n_minutes`.

        Args:
            checkpoints: of the run.
            log: whose rows must be on the disk before the checkpoint that follows them.
            options: the group `config.checkpoint`.
        """
        self._checkpoints = checkpoints
        self._log = log
        self._options = options
        self._last = time.monotonic()

    def due_at_step(self, progress: RunProgress) -> bool:
        """Whether a save is due after this step in the middle of an epoch."""
        options = self._options
        by_step = any(
            every and progress.step % every == 0
            for every in (options.every_n_steps, options.keep_every_n_steps)
        )
        minutes = (time.monotonic() - self._last) / 60
        return by_step or bool(options.every_n_minutes and minutes >= options.every_n_minutes)

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
        arrays = to_arrays(parallel.first_shards(state))
        self._checkpoints.save(arrays, progress, metrics, before_commit=self._log.sync)

    def save_before_leaving(
        self, state: TrainState, progress: RunProgress, error: Exception
    ) -> None:
        """Saves what is safe when `error` ends the loop, and ends the save that is under way.

        Nothing is saved where the numbers, the rows or the saving itself are what failed, or where
        the failed step has already taken the state's memory.
        """
        spoilt = isinstance(error, CheckpointError) or getattr(error, "spoils_state", False)
        deleted = any(leaf.is_deleted() for leaf in jax.tree.leaves(state))
        is_new = progress.step > 0 and self._checkpoints.saved != progress
        try:
            if is_new and not spoilt and not deleted:
                self.save(state, progress)
            self._checkpoints.wait()
        except UserError as second:  # the first error is the one to raise
            print(f"warning: {second}", file=sys.stderr, flush=True)
