"""The thread that brings a workdir in a bucket after its local mirror."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from etils import epath

from clac_jax.bucket.commits import (
    METRICS,
    Commit,
    new_commit,
    new_rows_name,
    object_name,
    put_rows,
)
from clac_jax.bucket.lease import Lease
from clac_jax.bucket.ledger import Ledger
from clac_jax.bucket.loose import Loose
from clac_jax.bucket.outage import Outage
from clac_jax.bucket.pins import Pinned, committed_steps, identity, pin, unpin
from clac_jax.bucket.publishing import delete_objects, in_threads, publish, republish
from clac_jax.bucket.recovery import finish_removals, without
from clac_jax.bucket.run_files import Facts, RunFiles
from clac_jax.checkpoint.committed import files_of
from clac_jax.checkpoint.files import DamagedCheckpointError
from clac_jax.checkpoint.layout import CHECKPOINTS, DAMAGED, step_folders
from clac_jax.errors import UserError, warn
from clac_jax.files import protocol
from clac_jax.files.paths import explain
from clac_jax.reporting.events import EVENTS_FILE
from clac_jax.stores.errors import StoreError
from clac_jax.stores.store import Store

COPIED_BYTES = 1 << 20  # smaller files are sent, as a copy takes a request, too
PAUSE = 5.0  # seconds between attempts while the store cannot be reached
# Seconds from the start, doubled until the largest, after which the events of the run are put
# without a checkpoint: a start that never makes one should leave a trace.
FIRST_EVENTS, LONGEST_EVENTS = 10.0, 300.0


class UploadError(UserError):
    """A run is not completely in its bucket; `exit_code` is that of the reason."""

    def __init__(self, store: Store, mirror: Path, reason: StoreError):
        """Says where the rest of the run is.

        Args:
            store: the workdir in the bucket.
            mirror: local folder of the run.
            reason: why the rest cannot be uploaded.
        """
        super().__init__(
            f"The newest part of this run is not in {store.url}: {reason} It is in {mirror}. Run "
            "the same command on this machine again to upload it, or copy that folder."
        )
        self.exit_code = reason.exit_code


class Uploader:
    """Uploads what the mirror has, and removes what it does not have any more.

    Steps are committed oldest first: when one becomes the newest in the bucket, every other that
    the run kept at that time is in it, so a run that resumes there continues as this one did. A
    step that comes and goes while another is uploaded is skipped.

    Attributes:
        loose: what was put for checkpoints that are not committed yet.
    """

    def __init__(
        self,
        mirror: Path,
        store: Store,
        lease: Lease,
        commits: Mapping[int, Commit],
        outage: Outage | None = None,
    ):
        """Prepares; nothing is sent before `start` or `bring`.

        Args:
            mirror: local folder of the run.
            store: the workdir in the bucket.
            lease: its lease.
            commits: step -> commit of the checkpoints in the bucket.
            outage: reports when the store cannot be reached.
        """
        self._mirror, self._store, self._lease = mirror, store, lease
        self._commits = dict(commits)
        self._identities = {step: identity(c.manifest) for step, c in commits.items()}
        self.loose = Loose()
        self._run_files = RunFiles(mirror, store, lease)
        self._outage = outage or Outage(store.url)
        self._rows = ("", b"")  # put last: name and content
        self._refused: set[tuple[int, int]] = set()  # damaged in the mirror: step and identity
        self._changed, self._stop = threading.Event(), threading.Event()
        self._busy = threading.Lock()
        self._failure: Exception | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the thread, which first uploads what an earlier process has not."""
        self._changed.set()
        self._thread = threading.Thread(target=self._run, name="uploader", daemon=True)
        self._thread.start()

    def changed(self) -> None:
        """Makes the thread compare the mirror with the bucket."""
        self._changed.set()

    def check(self) -> None:
        """Raises what has ended the thread.

        Raises:
            LostWorkdirError: somebody else holds the workdir.
        """
        self._lease.check()
        if self._failure is not None:
            raise self._failure

    def flush(self, seconds: float, ended: bool = False) -> None:
        """Uploads everything, in the calling thread.

        Args:
            seconds: how long the store may be out of reach.
            ended: whether the run has ended, so that nothing in the mirror is about to change.

        Raises:
            LostWorkdirError: somebody else holds the workdir.
            UploadError: the store could not be reached for so long.
        """
        deadline: float | None = None
        while True:
            self.check()
            try:
                self._or_fail(lambda: self.bring(is_last=True, ended=ended))
                return
            except StoreError as error:
                if deadline is None and seconds > 0:
                    until = time.strftime("%H:%M:%S", time.localtime(time.time() + seconds))
                    warn(f"{error} The newest part of this run waits for it until {until}.")
                deadline = deadline or time.monotonic() + seconds
                if time.monotonic() >= deadline:
                    raise UploadError(self._store, self._mirror, error) from error
                time.sleep(min(PAUSE, max(0.05, seconds / 10)))

    def stop(self) -> None:
        """Ends the thread; an upload in progress is finished first."""
        self._stop.set()
        self._changed.set()
        if self._thread is not None:
            self._thread.join()

    def bring(self, is_last: bool = False, ended: bool = False) -> None:
        """Compares the mirror with the bucket once, and brings the bucket after it.

        Args:
            is_last: whether files of the run are put without a new checkpoint as well.
            ended: whether the run has ended: then its newest checkpoint may be removed as well, and
                what others read is checked.

        Raises:
            LostWorkdirError, StoreError: see `Lease.change`.
        """
        there = committed_steps(self._mirror)
        self._set_damaged_aside(there)
        new = [
            each
            for each in there.values()
            if self._identities.get(each.step) != each.identity
            and (each.step, each.identity) not in self._refused
        ]
        for pinned in [pin(self._mirror, each) for each in new]:
            if pinned is None:  # has changed in the meantime
                self._changed.set()
            else:
                self._commit_or_refuse(pinned)
                unpin(self._mirror, pinned.step)
        if is_last:
            self._put_run_files()
        known = self._lease.ledger.checkpoints
        is_complete = all(self._identities.get(s) == each.identity for s, each in there.items())
        # A folder of which everything is gone was cleaned up by somebody else.
        if there and is_complete and (ended or max(there) >= max(known, default=0)):
            # One that is damaged here is still there, and intact in the bucket.
            folders = step_folders(epath.Path(self._mirror) / CHECKPOINTS)
            gone = [step for step in known if step not in there and step not in folders]
            self._remove(gone)
        # Also after a removal whose answer was lost, or their objects would seem to be needed.
        self._forget([step for step in self._commits if step not in self._lease.ledger.checkpoints])
        finish_removals(self._store, self._lease, self._commits)
        self._collect(there, ended)
        if ended:
            for commit in self._commits.values():
                republish(self._store, self._lease, commit)

    def put_events(self) -> None:
        """Puts the record of events, which a lost machine would take with it.

        Raises:
            LostWorkdirError, StoreError: see `Lease.change`.
        """
        files = self._run_files.put_changed(EVENTS_FILE)
        if EVENTS_FILE in files.keys() - self._lease.ledger.run_files.keys():
            self._lease.change(lambda ledger: _with_files(ledger, files, ""))

    def _run(self) -> None:
        began = time.monotonic()
        while not self._stop.is_set():
            age = time.monotonic() - began
            has_changed = self._changed.wait(min(max(FIRST_EVENTS, age), LONGEST_EVENTS))
            self._changed.clear()
            if self._stop.is_set():
                return
            try:
                self._or_fail(self.bring if has_changed else self.put_events)
            except StoreError as error:
                self._outage.report(error)
                self._stop.wait(PAUSE)
                self._changed.set()
            except Exception as error:  # raised in the main thread, by `check`
                self._failure = error
                return

    def _or_fail(self, action: Callable[[], None]) -> None:
        try:
            with self._busy:
                action()
        except OSError as error:
            raise StoreError(f"Cannot read {self._mirror}: {explain(error)}") from error
        self._outage.report(None)

    def _commit_or_refuse(self, pinned: Pinned) -> None:
        try:
            self._commit(pinned)
        except DamagedCheckpointError as error:
            warn(f"Step {pinned.step} is not uploaded: {error}")
            self._refused.add((pinned.step, pinned.identity))

    def _commit(self, pinned: Pinned) -> None:
        """Uploads a checkpoint and commits it: data, small files, manifest, ledger."""
        small = pinned.small()
        self.loose.add(object_name(pinned.step, name) for name in (*pinned.data, *small))
        run_files = self._run_files.put_changed()

        def put(name: str) -> None:
            pinned.check(name)
            protocol.reached("data file")
            # No condition: all that anybody ever writes under this name are these bytes.
            if not self._copy(pinned, name):
                self._store.put(object_name(pinned.step, name), pinned.folder / name)

        in_threads(put, pinned.data)
        in_threads(lambda name: self._expect(pinned, name), sorted(pinned.elsewhere))
        rows = self._put_rows()
        commit = new_commit(pinned.step, self._lease.ledger.fence, small)
        replaced = pinned.step in self._commits
        if not replaced:
            publish(self._store, self._lease, commit)
        protocol.reached("commit")
        self.loose.add([commit.name])
        self._store.put(commit.name, commit.to_bytes(), if_absent=True)
        protocol.reached("commit put")
        self._lease.change(lambda ledger: _with(_with_files(ledger, run_files, rows), commit))
        self._commits[pinned.step] = commit
        self._identities[pinned.step] = pinned.identity
        self.loose.discard([commit.name, rows, *commit.objects])
        if replaced:
            publish(self._store, self._lease, commit)

    def _copy(self, pinned: Pinned, name: str) -> bool:
        """Copies a file that another checkpoint in the bucket has, instead of sending it again."""
        facts = files_of(pinned.manifest)[name]
        if facts[0] < COPIED_BYTES:
            return False
        for step, commit in sorted(self._commits.items(), reverse=True):
            # Of equal random names: it is the same file, linked on the disk.
            if step != pinned.step and commit.files.get(name) == facts:
                target = object_name(pinned.step, name)
                return self._store.copy(object_name(step, name), target, facts[0])
        return False

    def _expect(self, pinned: Pinned, name: str) -> None:
        """Checks that a file is in the bucket that another process has put there."""
        found = self._store.head(object_name(pinned.step, name))
        if found is None or found.size != pinned.elsewhere[name]:
            url = self._store.url_of(object_name(pinned.step, name))
            raise DamagedCheckpointError(url, "is missing or has another size")

    def _put_run_files(self) -> None:
        """Puts the files of the run without a new checkpoint."""
        files, rows = self._run_files.put_changed(), self._put_rows()
        new = _with_files(self._lease.ledger, files, rows)
        if new != self._lease.ledger:
            self._lease.change(lambda ledger: _with_files(ledger, files, rows))
        self.loose.discard([rows])

    def _put_rows(self) -> str:
        """Name of the rows in the bucket; "" if the run has none."""
        path = self._mirror / METRICS
        content = path.read_bytes() if path.is_file() else b""
        if content and content != self._rows[1]:
            protocol.reached("rows")
            name = new_rows_name(self._lease.ledger.fence)
            self.loose.add([name])
            put_rows(self._store, name, content)
            self._rows = (name, content)
        return self._rows[0]

    def _remove(self, steps: list[int]) -> None:
        if steps:
            protocol.reached("removal")
            self._lease.change(lambda ledger: without(ledger, steps))
            self._forget(steps)

    def _collect(self, there: Mapping[int, Pinned], ended: bool) -> None:
        """Deletes what was put for checkpoints that will not be committed any more."""
        rows = [self._rows[0]]
        if not self.loose.left(self._lease.ledger, self._commits, there, ended, rows):
            return
        self._lease.renew()  # also shows whether a change took place whose answer was lost
        left = self.loose.left(self._lease.ledger, self._commits, there, ended, rows)
        protocol.reached("loose objects")
        delete_objects(self._store, self._lease, left)
        self.loose.discard(left)

    def _set_damaged_aside(self, there: Mapping[int, Pinned]) -> None:
        """Takes those out of the ledger that the resumed run has moved to `damaged`."""
        aside = self._mirror / CHECKPOINTS / DAMAGED
        steps = [
            step
            for step in self._lease.ledger.checkpoints
            if step not in there
            and step not in self._lease.ledger.damaged
            and (aside / str(step)).exists()
        ]
        if steps:
            self._lease.change(lambda ledger: without(ledger, steps, damaged=True))
            self._forget(steps)

    def _forget(self, steps: list[int]) -> None:
        for step in steps:
            self._commits.pop(step, None)
            self._identities.pop(step, None)


def _with(ledger: Ledger, commit: Commit) -> Ledger:
    """The ledger after a commit; one of the same step is replaced."""
    old = ledger.commits.get(commit.step)
    return dataclasses.replace(
        ledger,
        checkpoints={**ledger.checkpoints, commit.step: commit.crc32},
        commits={**ledger.commits, commit.step: commit.name},
        deleting=(*ledger.deleting, old) if old else ledger.deleting,
        removed={step: each for step, each in ledger.removed.items() if step != commit.step},
    )


def _with_files(ledger: Ledger, run_files: Mapping[str, Facts], rows: str) -> Ledger:
    """The ledger with other files of the run, and the name of its rows."""
    is_new = rows not in ("", ledger.rows)
    return dataclasses.replace(
        ledger,
        run_files={**ledger.run_files, **run_files},
        rows=rows or ledger.rows,
        deleting=(*ledger.deleting, ledger.rows) if is_new and ledger.rows else ledger.deleting,
    )
