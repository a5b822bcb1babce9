"""Runs the cases of a format in child processes with limits and reports their outcomes."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clac_jax.errors import UserError
from tools.fuzzing.format import Format

SECONDS = 20.0
"""Time limit per case. A reader needs milliseconds, but the machine may be busy."""

MAX_GROWTH = 400 << 20  # bytes of memory for reading a few kilobytes
MAX_MESSAGE = 2000  # characters; a path may be long
_EXAMPLES = -1  # case number of a failure in the examples
FAULTS = ("traceback", "message", "memory", "wrong", "ran code", "hang", "killed")
OUTCOMES = ("accepted", "refused", *FAULTS)
_FORBIDDEN = (
    "os.system",
    "subprocess.Popen",
    "os.exec",
    "os.posix_spawn",
    "socket.connect",
    "pty.spawn",
)


@dataclass(frozen=True)
class Result:
    """The outcome of a case.

    Attributes:
        number: number of the case.
        outcome: one of OUTCOMES.
        detail: message or traceback.
    """

    number: int
    outcome: str
    detail: str = ""


def generator_of(seed: int, format_name: str, number: int) -> random.Random:
    """The random generator of a case, which makes it reproducible."""
    return random.Random(f"{seed}/{format_name}/{number}")


def corrupt(format: Format, examples: Path, case: Path, seed: int, number: int) -> tuple[str, bool]:
    """Creates the folder of a case.

    Returns:
        The name of its example, and whether a change must be detected.
    """
    rng = generator_of(seed, format.name, number)
    names = sorted(path.name for path in examples.iterdir())
    name = rng.choice(names)
    shutil.rmtree(case, ignore_errors=True)
    shutil.copytree(examples / name, case)
    return name, format.corrupt(case, rng)


def run_cases(
    format: Format, examples: Path, scratch: Path, seed: int, first: int, last: int, until: float
) -> Iterator[Result]:
    """Runs the cases in range(first, last) until `time.monotonic()` reaches `until`."""
    number = first
    while number < last and time.monotonic() < until:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _child(format, examples, scratch, seed, number, last, until, writer)
        os.close(writer)
        for result in _results(reader, child, number):
            if result.number == _EXAMPLES:
                raise RuntimeError(f"a valid example of {format.name} failed: {result.detail}")
            yield result
            number = result.number + 1
        os.close(reader)


def _results(reader: int, child: int, number: int) -> Iterator[Result]:
    """Yields the results of a child, and its failure if it ended early."""
    buffer = b""
    while True:
        ready, _, _ = select.select([reader], [], [], SECONDS)
        data = os.read(reader, 1 << 16) if ready else b""
        if data:
            buffer += data
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                result = Result(**json.loads(line))
                yield result
                number = result.number + 1
            continue
        if not ready:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            yield Result(number, "hang", f"more than {SECONDS:.0f} s")
            return
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            name = signal.Signals(os.WTERMSIG(status)).name
            yield Result(number, "killed", f"by {name}")
        elif os.WEXITSTATUS(status):
            yield Result(number, "killed", f"exited with {os.WEXITSTATUS(status)}")
        return


def _child(
    format: Format,
    examples: Path,
    scratch: Path,
    seed: int,
    first: int,
    last: int,
    until: float,
    writer: int,
) -> None:
    """Runs cases in the child and writes a line per case; never returns."""
    code, number = 3, _EXAMPLES
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        os.chdir(scratch)
        _limit_memory(format.memory)
        audit = _Audit()
        originals = {
            path.name: _digest_of_original(format, path, scratch) for path in examples.iterdir()
        }
        for number in range(first, last):
            case = scratch / "case"
            name, checked = corrupt(format, examples, case, seed, number)
            result = _run(format, case, number, originals[name] if checked else None, audit)
            os.write(writer, json.dumps(asdict(result)).encode() + b"\n")
            if time.monotonic() > until:
                break
        code = 0
    except BaseException:
        os.write(
            writer,
            json.dumps(asdict(Result(number, "killed", traceback.format_exc()))).encode() + b"\n",
        )
        code = 0
    finally:
        os._exit(code)


def _run(format: Format, case: Path, number: int, original: str | None, audit: _Audit) -> Result:
    _reset_peak()
    before = _memory("VmRSS")
    audit.seen = ""
    try:
        with audit:
            content = format.read(case)
        found = digest(content)
        outcome, detail = "accepted", ""
        if original is not None and found != original:
            outcome, detail = (
                "wrong",
                "bytes were changed, and different content was read without an error",
            )
        del content
    except UserError as error:
        outcome, detail = _refused(error)
    except MemoryError:
        outcome, detail = "memory", traceback.format_exc()
    except BaseException as error:
        outcome, detail = "traceback", traceback.format_exc()
        if "PanicException" in type(error).__name__:
            detail = "Rust panic\n" + detail
    growth = _memory("VmHWM") - before
    if audit.seen:
        outcome, detail = "ran code", audit.seen
    elif growth > MAX_GROWTH and outcome in ("accepted", "refused"):
        outcome, detail = "memory", f"{growth >> 20} MiB for a small file; {detail}"
    return Result(number, outcome, detail[-8000:])


def _refused(error: UserError) -> tuple[str, str]:
    message = str(error)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            return "memory", f"{message} (after a MemoryError)"
        cause = cause.__cause__
    # Bad rows are listed one per line; any other message is one line.
    lines = [line for line in message.splitlines() if not line.startswith("  ")]
    if len(lines) > 3 or len(message) > MAX_MESSAGE or error.exit_code != UserError.exit_code:
        return "message", message
    return "refused", message


class _Audit:
    """Detects actions that no reader may take: starting programs, opening connections."""

    def __init__(self) -> None:
        self.seen, self._is_on = "", False
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: Any) -> None:
        if self._is_on and event in _FORBIDDEN:
            self.seen = f"{event} {arguments!r}"[:500]

    def __enter__(self) -> None:
        self._is_on = True

    def __exit__(self, *_: Any) -> None:
        self._is_on = False


def _digest_of_original(format: Format, example: Path, scratch: Path) -> str:
    case = scratch / "original"
    shutil.rmtree(case, ignore_errors=True)
    shutil.copytree(example, case)
    return digest(format.read(case))


def digest(content: Any) -> str:
    """A checksum of nested containers, arrays and plain values."""
    sha = hashlib.sha1()

    def add(value: Any) -> None:
        if isinstance(value, dict):
            for key in value:
                add(key)
                add(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                add(item)
        elif isinstance(value, np.ndarray):
            sha.update(f"{value.dtype} {value.shape}".encode())
            if value.size < 1 << 20:  # expanded tensors can be larger
                sha.update(np.ascontiguousarray(value).tobytes())
        else:
            try:
                sha.update(repr(value).encode("utf-8", "surrogatepass"))
            except ValueError:  # an integer with more digits than Python converts
                sha.update(b"large")
        sha.update(b";")

    add(content)
    return sha.hexdigest()


def _limit_memory(more: int) -> None:
    taken = _memory("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (taken + more, taken + more))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _memory(key: str) -> int:
    """Memory of this process in bytes, by a key of /proc/self/status."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(key))


def _reset_peak() -> None:
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
