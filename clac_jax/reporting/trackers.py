"""Trackers that display the rows of a run: TensorBoard event files and Weights & Biases."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections

from clac_jax.errors import WorkdirError, error_reason, warn
from clac_jax.files.atomic import write_atomically
from clac_jax.files.paths import explain

WANDB_ID = "wandb_id"  # in the workdir


class TensorBoard:
    """Writes rows as TensorBoard scalars, in `workdir/tensorboard`.

    Each row is in the file when `write` returns, as in `metrics.jsonl`: a run that is killed loses
    no points. There is no writer thread, so a full disk raises an error for the row concerned.
    """

    def __init__(self, directory: Path, step: int):
        """Starts an event file that supersedes earlier ones after `step`.

        Raises:
            WorkdirError: the folder cannot be written to.
        """
        from tensorboardX.proto import event_pb2

        self._proto = event_pb2
        self._directory, self._step = directory, step
        self._lock = threading.Lock()  # a save in a different thread syncs the file
        self._begin()

    def _begin(self) -> None:
        from tensorboardX.record_writer import RecordWriter

        # TensorBoard reads the files in the order of their names.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._path = self._directory / name
        try:
            self._directory.mkdir(exist_ok=True)
            self._writer = RecordWriter(str(self._path))
        except OSError as error:
            raise WorkdirError(f"Cannot write {self._directory}: {explain(error)}") from error
        self._add(file_version="brain.Event:2")
        start = self._proto.SessionLog(status=self._proto.SessionLog.START)
        self._add(step=self._step + 1, session_log=start)

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds every number of the row as "split/name".

        Raises:
            WorkdirError: the disk is full.
        """
        from tensorboardX.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=f"{row['split']}/{name}", simple_value=value)
            for name, value in row.items()
            if name not in ("split", "step") and isinstance(value, int | float)
        ]
        with self._lock:
            self._add(step=row["step"], summary=Summary(value=values))
            self._step = row["step"]

    def sync(self) -> None:
        """Starts a new file if the open one was removed; each row is already on disk.

        Users tidy up `tensorboard/` during a run, which should not cost a checkpoint.

        Raises:
            WorkdirError: the new file cannot be written.
        """
        with self._lock:
            if os.path.lexists(self._path):
                return
            if not self._directory.parent.is_dir():
                raise WorkdirError(f"{self._directory.parent} was moved or removed.")
            warn(
                f"{self._path} was removed while the run was writing to it. A new one was started; "
                "metrics.jsonl has the earlier rows."
            )
            with contextlib.suppress(OSError):
                self._writer.close()
            self._begin()

    def follow(self, workdir: Path) -> None:
        """Sets the new location of the workdir."""
        with self._lock:
            self._directory = workdir / self._directory.name
            self._path = self._directory / self._path.name

    def close(self) -> None:
        """Closes the event file."""
        try:
            self._writer.close()
        except OSError as error:
            raise self._cannot_write(error) from error

    def _add(self, **content: Any) -> None:
        event = self._proto.Event(wall_time=time.time(), **content)
        try:
            self._writer.write(event.SerializeToString())
            self._writer.flush()
        except OSError as error:
            raise self._cannot_write(error) from error

    def _cannot_write(self, error: OSError) -> WorkdirError:
        return WorkdirError(f"Cannot write {self._path}: {explain(error)}")


class WeightsAndBiases:
    """Logs rows to Weights & Biases (extra `wandb`); a resumed run continues its W&B run.

    The run id is random and kept in the workdir: two workdirs of one name are separate runs. Steps
    are logged as a metric instead of W&B's own counter, which never goes back and would drop the
    rows that a run writes again after it was killed.
    """

    def __init__(self, workdir: Path, config: ml_collections.ConfigDict):
        """Starts or resumes the W&B run of the workdir.

        Raises:
            WorkdirError: the wandb package is not installed, or cannot start.
        """
        try:
            import wandb
        except ImportError as error:
            raise WorkdirError(
                "config.logging.wandb is set but wandb is not installed. "
                "Run `pip install clac-jax[wandb]` or set --config.logging.wandb=False."
            ) from error
        try:
            self._run = wandb.init(
                project=config.logging.wandb_project,
                name=workdir.resolve().name,
                id=_wandb_id(workdir),
                resume="allow",
                dir=str(workdir),
                config=config.to_dict(),
            )
            self._run.define_metric("step")
            self._run.define_metric("*", step_metric="step")
        except WorkdirError:
            raise
        except Exception as error:  # from the service, the network or the account
            raise WorkdirError(
                f"Weights & Biases cannot be started: {error_reason(error)}. Run `wandb login`, "
                "set WANDB_MODE=offline, or set --config.logging.wandb=False."
            ) from error

    def write(self, row: Mapping[str, Any]) -> None:
        """Logs the row's numbers as "split/name", with its step."""
        named = {f"{row['split']}/{k}": v for k, v in row.items() if k not in ("split", "step")}
        self._run.log({"step": row["step"], **named})

    def sync(self) -> None:
        """Does nothing: W&B sends rows on its own."""

    def follow(self, workdir: Path) -> None:
        """Does nothing: W&B has its own folder."""

    def close(self) -> None:
        """Ends the W&B run."""
        self._run.finish()


def _wandb_id(workdir: Path) -> str:
    """The id of the workdir's run, created at its first start."""
    path = workdir / WANDB_ID
    try:
        found = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        found = ""
    except (OSError, UnicodeDecodeError) as error:
        raise WorkdirError(f"Cannot read {path}: {error}. Remove it for a new run.") from error
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", found):
        return found
    if found:
        warn(f"{path} does not hold the id of a W&B run; a new one is created.")
    made = secrets.token_hex(8)
    write_atomically(path, made + "\n")
    return made
