"""The name of a process, by which another program finds out whether it still runs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class ProcessName:
    """A process, distinguished from an earlier or later one with the same number.

    Attributes:
        machine: the machine since its last start, and the namespace in which the number counts.
        number: process id.
        began: when it began, in ticks since the machine's start; "" where that is unknown.
        host: name of the machine, for messages.
    """

    machine: str
    number: int
    began: str
    host: str

    def __str__(self) -> str:
        return f"process {self.number} on {self.host}"

    def is_here(self) -> bool:
        """Whether this program can see the process, if it still runs."""
        return self.machine == _machine()

    def is_alive(self) -> bool | None:
        """Whether it still runs; None if it is on another machine."""
        return _began(self.number) == self.began if self.is_here() else None

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal, unless it has ended or is out of reach."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.number, number)


def name_of(number: int) -> ProcessName:
    """The name of a running process of this machine."""
    return ProcessName(_machine(), number, _began(number) or "", socket.gethostname())


def _machine() -> str:
    """A name that the processes that can see each other share, and no others."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts = [(_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()]
    with contextlib.suppress(OSError):  # of a container
        parts.append(os.readlink(_PROC / "self/ns/pid"))
    return " ".join(parts)


def _began(number: int) -> str | None:
    """When a process began, "" where that is unknown; None if it has ended."""
    if (_PROC / "self/stat").exists():
        try:
            text = (_PROC / str(number) / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        state, *rest = text.rpartition(")")[2].split()
        return None if state in "ZX" else rest[18]
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""
