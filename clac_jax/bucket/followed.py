"""A run's checkpoints in the mirror, whose changes are passed to the uploader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from clac_jax.bucket.uploader import Uploader
from clac_jax.checkpoint.arrays import Arrays
from clac_jax.checkpoint.best import Shapes
from clac_jax.checkpoint.layout import CheckpointInfo
from clac_jax.checkpoint.manager import Checkpoints
from clac_jax.checkpoint.parts import Exchange
from clac_jax.digests.digest import NO_DIGESTS, Digest
from clac_jax.distributed.watchdog import Watch
from clac_jax.training.progress import RunProgress

DRAIN_SECONDS = 200.0  # less than `lost_process.LAST_SAVE_SECONDS`, for the message


class FollowedCheckpoints:
    """`Checkpoints` whose commits and removals are uploaded; a `CheckpointWriter`."""

    def __init__(self, inner: Checkpoints, uploader: Uploader, patience_seconds: float):
        """Wraps the checkpoints in the mirror.

        Args:
            inner: the checkpoints.
            uploader: uploads them.
            patience_seconds: how long `drain` waits for a store that cannot be reached.
        """
        self._inner, self._uploader = inner, uploader
        self._patience = patience_seconds
        inner.changed = uploader.changed
        inner.sharing.only_own = True

    @property
    def watchdog(self) -> Watch:
        """See `Checkpoints`."""
        return self._inner.watchdog

    @watchdog.setter
    def watchdog(self, watchdog: Watch) -> None:
        self._inner.watchdog = watchdog

    @property
    def saved(self) -> RunProgress | None:
        """See `Checkpoints`."""
        return self._inner.saved

    def save(
        self,
        arrays: Mapping[str, Any],
        progress: RunProgress,
        metrics: Mapping[str, float] | None,
        before_commit: Callable[[], None] = lambda: None,
        digests: Mapping[str, Digest] = NO_DIGESTS,
    ) -> None:
        """See `Checkpoints`.

        Raises:
            LostWorkdirError: somebody else holds the workdir.
        """
        self._uploader.check()
        self._inner.save(arrays, progress, metrics, before_commit, digests)

    def follow(self, workdir: Path) -> None:
        """See `Checkpoints`; what is saved at another place is not uploaded."""
        self._inner.follow(workdir)

    def check(self) -> None:
        """Raises the error of the background save or of the uploads.

        Raises:
            LostWorkdirError: somebody else holds the workdir.
            CheckpointError: see `Checkpoints`.
        """
        self._uploader.check()
        self._inner.check()

    def drain(self) -> None:
        """Blocks until no save is in progress and everything is uploaded; for a lost process.

        Raises:
            UploadError: the store cannot be reached; it is not waited for as long as at the end
                of the run, as the other processes wait for this one.
            LostWorkdirError: somebody else holds the workdir.
        """
        self._inner.drain()
        self._uploader.flush(min(self._patience, DRAIN_SECONDS))

    def wait(self) -> None:
        """See `Checkpoints`."""
        self._inner.wait()

    def wait_for_last(self) -> None:
        """See `Checkpoints`."""
        self._inner.wait_for_last()

    def describe_newest(self) -> str:
        """See `Checkpoints`."""
        return self._inner.describe_newest()

    def read_best(self, shapes: Shapes, last_step: int) -> tuple[int, Arrays]:
        """See `Checkpoints`."""
        with self.watchdog.unwatched():  # it may have to be downloaded
            return self._inner.read_best(shapes, last_step)

    def best_fitting(self, shapes: Shapes, last_step: int) -> Iterator[CheckpointInfo]:
        """See `Checkpoints`; they are in the bucket, where the other processes read them."""
        with self.watchdog.unwatched():
            self._uploader.flush(self._patience)
        return self._inner.best_fitting(shapes, last_step)

    def info(self, step: int) -> CheckpointInfo:
        """See `Checkpoints`."""
        return self._inner.info(step)

    def share_saves(self, prefix: str, exchange: Exchange) -> None:
        """See `Checkpoints`."""
        self._inner.share_saves(prefix, exchange)

    def others_are_lost(self) -> None:
        """See `Checkpoints`."""
        self._inner.others_are_lost()

    def end(self, progress: RunProgress, tested_step: int) -> None:
        """See `Checkpoints`."""
        self._inner.end(progress, tested_step)

    def close(self) -> None:
        """See `Checkpoints`."""
        self._inner.close()
