"""One save at a time in a thread of its own, and what its failure means for the run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from clac_jax.errors import UserError, warn
from clac_jax.training.progress import RunProgress

Result = TypeVar("Result")


class CheckpointError(UserError):
    """A checkpoint cannot be written."""

    prevents_saving = True


class Background:
    """Runs saves in the background; at most one at a time.

    Attributes:
        saved: position of the last save; None if there is none or it has failed.
    """

    def __init__(self, on_failure: str):
        """Starts no thread yet.

        Args:
            on_failure: `config.checkpoint.on_failure`: whether a failed save stops the run.
        """
        self._stops = on_failure == "stop"
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._failure: CheckpointError | None = None  # of the last save
        self.saved: RunProgress | None = None

    def submit(self, save: Callable[[], None], progress: RunProgress) -> None:
        """Starts a save of this position; call `wait` before, for the one in progress."""
        self.saved = progress
        self._pending = self._worker.submit(save)

    def check(self) -> None:
        """Calls `wait` if the save in progress has ended."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def drain(self) -> None:
        """Blocks until no save is in progress, in any thread; ignores failures."""
        with contextlib.suppress(RuntimeError):  # the worker is closed
            self._worker.submit(lambda: None).result()  # its single thread runs saves in order

    def wait(self) -> None:
        """Blocks until the save in progress has ended.

        Raises:
            CheckpointError: it failed and `config.checkpoint.on_failure` is "stop".
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        self._failure = None
        try:
            pending.result()
        except CheckpointError as error:
            self._failure, self.saved = error, None
            if self._stops:
                raise
            warn(f"{error} Training continues (config.checkpoint.on_failure).")

    def wait_for_last(self) -> None:
        """Blocks until the last save has ended.

        Raises:
            CheckpointError: it failed, whatever `config.checkpoint.on_failure` says.
        """
        self.wait()
        if self._failure is not None:
            raise self._failure

    def prepare(self, call: Callable[[], Result]) -> Future[Result]:
        """Runs another call in the thread, before the next save."""
        return self._worker.submit(call)

    def close(self) -> None:
        """Stops the thread once it has nothing to do."""
        self._worker.shutdown(wait=True)
