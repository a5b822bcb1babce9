"""The stacks of all threads of this process, as text, and debuggers that hold them."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

THREADS = Path("/proc/self/task")  # Linux; elsewhere only Python's own stacks are known
PROCESSES = Path("/proc")
DEBUGGERS = ("bdb", "pdb", "_pydevd_bundle", "pydevd", "debugpy")


def all_stacks() -> str:
    """The Python stack of every thread with its name, and where each native thread waits.

    The main thread comes first. A thread in C++ shows the line that called it; the list of native
    threads then says whether it computes (R), sleeps (S) or waits for a device or a file system
    (D), and in which function of the kernel.
    """
    threads = {thread.ident: thread for thread in threading.enumerate()}
    main, own = threading.main_thread().ident, threading.get_ident()
    frames = sys._current_frames()
    parts = []
    for ident in sorted(frames, key=lambda each: (each != main, each == own)):
        thread = threads.get(ident)
        name = thread.name if thread else "not started by Python"
        native = f", native id {thread.native_id}" if thread else ""
        stack = "".join(traceback.format_stack(frames[ident]))
        parts.append(f"Thread {name!r}{native} (most recent call last):\n{stack}")
    native_threads = list(_native_threads())
    if native_threads:
        parts.append("Native threads: id, name, state, function of the kernel\n")
        parts[-1] += "\n".join(native_threads) + "\n"
    return "\n".join(parts)


def is_debugged() -> bool:
    """Whether a debugger is attached to this process, or shows its prompt in one of the threads."""
    frames = sys._current_frames().values()
    return is_traced(os.getpid()) or any(_is_in_debugger(frame) for frame in frames)


def is_traced(pid: int) -> bool:
    """Whether a debugger such as gdb is attached to a process; False where that is unknown."""
    with contextlib.suppress(OSError, StopIteration, ValueError, IndexError):
        lines = (PROCESSES / str(pid) / "status").read_text(encoding="utf-8").splitlines()
        tracer = next(line for line in lines if line.startswith("TracerPid:"))
        return int(tracer.split()[1]) != 0
    return False


def _is_in_debugger(frame: FrameType | None) -> bool:
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name.partition(".")[0] in DEBUGGERS and frame.f_code.co_name in _PROMPTS:
            return True
        frame = frame.f_back
    return False


# The functions that wait for the user: a debugger's other threads are always in its code.
_PROMPTS = ("interaction", "cmdloop", "_do_wait_suspend", "do_wait_suspend")


def _native_threads() -> Iterator[str]:
    with contextlib.suppress(OSError):
        for task in sorted(THREADS.iterdir(), key=lambda path: int(path.name)):
            with contextlib.suppress(OSError, IndexError):  # it has ended
                name, _, rest = (task / "stat").read_text(errors="replace").rpartition(")")
                where = ""
                with contextlib.suppress(OSError):  # may need privileges
                    where = (task / "wchan").read_text(errors="replace").strip("\0 0")
                name = name.partition("(")[2]
                yield f"{task.name}  {name}  {rest.split()[0]}  {where}".rstrip()
