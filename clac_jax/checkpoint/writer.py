"""The interface of a run to its checkpoints, and its version for processes that write none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from clac_jax.checkpoint.arrays import Arrays
from clac_jax.checkpoint.best import Shapes
from clac_jax.checkpoint.layout import CheckpointInfo
from clac_jax.checkpoint.parts import Exchange
from clac_jax.digests.digest import Digest
from clac_jax.distributed.watchdog import NoWatchdog, Watch
from clac_jax.training.progress import RunProgress


class CheckpointWriter(Protocol):
    """The interface of a run to its checkpoints; see `Checkpoints` for details.

    Attributes:
        watchdog: watches the saves in the background.
    """

    watchdog: Watch

    @property
    def saved(self) -> RunProgress | None:
        """The position saved last by this process; None if there is none or the save failed."""

    def save(
        self,
        arrays: Mapping[str, Any],
        progress: RunProgress,
        metrics: Mapping[str, float] | None,
        before_commit: Callable[[], None] = ...,
        digests: Mapping[str, Digest] = ...,
    ) -> None:
        """Saves the arrays as step `progress.step`."""

    def follow(self, workdir: Path) -> None:
        """Saves in a different folder from now on."""

    def check(self) -> None:
        """Raises the error of the background save, if it has ended with one."""

    def drain(self) -> None:
        """Blocks until no save is in progress, in any thread."""

    def wait(self) -> None:
        """Blocks until the save in the background has been committed."""

    def wait_for_last(self) -> None:
        """Blocks until the last save has been committed; its failure is always an error."""

    def describe_newest(self) -> str:
        """A sentence with the step of the newest checkpoint."""

    def share_saves(self, prefix: str, exchange: Exchange) -> None:
        """Prepares for a state that several processes save in parts."""

    def others_are_lost(self) -> None:
        """Stops waiting for the parts of other processes."""

    def read_best(self, shapes: Shapes, last_step: int) -> tuple[int, Arrays]:
        """The step and the model's arrays of the best checkpoint."""

    def best_fitting(self, shapes: Shapes, last_step: int) -> Iterator[CheckpointInfo]:
        """The checkpoints that are better than the last step and fit the model, best first."""

    def info(self, step: int) -> CheckpointInfo:
        """Reads the description of a checkpoint of the run."""

    def end(self, progress: RunProgress, tested_step: int) -> None:
        """Removes what was kept only for resuming."""

    def close(self) -> None:
        """Waits for the background save and stops the threads."""


class NoCheckpoints:
    """The checkpoints of all processes except the first, which write none."""

    saved = None

    def __init__(self) -> None:
        self.watchdog: Watch = NoWatchdog()

    def save(self, *arguments: Any, **options: Any) -> None:
        """Does nothing."""

    def follow(self, workdir: Path) -> None:
        """Does nothing."""

    def check(self) -> None:
        """Does nothing."""

    def drain(self) -> None:
        """Does nothing."""

    def wait(self) -> None:
        """Does nothing."""

    def wait_for_last(self) -> None:
        """Does nothing."""

    def describe_newest(self) -> str:
        """An empty text: the first process describes it."""
        return ""

    def share_saves(self, prefix: str, exchange: Exchange) -> None:
        """Does nothing."""

    def others_are_lost(self) -> None:
        """Does nothing."""

    def best_fitting(self, shapes: Shapes, last_step: int) -> Iterator[CheckpointInfo]:
        """Empty: the first process chooses."""
        del shapes, last_step
        return iter(())

    def info(self, step: int) -> CheckpointInfo:
        """Not used: the first process reads checkpoints for all."""
        raise NotImplementedError

    def read_best(self, shapes: Shapes, last_step: int) -> tuple[int, Arrays]:
        """Step 0 without arrays: the first process reads them."""
        del shapes, last_step
        return 0, {}

    def end(self, progress: RunProgress, tested_step: int) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""
