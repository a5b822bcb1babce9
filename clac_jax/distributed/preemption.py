"""Signals that stop a run: the first lets the step finish and saves, a later one stops immediately.

SIGTERM is what schedulers and cloud machines send before they take a machine away (pre-emption and
`scancel` in SLURM, Kubernetes, the notice of Google Cloud on GPU and TPU machines), SIGUSR1 is sent
by `sbatch --signal=USR1@120` before a time limit, SIGINT by Ctrl-C, and SIGHUP when a terminal or
its connection closes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)

REPEAT_SECONDS = 2.0
"""Signals that follow the first one within this time belong to it.

One event often arrives more than once: GNU `timeout` signals its child and the child's group,
schedulers signal every process of a job and their launcher passes it on, a terminal that closes
sends SIGHUP and SIGTERM. A person who means "now" presses Ctrl-C again after reading the answer.
"""

EXIT_PREEMPTED = 75
"""Exit code of a run that stopped on request and can resume: BSD's EX_TEMPFAIL, "try again later".
"""

EXIT_HUNG = 76
"""Exit code of a run in which something took far too long; it can resume: `watchdog`."""


class Preempted(Exception):
    """The run was asked to stop; raised where the loop is ready to save and end."""

    def __init__(self, name: str):
        super().__init__(name)
        self.signal_name = name


class StopSignals:
    """Context manager that listens for the signals that request a stop of the run.

    Attributes:
        before_leaving: called with the signal's name before the program ends without saving.

    A thread reads the signals from a socket that the C-level handler writes to. Python's own
    handlers run in the main thread between two bytecodes, so they would wait for a step, or for
    minutes of compilation, to return; the second signal must not wait.
    """

    def __init__(self) -> None:
        self._name: str | None = None
        self._first_at: float | None = None  # of the signals; monotonic clock, seconds
        self._has_unsaved_work = False
        self._lock = threading.Lock()
        self.before_leaving: Callable[[str], None] = lambda name: None

    @property
    def requested(self) -> bool:
        """Whether a first signal has arrived."""
        return self._name is not None

    def raise_if_requested(self, in_any_process: bool) -> None:
        """Raises `Preempted` if the processes agree that one of them has received a signal."""
        if in_any_process:
            raise Preempted(self._name or "a signal to another process")

    def request(self, reason: str) -> None:
        """Requests a stop, from another thread, unless one was requested already.

        Args:
            reason: what takes the place of the signal's name in messages.
        """
        with self._lock:
            if not self.requested:
                self._begin(reason)

    def set_unsaved_work(self, has_unsaved_work: bool) -> None:
        """Sets whether a first signal waits for `raise_if_requested` or ends the program.

        Ending immediately is right if nothing would be lost: while the run starts and compiles, and
        during the final test, which a rerun repeats.
        """
        with self._lock:
            self._has_unsaved_work = has_unsaved_work
            leaves = not has_unsaved_work and self.requested
        if leaves:
            self._leave()
            threading.Event().wait()  # the program ends

    def __enter__(self) -> StopSignals:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._previous_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        under_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        heard = [number for number in SIGNALS if number != signal.SIGHUP or not under_nohup]
        self._previous = {number: signal.signal(number, _noted) for number in heard}
        threading.Thread(target=self._listen, name="stop-signals", daemon=True).start()
        return self

    def __exit__(self, *raised: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_fd)
        self._writer.close()  # ends the thread

    def _listen(self) -> None:
        with self._reader:
            while number := self._reader.recv(1):
                if number[0] in SIGNALS:
                    self._receive(signal.Signals(number[0]))

    def _receive(self, number: signal.Signals) -> None:
        with self._lock:
            now = time.monotonic()
            if self._first_at is not None:
                if now - self._first_at < REPEAT_SECONDS:
                    return
                say(f"{number.name} again: stopping immediately; the newest checkpoint is intact.")
                os._exit(128 + number)
            self._first_at = now
            if not self.requested:
                again = f"The same signal again, {REPEAT_SECONDS:g} seconds from now or later,"
                self._begin(number.name, f" {again} stops immediately.")

    def _begin(self, name: str, hint: str = "") -> None:
        self._name = name
        if self._has_unsaved_work:
            say(f"{name}: stopping after this step, with a checkpoint.{hint}")
        else:
            self._leave()

    def _leave(self) -> None:
        """Ends the program, in a thread of its own: a second signal need not wait for uploads."""
        say(f"{self._name}: stopping; nothing is lost, rerun the same command to resume.")

        def leave() -> None:
            try:
                self.before_leaving(str(self._name))
            except Exception:  # the main thread may wait for the end already
                say(traceback.format_exc())
                os._exit(1)
            os._exit(EXIT_PREEMPTED)

        threading.Thread(target=leave, name="leaving", daemon=True).start()


def _noted(number: int, frame: FrameType | None) -> None:
    """Does nothing: the signal is already in the socket."""


def say(text: str) -> None:
    """Writes a line to standard error from any thread."""
    # Not print: the main thread may hold the lock of the buffered stream. A closed terminal rejects
    # the text, but the run must be saved nevertheless.
    with contextlib.suppress(OSError):
        os.write(sys.stderr.fileno(), f"\n{text}\n".encode())
