"""What a run writes down: metrics.jsonl, what draws its rows, and the progress line."""

from __future__ import annotations

import functools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import ml_collections
from tqdm import tqdm

from clac_jax.distributed.workdir import HeldFolder
from clac_jax.errors import LostWorkdirError, MovedMetricsError, WorkdirError
from clac_jax.files.atomic import write_atomically
from clac_jax.files.paths import explain
from clac_jax.reporting.trackers import TensorBoard, WeightsAndBiases

# Train-row fields that measure the machine, not the run: two runs of one seed differ in them.
TIMING_FIELDS = ("examples_per_second", "data_wait_fraction")
MAX_LINE = 1 << 20  # bytes; a row has some hundreds


class Sink(Protocol):
    """Something that takes metric rows."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Takes one row."""

    def sync(self) -> None:
        """Forces what it was given to the disk."""

    def follow(self, workdir: Path) -> None:
        """Learns where the workdir was moved to; files that are open went with it."""

    def close(self) -> None:
        """Ends it."""


class MetricsFile:
    """`metrics.jsonl`: one JSON object per row, each step once, however often a run restarts."""

    def __init__(self, path: Path, step: int, validated: bool = True, resumed: bool = True):
        """Opens the file and drops the rows that a resumed run is about to write again.

        Args:
            path: of the file.
            step: the step the run resumes from; later rows go, and a last line cut off by a kill.
                Test rows go too: the end of the run writes them anew.
            validated: whether the validation at `step`, if any, is behind the run.
            resumed: whether the rows that are there belong to this run. If not, its checkpoints are
                gone, and the file is renamed and a new one begun.

        Raises:
            WorkdirError: the file cannot be read or written.
        """
        self._path = path
        self._lock = threading.Lock()  # rows come from the run, and syncs from a save beside it
        if not resumed:
            if kept := _rename_away(path):
                _warn(
                    f"{path} has rows of an earlier run, but the workdir has no checkpoint of it. "
                    f"They are kept in {kept.name}, and this run writes a new file. If its "
                    "checkpoints were moved, stop this run and put both back."
                )
        elif step and not path.exists():
            _warn(
                f"{path} is not there, so the rows up to step {step} are missing in it and in the "
                "report. Put it back and start again, if you have it."
            )
        rows = read_rows(path)
        last_validation = step if validated else step - 1
        last = {"train": step, "val": last_validation, "test": -1}
        own = [row for row in rows if row["step"] <= last[row["split"]]]
        write_atomically(path, "".join(map(_line, own)))
        self._open()

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends one row.

        Raises:
            MovedMetricsError: the file was removed, moved or cut short; the row is safe.
            WorkdirError: the disk is full.
        """
        with self._lock:
            try:
                before = self._state()
                self._file.write(_line(row))
                self._file.flush()
                self._size = os.fstat(self._file.fileno()).st_size
            except OSError as error:
                raise self._cannot_write(error) from error
            self._stop_unless_there(before)

    def sync(self) -> None:
        """Forces all rows to the disk; a checkpoint must never be newer than its rows.

        Raises:
            MovedMetricsError: the file was removed, moved or cut short.
            WorkdirError: they cannot be written.
        """
        try:
            with self._lock:
                descriptor = os.dup(self._file.fileno())
            try:
                os.fsync(descriptor)  # which can take long, and no row need wait for it
            finally:
                os.close(descriptor)
            with self._lock:
                self._stop_unless_there(self._state())
        except OSError as error:
            raise self._cannot_write(error) from error

    def follow(self, workdir: Path) -> None:
        """See `Sink.follow`."""
        self._path = workdir / self._path.name

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _open(self) -> None:
        try:
            self._file = open(self._path, "a+", encoding="utf-8")  # noqa: SIM115 (see close)
            self._size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise self._cannot_write(error) from error

    def _state(self) -> str:
        """What has become of the file: "there", "moved" or "cut short".

        Numbers of inodes do not last on every network file system, so another one tells nothing as
        long as the size is right.
        """
        own = os.fstat(self._file.fileno())
        if own.st_size < self._size:
            return "cut short"
        try:
            found = os.stat(self._path)
        except (FileNotFoundError, NotADirectoryError):
            return "moved"
        same = found.st_ino == own.st_ino or found.st_size == own.st_size
        return "there" if same else "moved"

    def _stop_unless_there(self, state: str) -> None:
        """Ends the run if the file is not what it was; writes the rows again if it has them.

        They are read out of the file that is still open, wherever its name has gone.

        Raises:
            MovedMetricsError: the state of the run can be saved.
            WorkdirError: the rows cannot be written.
        """
        if state == "there":
            return
        if state == "cut short":
            self._size = os.fstat(self._file.fileno()).st_size
            raise MovedMetricsError(
                f"{self._path} was cut short while the run was writing to it, and rows are gone. "
                "Do not change it during a run; start the same command again to resume."
            )
        if not self._path.parent.is_dir():  # the open file has the row, wherever it is now
            raise MovedMetricsError(
                f"{self._path.parent} was moved or removed while the run was writing to it."
            )
        try:
            self._file.seek(0)
            rows = self._file.read()
            self._file.close()
        except (OSError, ValueError) as error:
            raise WorkdirError(
                f"{self._path} was removed or moved during the run, and its rows cannot be read "
                "any more. Put the file back and start again."
            ) from error
        other = _rename_away(self._path)
        write_atomically(self._path, rows)
        self._open()
        kept = f" What was in its place is now {other.name}." if other else ""
        raise MovedMetricsError(
            f"{self._path} was removed, moved or replaced while the run was writing to it. Its "
            f"rows were written there again.{kept} Start the same command again to resume."
        )

    def _cannot_write(self, error: OSError) -> WorkdirError:
        return WorkdirError(
            f"Cannot write {self._path}: {explain(error)} The checkpoints in the workdir are "
            "untouched."
        )


class RunLog:
    """Everything that takes rows, behind one `write`."""

    def __init__(
        self,
        workdir: Path,
        config: ml_collections.ConfigDict,
        step: int,
        validated: bool = True,
        resumed: bool = True,
    ):
        """Opens what the config asks for; see `MetricsFile` for where a resumed run continues."""
        self._held = HeldFolder(workdir)
        self._file = MetricsFile(workdir / "metrics.jsonl", step, validated, resumed)
        self._sinks: list[Sink] = [self._file]
        if config.logging.tensorboard:
            self._sinks.append(TensorBoard(workdir / "tensorboard", step))
        if config.logging.wandb:
            self._sinks.append(WeightsAndBiases(workdir, config))

    def write(self, row: Mapping[str, Any]) -> None:
        """One row to everything.

        Raises:
            LostWorkdirError: the workdir is no longer the folder that the run began in.
            WorkdirError: the row cannot be written.
        """
        lost = self._lost()
        for sink in reversed(self._sinks):  # metrics.jsonl last: it has what all others have
            lost = self._unless_lost(functools.partial(sink.write, row)) or lost
        if lost:
            raise lost

    def sync(self) -> None:
        """Forces all rows to the disk, before the checkpoint that follows them; see `write`."""
        lost = self._lost()
        for sink in self._sinks:
            lost = self._unless_lost(sink.sync) or lost
        if lost:
            raise lost

    def close(self) -> None:
        """Closes everything."""
        for sink in self._sinks:
            sink.close()
        self._held.close()

    def _unless_lost(self, action: Callable[[], None]) -> LostWorkdirError | None:
        """Does something with a sink; the error if the workdir was moved since `_lost` looked.

        The sinks write to files that are open, so that a row is safe even then.
        """
        try:
            action()
        except WorkdirError:
            lost = self._lost()
            if lost is None:
                raise
            return lost
        return None

    def _lost(self) -> LostWorkdirError | None:
        """The error to raise when all is written, if the workdir was moved and is found elsewhere.

        Raises:
            LostWorkdirError: it is nowhere to be found.
        """
        try:
            self._held.check()
        except LostWorkdirError as error:
            if error.moved_to is None:
                raise
            self._held.follow(error.moved_to)
            for sink in self._sinks:
                sink.follow(error.moved_to)
            return error
        return None


class SilentLog:
    """The log of the processes behind the first: nothing."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Nothing."""

    def sync(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class ProgressLine:
    """A progress bar on a terminal; elsewhere a plain line now and then."""

    def __init__(
        self,
        total_steps: int,
        step: int,
        seconds_between_lines: float = 15.0,
        silent: bool = False,
    ):
        """Starts at `step` of `total_steps`; `silent`: shows nothing."""
        self._silent = silent
        self._is_terminal = sys.stderr.isatty() and not silent
        self._every = seconds_between_lines
        self._bar = tqdm(
            total=total_steps,
            initial=step,
            disable=not self._is_terminal,
            dynamic_ncols=True,
            unit="step",
        )
        self._total = total_steps
        self._first_step, self._step = step, step
        self._started = self._printed = time.monotonic()

    def update(self, row: Mapping[str, Any]) -> None:
        """Shows a train row: the loss, examples per second and the time left."""
        if self._silent:
            return
        step, epoch, loss = row["step"], row["epoch"], row["loss"]
        rate = row["examples_per_second"]
        self._bar.set_description(f"epoch {epoch}")
        self._bar.set_postfix_str(f"loss {loss:.3f}, {rate:.0f} crystals/s")
        self._bar.update(step - self._step)
        self._step = step
        now = time.monotonic()
        due = now - self._printed >= self._every or step == self._total
        if not self._is_terminal and due and step > self._first_step:
            self._printed = now
            left = (now - self._started) / (step - self._first_step) * (self._total - step)
            print(
                f"epoch {epoch}  step {step}/{self._total}  loss {loss:.3f}  "
                f"{rate:.0f} crystals/s  {tqdm.format_interval(left)} left",
                flush=True,
            )

    def say(self, text: str) -> None:
        """Prints a line without breaking the bar."""
        if self._is_terminal:
            self._bar.write(text)
        elif not self._silent:
            print(text, flush=True)

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a last line that a kill cut off is left out.

    Raises:
        WorkdirError: the file cannot be read, or another line is not a row.
    """
    rows = []
    try:
        if not path.exists():
            return []
        if not path.is_file():
            raise WorkdirError(f"{path} is not a file. Move it away and start again.")
        with open(path, "rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), b""), start=1):
                if not line.endswith(b"\n") and len(line) < MAX_LINE:
                    break  # the last one
                row = _row(line)
                if isinstance(row, str):
                    raise WorkdirError(f"{path}, line {number} {row}. Fix or remove that line.")
                rows.append(row)
    except OSError as error:
        raise WorkdirError(f"Cannot read {path}: {explain(error)}") from error
    return rows


def _row(line: bytes) -> dict[str, Any] | str:
    """A row, or what is wrong with its line."""
    if len(line) == MAX_LINE:
        return "is longer than any row"
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return f"is not JSON ({error.msg})"
    except (ValueError, RecursionError):  # not UTF-8, a number of thousands of digits, deep nesting
        return "is not JSON"
    if not isinstance(row, dict):
        return "is not a row: it has no names"
    if row.get("split") not in ("train", "val", "test"):
        return 'is not a row: "split" is not train, val or test'
    for name in ("step", "epoch"):
        value = row.get(name, 0 if name == "epoch" else None)
        if type(value) is not int or not 0 <= value < 1 << 63:
            return f'is not a row: "{name}" is not a whole number'
    return row


def _rename_away(path: Path) -> Path | None:
    """Gives what is at a path another name, unless it is an empty file; returns that.

    Raises:
        WorkdirError: it cannot be renamed.
    """
    try:
        if not os.path.lexists(path) or (path.is_file() and path.stat().st_size == 0):
            return None
        number = 1
        while os.path.lexists(kept := path.with_name(f"{path.stem}-{number}{path.suffix}")):
            number += 1
        os.rename(path, kept)
        return kept
    except OSError as error:
        raise WorkdirError(f"Cannot rename {path}: {explain(error)}") from error


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row) + "\n"
