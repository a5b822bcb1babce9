"""The right to write to a workdir in a bucket: taken, renewed, lost and released."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Collection

from clac_jax.bucket.leaving import wait_for_the_end
from clac_jax.bucket.ledger import LEDGER, Ledger
from clac_jax.errors import LostWorkdirError, WorkdirError
from clac_jax.files import protocol
from clac_jax.stores.errors import ConflictError, NotFoundError, StoreError
from clac_jax.stores.retries import REAL_CLOCK, Clock
from clac_jax.stores.store import Store
from clac_jax.stores.version import Version

RENEWALS = 4  # per lease
SIGNS_OF_LIFE = 2  # changes; one may be a late request of a holder that is dead
ATTEMPTS = 20  # of one change; each failed one means that a renewal came in between


def time_with_sleep() -> float:
    """Seconds by a clock that also runs while the machine is suspended, where there is one."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


class Lease:
    """The holder's view of the ledger. Every change is a compare-and-swap; safe in threads."""

    def __init__(self, store: Store, ledger: Ledger, version: Version, previous: Ledger | None):
        """Wraps a ledger that `acquire` has written.

        Args:
            store: the workdir in the bucket.
            ledger: the ledger as written.
            version: the version of the object.
            previous: the ledger before; None if there was none.
        """
        self._store, self._ledger, self._version = store, ledger, version
        self.previous = previous
        self._lock = threading.RLock()
        self._lost: LostWorkdirError | None = None
        self._shown_at = time_with_sleep()  # before the last change that took place
        self._stop = threading.Event()
        self._is_left = False
        self._failure: tuple[float, StoreError] | None = None  # the last one: when, and why
        self._thread: threading.Thread | None = None

    @property
    def ledger(self) -> Ledger:
        """The ledger as this process wrote it last."""
        return self._ledger

    def check(self) -> None:
        """Raises the error that a previous call or the renewals have found; sends nothing.

        Raises:
            LostWorkdirError: somebody else holds the workdir.
        """
        if self._is_left:
            wait_for_the_end()
        if self._lost is not None:
            raise self._lost

    def hold(self) -> None:
        """Makes sure, before a request without condition, that the lease has not run out.

        Raises:
            LostWorkdirError: somebody else holds the workdir.
            StoreError: that is unknown, as the store cannot be reached.
        """
        self.check()
        if time_with_sleep() - self._shown_at > self._ledger.lease_seconds / 2:
            self.renew()

    def change(self, edit: Callable[[Ledger], Ledger]) -> None:
        """Changes the ledger, if this process still holds the workdir.

        Args:
            edit: the present ledger -> the new one; may be called several times.

        Raises:
            LostWorkdirError: somebody else holds the workdir; nothing was changed.
            StoreError: the store cannot be reached; the change may still take place.
        """
        self._change(edit, time_with_sleep())

    def renew(self) -> None:
        """Shows others that the holder is alive; also a way to check that it still holds.

        Raises:
            LostWorkdirError, StoreError: see `change`.
        """
        asked = time_with_sleep()
        with self._lock:
            self.check()
            if self._shown_at <= asked:  # else another thread has done it in the meantime
                self._change(lambda ledger: ledger, asked)

    def start_renewing(self, report: Callable[[StoreError | None], None]) -> None:
        """Renews in a thread until `release` or until the workdir is lost.

        Args:
            report: called with the error after a renewal failed, with None after one succeeded.
        """

        def renew_again_and_again() -> None:
            while not self._stop.wait(self._ledger.lease_seconds / RENEWALS):
                try:
                    self.renew()
                    report(None)
                except StoreError as error:
                    report(error)
                except LostWorkdirError:  # kept for `check`
                    return
                except WorkdirError:  # an unreadable ledger; the next change reports it
                    continue

        thread = threading.Thread(target=renew_again_and_again, name="lease", daemon=True)
        thread.start()
        self._thread = thread  # may be joined by any thread from now on

    def stop_renewing(self) -> None:
        """Ends the thread of `start_renewing`."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def release(self, finished: bool = False) -> None:
        """Lets others take the workdir immediately.

        Args:
            finished: whether the run has ended, and everything is in the bucket.

        Raises:
            LostWorkdirError, StoreError: see `change`; the lease then runs out.
        """
        self.stop_renewing()
        if not self._ledger.is_held:  # done already, when a signal arrived
            return
        protocol.reached("release")
        self.change(lambda ledger: dataclasses.replace(ledger, nonce="", finished=finished))

    def leave(self) -> None:
        """Releases the workdir while other threads use it: they wait for the end of the program.

        Raises:
            LostWorkdirError, StoreError: see `release`.
        """
        self.stop_renewing()
        with self._lock:  # a change in transit is finished first
            try:
                self.release()
            finally:
                self._is_left = True

    def _change(self, edit: Callable[[Ledger], Ledger], asked: float) -> None:
        """See `change`; `asked` is the time at which the caller began to wait for its turn."""
        with self._lock:
            self.check()
            if self._failure is not None and self._failure[0] > asked:
                raise self._failure[1]  # another thread has just tried it: all would wait in turn
            try:
                self._try_to_change(edit)
            except StoreError as error:
                self._failure = time_with_sleep(), error
                raise

    def _try_to_change(self, edit: Callable[[Ledger], Ledger]) -> None:
        for _ in range(ATTEMPTS):
            new = edit(self._ledger)
            new = dataclasses.replace(new, changes=self._ledger.changes + 1)
            protocol.reached("ledger change")
            now = time_with_sleep()
            try:
                version = self._store.put(LEDGER, new.to_bytes(), if_version=self._version)
            except (ConflictError, NotFoundError):
                self._read_again()
                continue
            self._ledger, self._version, self._shown_at = new, version, now
            protocol.reached("ledger changed")
            return
        raise WorkdirError(
            f"{self._store.url}/{LEDGER} changes faster than this process can change it. Find "
            "out what else writes to it."
        )

    def _read_again(self) -> None:
        """Reads the ledger after a conflict: an own change that was believed to have failed?"""
        try:
            stored = self._store.get(LEDGER)
            found = Ledger.from_bytes(stored.data, f"{self._store.url}/{LEDGER}")
        except NotFoundError as error:
            self._lose(
                f"{self._store.url}/{LEDGER} was removed while the run was writing there. This run "
                "stops and writes nothing there any more. What was not uploaded stays in its local "
                "copy (config.bucket.scratch); the next start on this machine uses it, or says "
                "how to.",
                error,
            )
        if found.nonce != self._ledger.nonce:
            who = found.holder if found.is_held else f"{found.holder}, which has ended since"
            self._lose(
                f"{self._store.url} was taken by {who} (since {clock_time(found.started)}). This "
                "run stops and writes nothing there any more: it has not renewed its lease for too "
                "long, perhaps because its process or machine was suspended. The other run "
                "continues from the last checkpoint in the bucket."
            )
        self._ledger, self._version = found, stored.version

    def _lose(self, message: str, cause: Exception | None = None) -> None:
        self._lost = LostWorkdirError(message, None)
        raise self._lost from cause


def acquire(
    store: Store,
    lease_seconds: float,
    dead: Collection[str] = (),
    clock: Clock = REAL_CLOCK,
    say: Callable[[str], None] = lambda line: None,
    prepare: Callable[[Ledger | None, Ledger], Ledger] = lambda previous, new: new,
) -> Lease:
    """Takes a workdir in a bucket that no process holds.

    A holder is alive if the ledger changes while this process watches it. Only this process's own
    clock is used, so the clocks of hosts need not agree.

    Args:
        store: the workdir in the bucket.
        lease_seconds: time without a change after which others may take the workdir.
        dead: nonces of holders that are known to have ended.
        clock: time.
        say: called with a line for the user before a wait.
        prepare: the present ledger and the new one -> the one to write; called before each attempt.

    Raises:
        WorkdirError: somebody else holds the workdir; the message says who and since when.
        LedgerError: the ledger cannot be read.
        StoreError: the bucket cannot be used.
    """
    nonce = secrets.token_hex(16)
    watch = _Watch(store, clock, say)
    while True:
        previous, version = read_ledger(store)
        may_live = previous is not None and previous.is_held and previous.nonce not in dead
        if previous is not None and may_live and not watch.has_ended(previous):
            clock.sleep(min(1.0, previous.lease_seconds / 20))
            continue
        new = dataclasses.replace(
            previous or Ledger(is_new=True),
            fence=(previous.fence if previous else 0) + 1,
            changes=(previous.changes if previous else 0) + 1,
            nonce=nonce,
            holder=f"process {os.getpid()} on {socket.gethostname()}",
            started=time.time(),
            lease_seconds=lease_seconds,
            finished=False,
        )
        new = prepare(previous, dataclasses.replace(new, run=new.identity))
        protocol.reached("acquire")
        try:
            if version is None:
                written = store.put(LEDGER, new.to_bytes(), if_absent=True)
            else:
                written = store.put(LEDGER, new.to_bytes(), if_version=version)
        except (ConflictError, NotFoundError):
            found, _ = read_ledger(store)
            known = {*dead, previous.nonce} if previous else set(dead)
            if found is not None and found.is_held and found.nonce not in known:
                raise _in_use(store, found) from None  # it has just taken the workdir
            continue
        protocol.reached("acquired")
        return Lease(store, new, written, previous)


class _Watch:
    """Signs of life of a holder that may be dead."""

    def __init__(self, store: Store, clock: Clock, say: Callable[[str], None]):
        self._store, self._clock, self._say = store, clock, say
        self._seen: Ledger | None = None
        self._since, self._signs = 0.0, 0

    def has_ended(self, ledger: Ledger) -> bool:
        """Whether the holder has not changed the ledger for the time of its lease.

        Args:
            ledger: as read just now.

        Raises:
            WorkdirError: the holder is alive.
        """
        now, seen = self._clock.now(), self._seen
        if seen is None:
            self._say(
                f"{self._store.url} was taken by {ledger.holder} at "
                f"{clock_time(ledger.started)}, and has not been released. Waiting up to "
                f"{ledger.lease_seconds:g} seconds to see whether that process is alive."
            )
        elif ledger.nonce != seen.nonce:
            raise _in_use(self._store, ledger)
        elif ledger.changes != seen.changes:
            self._signs += 1
            if self._signs == SIGNS_OF_LIFE:
                raise _in_use(self._store, ledger)
        if seen is None or ledger.changes != seen.changes:
            self._seen, self._since = ledger, now
        return now - self._since >= ledger.lease_seconds


def clock_time(seconds: float) -> str:
    """A time as the user reads it: local date and time to the second."""
    with contextlib.suppress(ValueError, OverflowError, OSError):
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    return "an unknown time"


def read_ledger(store: Store) -> tuple[Ledger | None, Version | None]:
    """The ledger and its version; None for both if there is none.

    Raises:
        LedgerError: it cannot be used.
        StoreError: the store cannot be reached.
    """
    try:
        stored = store.get(LEDGER)
    except NotFoundError:
        return None, None
    return Ledger.from_bytes(stored.data, f"{store.url}/{LEDGER}"), stored.version


def _in_use(store: Store, ledger: Ledger) -> WorkdirError:
    return WorkdirError(
        f"--workdir={store.url} is in use by {ledger.holder} (since "
        f"{clock_time(ledger.started)}). Wait for it to end, or choose another folder."
    )
