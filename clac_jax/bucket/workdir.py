"""A run's workdir, wherever it is: a local folder, or a bucket with a local mirror."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path
from types import TracebackType
from typing import Protocol

import ml_collections

from clac_jax.bucket import mirror as mirrors
from clac_jax.bucket import owners
from clac_jax.bucket.ahead import continues_without_ledger
from clac_jax.bucket.followed import FollowedCheckpoints
from clac_jax.bucket.lease import Lease, acquire, read_ledger, time_with_sleep
from clac_jax.bucket.leaving import Leaving
from clac_jax.bucket.ledger import Ledger
from clac_jax.bucket.outage import Outage
from clac_jax.bucket.parts import BucketExchange
from clac_jax.bucket.recovery import recover
from clac_jax.bucket.uploader import Uploader
from clac_jax.checkpoint.fetched import fetch_run
from clac_jax.checkpoint.manager import Checkpoints
from clac_jax.checkpoint.parts import Exchange, SharedFolder
from clac_jax.checkpoint.writer import CheckpointWriter
from clac_jax.distributed.preemption import Preempted, say
from clac_jax.distributed.processes import is_first
from clac_jax.distributed.sending import any_text
from clac_jax.distributed.shared_folder import check_shared
from clac_jax.distributed.supervisor_pipe import pipe_to_supervisor
from clac_jax.distributed.workdir import Workdir
from clac_jax.errors import LostWorkdirError, UserError, warn
from clac_jax.stores.errors import StoreError, UnavailableError
from clac_jax.stores.probe import check_conditions
from clac_jax.stores.store import Store, StoreOptions, open_store
from clac_jax.stores.url import is_url

RETRY_SECONDS = 1.0
STORE_PATIENCE = 20.0  # seconds of one call; the uploader tries again as long as the run lasts


class RunPlace(Protocol):
    """The interface of a run to its workdir."""

    folder: Path
    """Where the run works: reads, writes, saves."""
    shown: str
    """Name of the workdir in messages."""
    is_remote: bool
    """Whether what is saved has to be uploaded."""
    seconds_waited: float
    """Time for which `__enter__` has waited to see whether another process still works there."""

    def __enter__(self) -> Path:
        """Takes the workdir for this process."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Completes and releases it."""

    def followed(self, checkpoints: Checkpoints) -> CheckpointWriter:
        """The run's checkpoints, brought to where they are to be kept."""

    def folder_of(self, index: int) -> Path:
        """The folder in which a process saves its part of a sharded state."""

    def see(self) -> Path:
        """The folder in which this process reads the run; a collective.

        Raises:
            WorkdirError, StoreError: it does not see the workdir of the first process.
        """

    def exchange(self) -> Exchange:
        """Brings the parts of a sharded state to the first process."""

    def complete(self) -> None:
        """Called before the program ends without leaving the context; ends it on failure."""


class LocalPlace(Workdir):
    """A workdir on a disk."""

    def __init__(self, folder: str | Path):
        """See `Workdir`."""
        super().__init__(folder)
        self.shown = str(self.folder)
        self.is_remote = False
        self.seconds_waited = 0.0

    def followed(self, checkpoints: Checkpoints) -> CheckpointWriter:
        """The checkpoints: they are where they are to be kept."""
        return checkpoints

    def folder_of(self, index: int) -> Path:
        """The workdir: all processes share it."""
        del index
        return self.folder

    def see(self) -> Path:
        """The workdir; see `check_shared`."""
        check_shared(self.folder)
        return self.folder

    def exchange(self) -> Exchange:
        """By files in the workdir."""
        return SharedFolder()

    def complete(self) -> None:
        """Does nothing: everything is on the disk."""


class BucketPlace:
    """A workdir in a bucket, and the local folder in which the run works."""

    def __init__(self, url: str, options: ml_collections.ConfigDict):
        """Sets the names; nothing is accessed yet.

        Args:
            url: the workdir, gs://BUCKET/FOLDER, s3://... or az://...
            options: the group `config.bucket`.

        Raises:
            UrlError: the URL cannot be used.
            StoreError: a library or a setting in the environment is missing.
        """
        self._trains = False
        store_options = StoreOptions(
            max_bytes_per_second=options.max_mb_per_second * 1e6,
            patience_seconds=STORE_PATIENCE,
            say=self._say_unless_training,
        )
        self._store: Store = open_store(str(url), store_options)
        self._lease_seconds = options.lease_seconds
        self._patience = options.patience_minutes * 60
        self.shown = self._store.url
        self.is_remote = True
        self.seconds_waited = 0.0
        self.folder = mirrors.mirror_folder(self.shown, options.scratch)
        shown = f"--workdir={self.shown} (local copy: {self.folder})"
        self._local = Workdir(self.folder, "config.bucket.scratch", shown)
        self._outage = Outage(self.shown)
        self._leaving = Leaving()

    def __enter__(self) -> Path:
        """Takes the workdir, and fills the mirror from it.

        Raises:
            WorkdirError: it is in use by another run, or the mirror cannot be written.
            MissingBucketError, CredentialsError, UnavailableError: the bucket cannot be used.
        """
        with contextlib.ExitStack() as stack:
            mirror = stack.enter_context(self._local)
            ledger = self._read_ledger_first()
            if ledger is None:
                check_conditions(self._store)
            continues = continues_without_ledger(mirror, self._store, ledger)
            dead = owners.dead_holders(mirror) if self._local.is_locked else []
            began = time_with_sleep()
            try:
                self._lease = self._acquire(mirror, dead, continues)
            finally:
                self._leaving.end_taking()
            if self._lease.has_waited:
                self.seconds_waited = time_with_sleep() - began
            stack.callback(self._release_after_failure)
            self._lease.start_renewing(self._outage.report)
            needed = mirrors.needed_objects(mirror)
            commits = recover(self._store, self._lease, needed=needed)
            mirrors.fill(mirror, self._store, self._lease, commits, continues)
            self._uploader = Uploader(mirror, self._store, self._lease, commits, self._outage)
            self._uploader.start()
            stack.pop_all()
        self._trains = True
        return mirror

    def _acquire(self, mirror: Path, dead: list[str], continues: bool) -> Lease:
        def prepare(previous: Ledger | None, new: Ledger) -> Ledger:
            owners.claim(mirror, previous, new, continues)
            self._leaving.begin_taking()
            return new

        return acquire(self._store, self._lease_seconds, dead, say=warn, prepare=prepare)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Uploads everything, and releases the workdir.

        Raises:
            UploadError, LostWorkdirError: that fails, and no other error is on its way.
        """
        self._training_ends()
        try:
            self._uploader.stop()
            self._finish(ended=error is None)
        except UserError as second:
            if error is None or isinstance(error, Preempted):  # they mean that all is saved
                raise
            if not isinstance(error, LostWorkdirError):
                warn(str(second))
        finally:
            self._lease.stop_renewing()
            self._local.__exit__(kind, error, trace)

    def followed(self, checkpoints: Checkpoints) -> CheckpointWriter:
        """The checkpoints in the mirror, which are uploaded in the background."""
        return FollowedCheckpoints(checkpoints, self._uploader, self._patience)

    def folder_of(self, index: int) -> Path:
        """The mirror, or an empty folder next to it."""
        if not index:
            return self.folder
        folder = self.folder.with_name(f"{self.folder.name}.process_{index}")
        shutil.rmtree(folder, ignore_errors=True)  # parts of an earlier start
        return folder

    def see(self) -> Path:
        """The mirror, or a copy of descriptions."""
        if is_first():  # its mirror may be ahead of the bucket
            self._uploader.flush(self._patience)
        any_text("")  # returns once the first process is here
        return self.folder if is_first() else fetch_run(self.shown)

    def exchange(self) -> Exchange:
        """By objects in the bucket."""
        if not is_first():
            return BucketExchange(self._store, self._patience)
        return BucketExchange(self._store, self._patience, self._uploader.loose.add)

    def complete(self) -> None:
        """Uploads everything before the program ends by `os._exit`; on failure, ends it here.

        At the start, when there is nothing to upload yet, it releases the workdir.
        """
        self._training_ends()
        uploader: Uploader | None = getattr(self, "_uploader", None)
        if uploader is None:
            self._leaving.ask(STORE_PATIENCE)
            lease: Lease | None = getattr(self, "_lease", None)
            if lease is not None:
                with contextlib.suppress(UserError):  # somebody else has it, or it runs out
                    lease.leave()
            return
        try:
            uploader.stop()
            self._finish(ended=False)
        except UserError as error:
            say(f"error: {error}")
            os._exit(error.exit_code)

    def _read_ledger_first(self) -> Ledger | None:
        """The ledger; a supervised run waits for it as long as it would wait at its end.

        Its supervisor would take a few failed starts for a run that makes no progress.
        """
        supervised = pipe_to_supervisor() is not None
        give_up = time.monotonic() + (self._patience if supervised else 0.0)
        while True:
            try:
                return read_ledger(self._store)[0]
            except UnavailableError:
                if time.monotonic() >= give_up:
                    raise
            time.sleep(RETRY_SECONDS)

    def _say_unless_training(self, line: str) -> None:
        if not self._trains:  # else `Outage` says it
            warn(line)

    def _training_ends(self) -> None:
        self._trains = False
        self._outage.training_ends()

    def _release_after_failure(self) -> None:
        with contextlib.suppress(UserError):  # the error that led here is the one to report
            self._lease.release()

    def _finish(self, ended: bool) -> None:
        self._uploader.flush(self._patience, ended)
        try:
            self._lease.release(finished=ended)
        except StoreError as error:  # all is uploaded; the lease runs out
            warn(f"{error} The workdir is free again within {self._lease_seconds:g} seconds.")


def place_of(workdir: str | Path, options: ml_collections.ConfigDict) -> RunPlace:
    """The workdir of a run.

    Args:
        workdir: a local folder, or a URL of a folder in a bucket.
        options: the group `config.bucket`.

    Raises:
        PathError, UrlError, StoreError: it cannot be used.
    """
    return BucketPlace(str(workdir), options) if is_url(str(workdir)) else LocalPlace(workdir)
