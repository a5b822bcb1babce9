"""One try of a supervised program: its output passes through, and signals are passed on to it."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import IO, BinaryIO

from clac_jax.distributed.preemption import SIGNALS
from clac_jax.distributed.stacks import is_traced
from clac_jax.distributed.supervisor_pipe import SUPERVISED, read_report

KEPT_LINES = 200  # of the output of a try
DRAIN_SECONDS = 1.0  # for output after the end, which a grandchild may hold open
POLL_SECONDS = 5.0  # in case the signal of the child's end is lost
# Without a sign of life from the child's watchdog, which sends one every few seconds. Less than
# `connect_seconds`, for which the processes on other hosts wait for this one at their next start.
SILENCE_SECONDS = 180.0
ABORT_SECONDS = 10.0  # for the stacks that SIGABRT prints
_STEP = re.compile(rb"\bstep (\d{1,18})/\d")


class Signals:
    """Context manager that turns signals into bytes of a socket, for one loop that waits for all.

    Attributes:
        reader: the socket, for a selector.
        first: name of the first signal that asks this program to stop; "" until then.
    """

    def __enter__(self) -> Signals:
        self.first = ""
        self.reader, self._writer = socket.socketpair()
        for end in (self.reader, self._writer):
            end.setblocking(False)
        self._previous_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        under_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        heard = [number for number in SIGNALS if number != signal.SIGHUP or not under_nohup]
        self._previous = {n: signal.signal(n, _noted) for n in (*heard, signal.SIGCHLD)}
        return self

    def __exit__(self, *raised: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_fd)
        self.reader.close()
        self._writer.close()

    def read(self) -> list[signal.Signals]:
        """The signals since the last call that ask this program to stop."""
        numbers = b""
        with contextlib.suppress(BlockingIOError):
            numbers = self.reader.recv(1 << 12)
        asked = [signal.Signals(number) for number in numbers if number in SIGNALS]
        self.first = self.first or (asked[0].name if asked else "")
        return asked


def _noted(number: int, frame: FrameType | None) -> None:
    """Does nothing: the signal is already in the socket."""


@dataclass(frozen=True)
class Ended:
    """The end of a try.

    Attributes:
        code: exit code; 128 + n if signal n ended it, as a shell reports it.
        seconds: duration.
        lines: the last lines of its output, oldest first.
        step: the last step that it has printed, or -1.
        saved: the newest step at which it has reported a save, or -1; see `supervisor_pipe`.
        was_silent: whether it was killed because it gave no sign of life.
    """

    code: int
    seconds: float
    lines: tuple[str, ...]
    step: int
    saved: int
    was_silent: bool


def run_child(command: Sequence[str], signals: Signals) -> Ended:
    """Runs a program to its end; a signal to this program is passed on to it.

    A child whose signs of life end is killed: it is stopped, or hangs in a way that its own
    watchdog cannot notice. If this program is killed, the child's watchdog notices that, and the
    child saves and stops.

    Args:
        command: the program and its arguments.
        signals: the signals to this program.
    """
    began = time.monotonic()
    process, alive = start_supervised(command)
    assert process.stdout is not None and process.stderr is not None
    output, life = _Output(), SignsOfLife(process)
    with process, alive, selectors.DefaultSelector() as selector:
        selector.register(signals.reader, selectors.EVENT_READ, lambda: _pass_on(signals, process))
        selector.register(alive, selectors.EVENT_READ, lambda: life.read(alive.fileno()))
        for stream, copy in ((process.stdout, 1), (process.stderr, 2)):
            reading = functools.partial(output.copy, stream.fileno(), copy)
            selector.register(stream, selectors.EVENT_READ, reading)
        while process.poll() is None:
            for key, _ in selector.select(POLL_SECONDS):
                if not key.data():
                    selector.unregister(key.fileobj)
            life.check()
        selector.unregister(signals.reader)
        last = time.monotonic() + DRAIN_SECONDS
        while selector.get_map() and time.monotonic() < last:
            for key, _ in selector.select(DRAIN_SECONDS / 10):
                if not key.data():
                    selector.unregister(key.fileobj)
    code = process.returncode if process.returncode >= 0 else 128 - process.returncode
    seconds = time.monotonic() - began
    return Ended(code, seconds, output.last_lines(), output.step, life.saved, life.has_ended)


def program() -> list[str]:
    """The command `clac-jax`, as this program was started: from sources, or from a package."""
    is_in_sources = sys.path[:1] in ([""], [os.getcwd()])
    return [sys.executable, *([] if is_in_sources else ["-P"]), "-m", "clac_jax"]


def start_supervised(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    output: int | IO[bytes] = subprocess.PIPE,
) -> tuple[subprocess.Popen[bytes], BinaryIO]:
    """Starts a program that notices when this one is killed; see `Watchdog.on_orphaned`.

    Args:
        command: the program and its arguments.
        environment: variables that it gets besides those of this program.
        output: where its output and its errors go; by default, a pipe for each.

    Returns:
        The child, and the end of the pipe from which its signs of life are read.
    """
    reader, writer = os.pipe()
    facts = os.fstat(writer)
    supervised = f"{writer}:{facts.st_dev}:{facts.st_ino}"
    try:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            pass_fds=(writer,),
            env=os.environ | (environment or {}) | {SUPERVISED: supervised},
        )
    except OSError:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    return process, open(reader, "rb", buffering=0)


def _pass_on(signals: Signals, process: subprocess.Popen[bytes]) -> bool:
    for number in signals.read():
        process.send_signal(number)  # nothing happens if it has ended
    return True


class SignsOfLife:
    """Notices that a child gives no sign of life any more, and kills it.

    Attributes:
        has_ended: whether it was killed.
        saved: the newest step at which it has reported a save, or -1.
    """

    def __init__(self, process: subprocess.Popen[bytes]):
        self.has_ended, self.saved = False, -1
        self._process = process
        self._silence, self._last = -math.inf, time.monotonic()  # until the first sign

    def read(self, descriptor: int) -> bool:
        """Handles what the child has sent; False at the end."""
        content = os.read(descriptor, 1 << 12)
        is_alive, saved = read_report(content)
        self.saved = max(self.saved, saved)
        if is_alive:
            self._silence = 0.0
        if not content:
            self._silence = -math.inf  # it has ended, or watches nothing
        return bool(content)

    def check(self) -> None:
        """Kills the child if its silence is too long; first so that it prints its stacks."""
        now = time.monotonic()
        elapsed, self._last = now - self._last, now
        # As in the watchdog: time for which this program itself was suspended does not count.
        self._silence += elapsed if elapsed < 2 * POLL_SECONDS + 1 else POLL_SECONDS
        if self._silence > SILENCE_SECONDS and is_traced(self._process.pid):
            self._silence = 0.0
        if self._silence > SILENCE_SECONDS and not self.has_ended:
            self.has_ended = True
            self._process.send_signal(signal.SIGABRT)
        if self._silence > SILENCE_SECONDS + ABORT_SECONDS:
            self._process.kill()


class _Output:
    """Copies output, and keeps the last lines.

    Attributes:
        step: the last step that was printed, or -1.
    """

    def __init__(self) -> None:
        self.step = -1
        self._lines: deque[bytes] = deque(maxlen=KEPT_LINES)
        self._parts: dict[int, bytes] = {}

    def copy(self, source: int, target: int) -> bool:
        """Copies the available output of one file descriptor to a second one; False at the end."""
        content = os.read(source, 1 << 16)
        with contextlib.suppress(OSError):  # a closed terminal or a full disk ends no training
            _write(target, content)
        *lines, rest = (self._parts.get(target, b"") + content).split(b"\n")
        self._parts[target] = rest[-(1 << 16) :]
        self._lines.extend(lines)
        for step in _STEP.findall(b"\n".join(lines)):
            self.step = int(step)
        return bool(content)

    def last_lines(self) -> tuple[str, ...]:
        """The last lines as text, oldest first."""
        lines = [*self._lines, *filter(None, self._parts.values())]
        return tuple(line.decode(errors="replace").rstrip() for line in lines)


def _write(target: int, content: bytes) -> None:
    stream: IO[str] = sys.stdout if target == 1 else sys.stderr
    stream.flush()
    while content:
        content = content[os.write(target, content) :]
