"""The checkpoints of a run in the processes except the first: each saves its part of the state."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_collections
from etils import epath

from clac_jax.checkpoint.arrays import Arrays
from clac_jax.checkpoint.background import Background, CheckpointError
from clac_jax.checkpoint.best import Shapes
from clac_jax.checkpoint.division import divide
from clac_jax.checkpoint.layout import CHECKPOINTS, CheckpointInfo, read_info
from clac_jax.checkpoint.orbax_manager import failure_reason
from clac_jax.checkpoint.parts import Exchange
from clac_jax.checkpoint.snapshot import StateInParts
from clac_jax.digests.digest import NO_DIGESTS, Digest
from clac_jax.distributed.watchdog import WRITING, NoWatchdog, Watch
from clac_jax.errors import UserError, WorkdirError, warn
from clac_jax.files.paths import explain
from clac_jax.training.progress import RunProgress


class PartCheckpoints:
    """Saves this process's part of a sharded state; the first process makes checkpoints of them.

    At most one save is in progress, like in the first process. It has ended here when the part is
    written; the first process then merges and commits.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        config: ml_collections.ConfigDict,
        shapes: Shapes,
        index: int,
    ):
        """Prepares to save.

        Args:
            workdir: the run's workdir, or a folder of this process if it is in a bucket.
            config: the run's config.
            shapes: slash path -> shape and dtype of every array, and its sharding.
            index: index of this process.

        Raises:
            CheckpointError: the folder cannot be used.
        """
        self.directory = epath.Path(workdir).resolve() / CHECKPOINTS
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"Cannot use {self.directory}: {explain(error)}") from error
        self.snapshot = StateInParts(divide(shapes), index)
        self._options = config.checkpoint
        self._background = Background(self._options.on_failure)
        # Memory for the copy of the state is allocated while the first step compiles.
        self._allocated = self._background.prepare(self.snapshot.allocate)
        self.watchdog: Watch = NoWatchdog()

    @property
    def saved(self) -> RunProgress | None:
        """The position of which this process has saved its part last."""
        return self._background.saved

    def save(
        self,
        arrays: Mapping[str, Any],
        progress: RunProgress,
        metrics: Mapping[str, float] | None,
        before_commit: Callable[[], None] = lambda: None,
        digests: Mapping[str, Digest] = NO_DIGESTS,
    ) -> None:
        """Copies this process's shards and saves them; arguments as for `Checkpoints.save`.

        Raises:
            CheckpointError: this save (if not asynchronous) or an earlier one failed, and
                `config.checkpoint.on_failure` is "stop".
        """
        del metrics, before_commit, digests  # the first process has them
        self.wait()
        self._allocated.result()
        self.snapshot.copy(arrays)
        self._background.submit(lambda: self._save_with_retries(progress.step), progress)
        if not self._options.async_save:
            self.wait()

    def share_saves(self, prefix: str, exchange: Exchange) -> None:
        """See `Checkpoints.share_saves`."""
        self.snapshot.save_names, self.snapshot.exchange = prefix, exchange

    def others_are_lost(self) -> None:
        """Does nothing: only the first process waits for others."""

    def follow(self, workdir: Path) -> None:
        """Does nothing: a part is useless without those of the other processes."""

    def check(self) -> None:
        """See `Checkpoints.check`."""
        self._background.check()

    def drain(self) -> None:
        """See `Checkpoints.drain`."""
        self._background.drain()

    def wait(self) -> None:
        """See `Checkpoints.wait`."""
        with self.watchdog.unwatched():  # the save itself is watched
            self._background.wait()

    def wait_for_last(self) -> None:
        """See `Checkpoints.wait_for_last`."""
        with self.watchdog.unwatched():
            self._background.wait_for_last()

    def describe_newest(self) -> str:
        """An empty text: the first process describes it."""
        return ""

    def read_best(self, shapes: Shapes, last_step: int) -> tuple[int, Arrays]:
        """Not used: each process reads its part of the best checkpoint."""
        raise NotImplementedError

    def best_fitting(self, shapes: Shapes, last_step: int) -> Iterator[CheckpointInfo]:
        """Empty: the first process chooses."""
        del shapes, last_step
        return iter(())

    def info(self, step: int) -> CheckpointInfo:
        """See `Checkpoints.info`."""
        return read_info(epath.Path(self.snapshot.exchange.checkpoint(Path(self.directory), step)))

    def end(self, progress: RunProgress, tested_step: int) -> None:
        """Waits for the last save."""
        del progress, tested_step
        self.wait_for_last()

    def close(self) -> None:
        """See `Checkpoints.close`."""
        self.wait()
        self._background.close()

    def _save_with_retries(self, step: int) -> None:
        for attempt in range(1, self._options.retries + 2):
            try:
                with self.watchdog.watching(WRITING):
                    self.snapshot.write(Path(self.directory), step)
                return
            except Exception as error:  # of TensorStore or the disk: report all
                reason = failure_reason(error)
                what = f"Cannot save this process's part of step {step}: {reason}"
                if attempt > self._options.retries:
                    try:
                        self.snapshot.report_failure(reason)
                    except (OSError, UserError):
                        # The first process does not know, and would wait indefinitely.
                        raise FailedPartError(what) from error
                    raise CheckpointError(what) from error
                warn(f"{what} Attempt {attempt + 1} follows.")
                time.sleep(self._options.retry_seconds * 2 ** (attempt - 1))


class FailedPartError(WorkdirError):
    """A part cannot be saved, nor can this be reported to the first process: the run must stop."""
