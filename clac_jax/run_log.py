"""What a run writes down: metrics.jsonl, TensorBoard, W&B, and the progress line."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import ml_collections
from tqdm import tqdm

from clac_jax.workdir import WorkdirError

# Train-row fields that measure the machine, not the run: two runs of one seed differ in them.
TIMING_FIELDS = ("examples_per_second", "data_wait_fraction")


class Sink(Protocol):
    """Something that takes metric rows."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Takes one row."""

    def close(self) -> None:
        """Ends it."""


class MetricsFile:
    """`metrics.jsonl`: one JSON object a row, each step once, however often a run is restarted."""

    def __init__(self, path: Path, step: int, validated: bool = True):
        """Opens the file and drops the rows that a resumed run is about to write again.

        Args:
            path: of the file.
            step: the step the run goes on from; later rows go, and a last line cut off by a kill.
                Test rows go too: the end of the run writes them anew.
            validated: whether the validation at `step`, if any, is behind the run.

        Raises:
            WorkdirError: the file cannot be read or written.
        """
        self._path = path
        try:
            rows = read_rows(path)
            last_validation = step if validated else step - 1
            last = {"train": step, "val": last_validation, "test": -1}
            kept = [row for row in rows if row["step"] <= last[row["split"]]]
            temporary = path.with_suffix(".jsonl.tmp")
            with open(temporary, "w", encoding="utf-8") as file:
                file.writelines(_line(row) for row in kept)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        except OSError as error:
            raise _cannot_write(path, error) from error

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends one row.

        Raises:
            WorkdirError: the disk is full or the file is gone.
        """
        try:
            self._file.write(_line(row))
            self._file.flush()
        except OSError as error:
            raise _cannot_write(self._path, error) from error

    def sync(self) -> None:
        """Forces all rows to the disk; a checkpoint must never be newer than its rows."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _cannot_write(self._path, error) from error

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoard:
    """The same rows as TensorBoard scalars, in `workdir/tensorboard`."""

    def __init__(self, directory: Path, step: int):
        """Starts an event file that replaces what earlier ones say after `step`."""
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(directory), purge_step=step + 1)

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds every number of the row under "split/name"."""
        for name, value in row.items():
            if name not in ("split", "step") and isinstance(value, int | float):
                self._writer.add_scalar(f"{row['split']}/{name}", value, row["step"])

    def close(self) -> None:
        """Flushes and closes the event file."""
        self._writer.close()


class WeightsAndBiases:
    """The same rows on Weights & Biases (extra `wandb`); resumes the run of the same workdir."""

    def __init__(self, workdir: Path, config: ml_collections.ConfigDict):
        """Starts or resumes the W&B run named after the workdir.

        Raises:
            WorkdirError: the wandb package is not installed.
        """
        try:
            import wandb
        except ImportError as error:
            raise WorkdirError(
                "config.logging.wandb is set but wandb is not installed. "
                "Run `pip install clac-jax[wandb]` or set --config.logging.wandb=False."
            ) from error
        self._run = wandb.init(
            project=config.logging.wandb_project,
            name=workdir.name,
            id=workdir.name,
            resume="allow",
            dir=str(workdir),
            config=config.to_dict(),
        )

    def write(self, row: Mapping[str, Any]) -> None:
        """Logs the row's numbers under "split/name" at its step."""
        self._run.log(
            {f"{row['split']}/{k}": v for k, v in row.items() if k not in ("split", "step")},
            step=row["step"],
        )

    def close(self) -> None:
        """Ends the W&B run."""
        self._run.finish()


class RunLog:
    """Everything that takes rows, behind one `write`."""

    def __init__(
        self, workdir: Path, config: ml_collections.ConfigDict, step: int, validated: bool = True
    ):
        """Opens what the config asks for; see `MetricsFile` for where a resumed run goes on."""
        self._file = MetricsFile(workdir / "metrics.jsonl", step, validated)
        self._sinks: list[Sink] = [self._file]
        if config.logging.tensorboard:
            self._sinks.append(TensorBoard(workdir / "tensorboard", step))
        if config.logging.wandb:
            self._sinks.append(WeightsAndBiases(workdir, config))

    def write(self, row: Mapping[str, Any]) -> None:
        """One row to everything."""
        for sink in self._sinks:
            sink.write(row)

    def sync(self) -> None:
        """See `MetricsFile.sync`."""
        self._file.sync()

    def close(self) -> None:
        """Closes everything."""
        for sink in self._sinks:
            sink.close()


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
        WorkdirError: another line is not JSON.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise WorkdirError(
                f"{path}, line {number} is not JSON ({error.msg}). Mend or remove that line."
            ) from error
    return rows


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row) + "\n"


def _cannot_write(path: Path, error: OSError) -> WorkdirError:
    return WorkdirError(
        f"Cannot write {path}: {error.strerror}. Free some space or choose another --workdir; "
        "the checkpoints in the workdir are untouched."
    )
