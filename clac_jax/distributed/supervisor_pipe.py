"""Reports of a supervised program to its supervisor: that it is alive, and what it has saved.

At each tick a thread writes a byte to a pipe: the sign that Python runs in this process at all. If
it does not, because C++ code hangs that holds the interpreter's lock, nothing in the process itself
can notice that. A process that does not write the checkpoints also reports their steps, since its
supervisor may not see them.
"""

from __future__ import annotations

import contextlib
import os
import re

SUPERVISED = "CLAC_JAX_SUPERVISED"
"""Environment variable "FD:DEVICE:INODE" of the pipe.

The device and the inode tell the pipe from another file that has the same number in a program that
inherits only the environment.
"""

_ALIVE = b"."
_SAVED = re.compile(rb"(\d{1,18});")


def pipe_to_supervisor() -> int | None:
    """The file descriptor that `SUPERVISED` names; None if there is no such pipe."""
    with contextlib.suppress(OSError, ValueError):
        descriptor, device, inode = map(int, os.environ.get(SUPERVISED, "").split(":"))
        facts = os.fstat(descriptor)
        if (facts.st_dev, facts.st_ino) == (device, inode):
            os.set_blocking(descriptor, False)
            return descriptor
    return None


def show_life(pipe: int) -> bool:
    """Gives a sign of life; returns False if the supervisor was killed."""
    return _write(pipe, _ALIVE)


def report_saved(step: int) -> None:
    """Reports that the run has been saved at a step, if there is a supervisor."""
    pipe = pipe_to_supervisor()
    if pipe is not None:
        _write(pipe, b"%d;" % step)


def read_report(content: bytes) -> tuple[bool, int]:
    """Whether what the supervisor has read is a sign of life, and the newest step in it, or -1."""
    return _ALIVE in content, max(map(int, _SAVED.findall(content)), default=-1)


def _write(pipe: int, content: bytes) -> bool:
    try:
        os.write(pipe, content)
    except BrokenPipeError:
        return False
    except OSError:  # the pipe is full: the supervisor is stopped
        pass
    return True
