"""The checkpoints of one run: written atomically in the background, and kept by rule."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import orbax.checkpoint as ocp
from etils import epath

from clac_jax.checkpoint import capacity
from clac_jax.checkpoint.arrays import Arrays, nested
from clac_jax.checkpoint.background import Background, CheckpointError
from clac_jax.checkpoint.best import Shapes, best_fitting, read_best
from clac_jax.checkpoint.files import DamagedCheckpointError, write_manifest
from clac_jax.checkpoint.finished import mark_finished
from clac_jax.checkpoint.groups import constant_paths
from clac_jax.checkpoint.layout import (
    CHECKPOINTS,
    REPLACED,
    RUN,
    STATE,
    UNFINISHED,
    CheckpointInfo,
    read_all,
    read_info,
)
from clac_jax.checkpoint.lineage import Recorder
from clac_jax.checkpoint.orbax_manager import (
    check_written,
    failure_reason,
    mark_committed,
    open_directory,
    open_manager,
)
from clac_jax.checkpoint.parts import Exchange, LostPartError
from clac_jax.checkpoint.remote import write_remote
from clac_jax.checkpoint.removal import (
    empty_trash,
    finish_interrupted,
    move_away,
    remove_parts,
    set_aside,
    strangers,
)
from clac_jax.checkpoint.sharing import sharing_of
from clac_jax.checkpoint.snapshot import StateInParts, snapshot_of
from clac_jax.checkpoint.stored import Stored, WrongCopyError
from clac_jax.checkpoint.yardstick import retention_of
from clac_jax.config import schema as config_lib
from clac_jax.digests.digest import NO_DIGESTS, Digest
from clac_jax.distributed.watchdog import WRITING, NoWatchdog, Watch
from clac_jax.distributed.workdir import LOCK_FILE
from clac_jax.errors import LostWorkdirError, MovedMetricsError, UserError, warn
from clac_jax.files import protocol
from clac_jax.files.atomic import sync
from clac_jax.files.paths import explain
from clac_jax.training.progress import RunProgress
from clac_jax.versions import package_versions

_MUST_STOP = (LostWorkdirError, MovedMetricsError, WrongCopyError)  # whatever the disk


class Checkpoints:
    """Saves checkpoints in `workdir/checkpoints` and removes those that need not be kept.

    A save is atomic: Orbax's manager writes a step under a temporary name and renames it; the list
    of all its files with their checksums, written last, commits it. Only then is anything older
    removed. At most one save is in progress; the next start removes what a killed one has left.

    Attributes:
        watchdog: watches the saves in the background.
        sharing: links the files of arrays that have not changed.
        chain: records every save.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        config: ml_collections.ConfigDict,
        shapes: Shapes,
        num_train_examples: int = 0,
        damaged: Sequence[int] = (),
        data: Mapping[str, str] | None = None,
    ):
        """Opens the folder, or makes it.

        Args:
            workdir: the run's workdir.
            config: the run's config; the rules of saving and keeping are in `config.checkpoint`.
            shapes: slash path -> shape and dtype of every array that will be saved, and its
                sharding if it is sharded; then each process of the run saves its part.
            num_train_examples: size of the split that the position in the epoch refers to.
            damaged: steps to move out of the way, into `checkpoints/damaged`.
            data: split name -> fingerprint of its data.

        Raises:
            CheckpointError: the folder cannot be used, or has no space for one checkpoint.
        """
        self.directory = open_directory(workdir)
        self._options = config.checkpoint
        self._config = config_lib.to_plain(config)
        self._num_train_examples = num_train_examples
        self._data = dict(data or {})
        self._shapes = shapes
        self._problems: set[str] = set()  # of removals, each reported once
        left = finish_interrupted(self.directory) + remove_parts(self.directory)
        self._report(left + set_aside(self.directory, damaged))
        for name in strangers(self.directory):
            warn(f"{self.directory / name} is not a folder, so it is not a checkpoint.")
        intact = self.read_all()[0]
        self._retention, self._metrics = retention_of(self._config, self._data, intact)
        hours = self._retention.hours.get(max(intact, default=0), 0.0)
        self._trained_since = time.monotonic() - 3600 * hours  # as if the run had never stopped
        self.sharing = sharing_of(config)
        self.snapshot = snapshot_of(shapes, constant_paths(shapes, config), self.sharing)
        self._manager = open_manager(self.directory, self.snapshot.handler())
        ended = bool(intact) and intact[max(intact)].progress.epoch >= config.max_epochs
        if not ended:  # an ended run needs no more space
            capacity.check_at_start(self.directory, shapes, len(intact), config)
        self._background = Background(self._options.on_failure)
        # Memory for the copy of the state is allocated while the first step compiles.
        self._allocated = self._background.prepare(self.snapshot.allocate)
        self.watchdog: Watch = NoWatchdog()
        self.chain = Recorder()
        self.changed: Callable[[], None] = lambda: None  # called after each commit and removal

    @property
    def saved(self) -> RunProgress | None:
        """The position saved last; None if there is none or the save failed."""
        return self._background.saved

    def read_all(self) -> tuple[dict[int, CheckpointInfo], dict[int, DamagedCheckpointError]]:
        """Reads all checkpoints of the run; see `layout.read_all`."""
        return read_all(self.directory)

    def best_first(self) -> list[int]:
        """The steps that have the monitored metric, best first, then those of earlier metrics.

        So a finished run that is restarted only to be tested differently keeps its best checkpoint.
        """
        earlier = [step for step in self._retention.earlier_best if step in self._metrics]
        return self._retention.best_first(self._metrics) + earlier

    def read_best(self, shapes: Shapes, last_step: int) -> tuple[int, Arrays]:
        """Reads the model of the best intact checkpoint of the run; see `best.read_best`."""
        return read_best(self.read_all()[0], self.best_first(), shapes, last_step)

    def best_fitting(self, shapes: Shapes, last_step: int) -> Iterator[CheckpointInfo]:
        """The run's checkpoints that fit the model, best first; see `best.best_fitting`."""
        return best_fitting(self.read_all()[0], self.best_first(), shapes, last_step)

    def info(self, step: int) -> CheckpointInfo:
        """Reads the description of a checkpoint of the run; see `layout.read_info`."""
        return read_info(self.directory / str(step))

    def share_saves(self, prefix: str, exchange: Exchange) -> None:
        """Prepares for a state that several processes save in parts.

        Args:
            prefix: beginning of the names of this run's saves: equal in all its processes, and
                different after each start.
            exchange: brings the parts to the first process.
        """
        if isinstance(self.snapshot, StateInParts):
            self.snapshot.save_names, self.snapshot.exchange = prefix, exchange

    def others_are_lost(self) -> None:
        """Stops waiting for the parts of other processes, unless they come very soon."""
        if isinstance(self.snapshot, StateInParts):
            self.snapshot.is_lost.set()

    def describe_newest(self) -> str:
        """A sentence with the step of the newest checkpoint."""
        if intact := self.read_all()[0]:
            return f"The newest checkpoint is of step {max(intact)}."
        return "There is no checkpoint yet."

    def save(
        self,
        arrays: Mapping[str, Any],
        progress: RunProgress,
        metrics: Mapping[str, float] | None,
        before_commit: Callable[[], None] = lambda: None,
        digests: Mapping[str, Digest] = NO_DIGESTS,
    ) -> None:
        """Copies the arrays, and saves them in place of any checkpoint of step `progress.step`.

        Args:
            arrays: slash path -> array, as announced in `shapes`; they may change after the return.
            progress: position of the run.
            metrics: results of the validation at this step, or None between validations.
            before_commit: called before the checkpoint becomes visible.
            digests: part of the state -> digest, computed on the devices; empty if unknown.

        Raises:
            CheckpointError: this save (if not asynchronous) or an earlier one failed, and
                `config.checkpoint.on_failure` is "stop".
        """
        self.wait()
        self._allocated.result()
        self.snapshot.copy(arrays)
        record = self.chain.begin()
        self._background.submit(
            lambda: self._save_with_retries(progress, metrics, before_commit, digests, record),
            progress,
        )
        if not self._options.async_save:
            self.wait()

    def follow(self, workdir: Path) -> None:
        """Saves in a different folder from now on: the new location of a moved workdir.

        A save that was in progress may have recreated the old folder, and even have finished there.
        """
        self.drain()
        self._background.saved = None
        if not os.path.lexists(self.directory.parent / LOCK_FILE):  # no other run has started there
            with contextlib.suppress(UserError):
                finish_interrupted(self.directory)
        for folder in (self.directory, self.directory.parent):
            with contextlib.suppress(OSError):  # only empty folders are removed
                os.rmdir(folder)
        self.directory = epath.Path(workdir).resolve() / CHECKPOINTS
        self._manager = open_manager(self.directory, self.snapshot.handler())

    def check(self) -> None:
        """Calls `wait` if the save in the background has ended."""
        self._background.check()

    def drain(self) -> None:
        """Blocks until no save is in progress, in any thread; ignores failures."""
        self._background.drain()

    def wait(self) -> None:
        """Blocks until the save in the background has been committed.

        Raises:
            CheckpointError: it failed and `config.checkpoint.on_failure` is "stop".
        """
        with self.watchdog.unwatched():  # the save itself is watched
            self._background.wait()

    def wait_for_last(self) -> None:
        """Blocks until the last save has been committed.

        Raises:
            CheckpointError: it failed, whatever `config.checkpoint.on_failure` says.
        """
        with self.watchdog.unwatched():
            self._background.wait_for_last()

    def end(self, progress: RunProgress, tested_step: int) -> None:
        """Removes the last checkpoint, too, if the rules keep it only while the run is in progress.

        It stays if it was tested (a better one may be damaged), and if no other can be read.

        Args:
            progress: position of the end; it is recorded if its checkpoint is removed.
            tested_step: step of the parameters that were tested.

        Raises:
            WorkdirError: the record cannot be written.
        """
        self.wait_for_last()
        kept = self._retention.kept(self._metrics, ended=True) | {tested_step}
        intact = self.read_all()[0] if progress.step not in kept else {}
        if left := intact.keys() & kept:
            mark_finished(Path(self.directory.parent), progress, intact[max(left)])
        self._remove_all_but(kept if left else kept | {progress.step})

    def close(self) -> None:
        """Waits for the background save and stops the threads.

        Raises:
            CheckpointError: the save failed, see `wait`.
        """
        self.wait()
        self._background.close()
        self._manager.close()

    def _save_with_retries(
        self,
        progress: RunProgress,
        metrics: Mapping[str, float] | None,
        before_commit: Callable[[], None],
        digests: Mapping[str, Digest],
        record: Callable[[CheckpointInfo], CheckpointInfo],
    ) -> None:
        for attempt in range(1, self._options.retries + 2):
            try:
                with self.watchdog.watching(WRITING):
                    before_commit()
                    protocol.reached("save started")
                    written = self.snapshot.reuse(Path(self.directory), progress.step)
                    capacity.check(self.directory, written)
                    stored = self.snapshot.store(Path(self.directory), progress.step, digests)
                    protocol.reached("parts complete")
                    self._save(stored, record(self._describe(progress, metrics, stored)))
                return
            except _MUST_STOP:
                raise
            except Exception as error:  # of Orbax, TensorStore or the disk: report all
                self._report(finish_interrupted(self.directory))
                self._manager = open_manager(self.directory, self.snapshot.handler())
                what = f"Cannot save step {progress.step} in {self.directory}: "
                what += failure_reason(error)
                if attempt > self._options.retries or isinstance(error, LostPartError):
                    self._clear()
                    untouched = "The checkpoints that are there are untouched."
                    raise CheckpointError(f"{what} {untouched}") from error
                warn(f"{what} Attempt {attempt + 1} follows.")
                time.sleep(self._options.retry_seconds * 2 ** (attempt - 1))

    def _describe(
        self, progress: RunProgress, metrics: Mapping[str, float] | None, stored: Stored
    ) -> CheckpointInfo:
        return CheckpointInfo(
            folder=self.directory / str(progress.step),
            progress=progress,
            metrics=None if metrics is None else dict(metrics),
            config=self._config,
            versions=package_versions(),
            num_train_examples=self._num_train_examples,
            saved_at=time.time(),
            trained_seconds=time.monotonic() - self._trained_since,
            leaves=stored.leaves,
            data=self._data,
            digests={part: str(digest) for part, digest in stored.digests.items()},
        )

    def _save(self, stored: Stored, info: CheckpointInfo) -> None:
        mark = self.directory / f"{info.step}{UNFINISHED}"
        mark.write_text("This checkpoint is being written.\n")
        protocol.reached("marked as unfinished")
        if os.path.lexists(info.folder):
            move_away(info.folder, self.directory / REPLACED)
            protocol.reached("old one of the step moved")
            self._manager.reload()
        items = {
            STATE: ocp.args.PyTreeSave(nested(stored.tree)),
            RUN: ocp.args.JsonSave(info.to_json()),
        }
        self._manager.save(info.step, args=ocp.args.Composite(**items), force=True)
        protocol.reached("merged")
        check_written(info.folder, mark)
        self.snapshot.finish(Path(info.folder))
        mark_committed(info.folder)
        protocol.reached("all files written")
        if stored.remote is not None:
            write_remote(Path(info.folder), stored.remote)
        write_manifest(info.folder, stored.files)
        sync(self.directory)
        protocol.reached("committed")
        self._metrics[info.step] = info.metrics
        self._retention.hours[info.step] = (info.trained_seconds or 0.0) / 3600
        # The checkpoint is committed: a removal that fails now does not undo that.
        self._clear()
        protocol.reached("parts removed")
        try:
            self._report(finish_interrupted(self.directory))
            self._remove_all_but(self._retention.kept(self._metrics))
        except UserError as error:
            warn(str(error))
        self.changed()

    def _clear(self) -> None:
        try:
            self.snapshot.clear()
        except OSError as error:
            self._report([f"{error.filename} cannot be removed: {explain(error)}"])
        except UserError as error:
            self._report([str(error)])

    def _remove_all_but(self, kept: set[int]) -> None:
        for step in sorted(set(self._metrics) - kept):
            protocol.reached("removal started")
            try:
                self._manager.delete(step)  # moves it into DELETED
            except FileNotFoundError:  # removed by someone else
                self._manager.reload()
            except OSError as error:
                self._report([f"{self.directory / str(step)} cannot be removed: {explain(error)}"])
                continue
            del self._metrics[step]
        protocol.reached("moved to the trash")
        self._report(empty_trash(self.directory))
        self.sharing.collect()

    def _report(self, problems: list[str]) -> None:
        """Reports failed removals, each once; they are tried again after the next save."""
        for problem in problems:
            if problem not in self._problems:
                warn(f"{problem} It is tried again later.")
        self._problems.update(problems)
