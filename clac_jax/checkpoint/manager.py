"""The checkpoints of one run: written by Orbax in the background, kept by rule, never half."""

from __future__ import annotations

import contextlib
import importlib.metadata
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers
from orbax.checkpoint.path import atomicity

import clac_jax
from clac_jax import config as config_lib
from clac_jax.checkpoint.arrays import HostBuffers, describe, nested, this_process_alone
from clac_jax.checkpoint.files import sync, write_manifest
from clac_jax.checkpoint.finished import mark_finished
from clac_jax.checkpoint.layout import (
    CHECKPOINTS,
    DAMAGED,
    DELETED,
    REPLACED,
    RUN,
    STATE,
    CheckpointInfo,
    finish_interrupted,
    is_remote,
    read_all,
    remove,
)
from clac_jax.checkpoint.retention import Retention
from clac_jax.checkpoint.yardstick import retention_of
from clac_jax.errors import UserError
from clac_jax.progress import RunProgress

RECORDED_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class CheckpointError(UserError):
    """A checkpoint cannot be written."""


def package_versions() -> dict[str, str]:
    """Package name -> version of everything that shapes a run's numbers."""
    installed = {name: importlib.metadata.version(name) for name in RECORDED_PACKAGES}
    return {"clac-jax": clac_jax.__version__, **installed}


class Checkpoints:
    """Saves checkpoints in `workdir/checkpoints` and removes those that are no longer to be kept.

    A save is atomic: Orbax writes into a temporary folder, the last file there lists the checksums
    of all others, and a rename commits it. What a killed save left behind is removed at the next
    start. At most one save is under way; the next one waits for it.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        config: ml_collections.ConfigDict,
        shapes: Mapping[str, jax.ShapeDtypeStruct],
        num_train_examples: int = 0,
        damaged: Sequence[int] = (),
        data: Mapping[str, str] | None = None,
    ):
        """Opens (or makes) the folder.

        Args:
            workdir: of the run.
            config: of the run; `config.checkpoint` says what is kept and what a failed save does.
            shapes: slash path -> shape and dtype of every array that will be saved.
            num_train_examples: of the split that the position in the epoch refers to.
            damaged: steps to move out of the way, into `workdir/damaged_checkpoints`.
            data: split name -> fingerprint of its data.

        Raises:
            CheckpointError: the folder cannot be used.
        """
        self.directory = epath.Path(workdir).resolve() / CHECKPOINTS
        self._options = config.checkpoint
        self._config = config_lib.to_plain(config)
        self._num_train_examples = num_train_examples
        self._data = dict(data or {})
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            finish_interrupted(self.directory)
            _set_aside(self.directory, damaged)
            self._retention, self._metrics = retention_of(
                self._config, self._data, self.read_all()[0]
            )
            self._manager = self._open()
        except OSError as error:
            raise CheckpointError(f"Cannot use {self.directory}: {error}. {_ADVICE}") from error
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        # Memory for the copy of the state is found while the first step compiles.
        self._buffers = self._worker.submit(HostBuffers, shapes)
        self._pending: Future[None] | None = None
        self._failure: CheckpointError | None = None  # of the last save
        self.saved: RunProgress | None = None

    def read_all(self) -> tuple[dict[int, CheckpointInfo], dict[int, UserError]]:
        """See `layout.read_all`."""
        return read_all(self.directory)

    def best_first(self) -> list[int]:
        """The steps that have the monitored metric, best first, and then those of earlier measures.

        So the best of a run that is started again only to be tested in another way is still that.
        """
        earlier = [step for step in self._retention.earlier_best if step in self._metrics]
        return self._retention.best_first(self._metrics) + earlier

    def save(
        self,
        arrays: Mapping[str, Any],
        progress: RunProgress,
        metrics: Mapping[str, float] | None,
        before_commit: Callable[[], None] = lambda: None,
    ) -> None:
        """Copies the arrays and saves them under `progress.step`, in the background if so set.

        A checkpoint of the same step is replaced.

        Args:
            arrays: by slash path, as announced in `shapes`; they may change when this returns.
            progress: where the run is.
            metrics: of the validation at this step, or None between validations.
            before_commit: called before the checkpoint becomes visible.

        Raises:
            CheckpointError: this save (if not asynchronous) or an earlier one failed, and
                `config.checkpoint.on_failure` is "stop".
        """
        self.wait()
        buffers = self._buffers.result().fill(arrays)
        self.saved = progress
        self._pending = self._worker.submit(
            self._save_with_retries, buffers, progress, metrics, before_commit
        )
        if not self._options.async_save:
            self.wait()

    def check(self) -> None:
        """Raises what the save in the background raised, if it has ended.

        Raises:
            CheckpointError: it failed and `config.checkpoint.on_failure` is "stop".
        """
        if self._pending is not None and self._pending.done():
            self.wait()

    def drain(self) -> None:
        """Blocks until no save is under way, in any thread; says nothing of how it went."""
        with contextlib.suppress(RuntimeError):  # of a worker that is closed
            self._worker.submit(lambda: None).result()  # the only one takes save after save

    def wait(self) -> None:
        """Blocks until the save in the background has been committed.

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
            if self._options.on_failure == "stop":
                raise
            _say(f"warning: {error} Training goes on (config.checkpoint.on_failure).")

    def wait_for_last(self) -> None:
        """Blocks until the last save has been committed.

        Raises:
            CheckpointError: it failed, whatever `config.checkpoint.on_failure` says.
        """
        self.wait()
        if self._failure is not None:
            raise self._failure

    def end(self, progress: RunProgress) -> None:
        """Removes the last checkpoint, too, if the rules keep it for the running time only.

        Args:
            progress: where the run has ended, which is marked if its checkpoint goes.

        Raises:
            CheckpointError: the mark cannot be written.
        """
        self.wait_for_last()
        kept = self._retention.kept(self._metrics, ended=True)
        intact = self.read_all()[0] if progress.step not in kept else {}
        if intact.keys() & kept:
            newest = intact[max(intact.keys() & kept)]
            try:
                mark_finished(Path(self.directory.parent), progress, newest)
            except OSError as error:
                raise CheckpointError(
                    f"Cannot mark {self.directory.parent} as finished: {error}. {_ADVICE}"
                ) from error
        for step in set(self._metrics) - kept:
            self._manager.delete(step)
            del self._metrics[step]
        remove(self.directory / DELETED)

    def close(self) -> None:
        """Waits for the background and frees the threads.

        Raises:
            CheckpointError: see `wait`.
        """
        self.wait()
        self._worker.shutdown(wait=True)
        self._manager.close()

    def _save_with_retries(
        self,
        arrays: Mapping[str, np.ndarray],
        progress: RunProgress,
        metrics: Mapping[str, float] | None,
        before_commit: Callable[[], None],
    ) -> None:
        info = CheckpointInfo(
            folder=self.directory / str(progress.step),
            progress=progress,
            metrics=None if metrics is None else dict(metrics),
            config=self._config,
            versions=package_versions(),
            num_train_examples=self._num_train_examples,
            saved_at=time.time(),
            leaves=describe(arrays),
            data=self._data,
        )
        for attempt in range(1, self._options.retries + 2):
            try:
                before_commit()
                self._save(arrays, info)
                return
            except Exception as error:  # of Orbax, TensorStore or the disk: none may pass unseen
                self._metrics.pop(progress.step, None)
                what = f"Cannot save step {progress.step} in {self.directory}: {_one_line(error)}."
                if attempt > self._options.retries:
                    raise CheckpointError(f"{what} {_ADVICE}") from error
                _say(f"warning: {what} Attempt {attempt + 1} follows.")
                time.sleep(self._options.retry_seconds * 2 ** (attempt - 1))
                self._reopen()

    def _save(self, arrays: Mapping[str, np.ndarray], info: CheckpointInfo) -> None:
        replaced = self.directory / REPLACED / info.folder.name
        if info.folder.exists():
            replaced.parent.mkdir(exist_ok=True)
            info.folder.rename(replaced)
            self._manager.reload()
        self._metrics[info.step] = info.metrics
        self._manager.save(
            info.step,
            args=ocp.args.Composite(
                **{
                    STATE: ocp.args.PyTreeSave(nested(arrays)),
                    RUN: ocp.args.JsonSave(info.to_json()),
                }
            ),
            force=True,
        )
        kept = self._retention.kept(self._metrics)
        self._metrics = {step: self._metrics[step] for step in self._metrics if step in kept}
        remove(self.directory / REPLACED)
        remove(self.directory / DELETED)

    def _open(self) -> ocp.CheckpointManager:
        alone = this_process_alone()
        return ocp.CheckpointManager(
            self.directory,
            item_handlers={
                STATE: ocp.PyTreeCheckpointHandler(
                    use_compression=False, multiprocessing_options=alone
                ),
                RUN: ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                preservation_policy=_Preservation(self._retention, lambda: self._metrics),
                enable_async_checkpointing=False,  # the whole save is in a thread of ours
                # In a file system `finish_interrupted` does it, and has done it when it returns.
                cleanup_tmp_directories=is_remote(self.directory),
                todelete_subdir=None if is_remote(self.directory) else DELETED,
                temporary_path_class=_checked_path(self.directory),
                create=False,  # done, and not possible where other processes take no part
                multiprocessing_options=alone,
            ),
        )

    def _reopen(self) -> None:
        """A fresh manager after a failure, which may have left anything behind."""
        try:
            finish_interrupted(self.directory)
            self._manager = self._open()
        except OSError as error:
            _say(f"warning: Cannot use {self.directory}: {error}.")


_ADVICE = "Check free space and permissions; the checkpoints that are there are untouched."


class _Preservation(checkpoint_managers.PreservationPolicy):
    """Our retention rules as Orbax's preservation policy."""

    def __init__(self, retention: Retention, metrics: Callable[[], dict[int, Any]]):
        self._retention = retention
        self._metrics = metrics

    def should_preserve(
        self,
        checkpoints: Sequence[checkpoint_managers.PolicyCheckpointInfo],
        *,
        context: checkpoint_managers.PreservationContext,
    ) -> Sequence[bool]:
        """Orbax's question: one answer per checkpoint."""
        del context
        metrics = self._metrics()
        kept = self._retention.kept({info.step: metrics.get(info.step) for info in checkpoints})
        return [info.step in kept for info in checkpoints]


class _CheckedRename(atomicity.AtomicRenameTemporaryPath):
    """Orbax's folder that a rename commits; the checksums are the last that is written into it.

    Orbax uses it for a checkpoint and for each item inside.
    """

    async def finalize(self) -> None:
        folder, final = self.get(), self.get_final()
        if final.name.isdigit():
            write_manifest(folder)
        folder.rename(final)
        sync(final.parent)


class _CheckedCommitFile(atomicity.CommitFileTemporaryPath):
    """Orbax's folder, on stores without rename, that a last file commits."""

    async def finalize(self) -> None:
        folder = self.get()
        if folder.name.isdigit():
            write_manifest(folder)
        (folder / atomicity.COMMIT_SUCCESS_FILE).write_text("committed")


def _checked_path(directory: epath.Path) -> Any:
    return _CheckedCommitFile if str(directory).startswith("gs://") else _CheckedRename


def _set_aside(directory: epath.Path, steps: Sequence[int]) -> None:
    place = directory.parent / DAMAGED
    for step in steps:
        place.mkdir(exist_ok=True)
        target, number = place / str(step), 1
        while target.exists():
            target, number = place / f"{step}-{number}", number + 1
        (directory / str(step)).rename(target)


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
