"""The parts of a checkpoint that the processes of a run save, each its own shards.

Process k writes `checkpoints/<step>.parts-<save>/ocdbt.process_<k>/`, then the note `<k>.json`
next to it: sizes and checksums of the files, checksums and norms of the shards. The first process
waits for all notes, merges the parts into a checkpoint and commits it. There are no barriers: a
process trains on as soon as its note is written.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from clac_jax.chain.record import array_hash, joined_hash
from clac_jax.checkpoint.arrays import crc32_of, norm_of
from clac_jax.checkpoint.database import Pieces, write_database
from clac_jax.checkpoint.division import Divided
from clac_jax.checkpoint.files import describe_files, sync_folders
from clac_jax.checkpoint.layout import PARTS, Leaf
from clac_jax.checkpoint.removal import remove
from clac_jax.errors import UserError
from clac_jax.files import protocol
from clac_jax.files.atomic import sync, write_atomically
from clac_jax.files.links import is_impossible

_THREADS = max(2, min(8, os.cpu_count() or 2))
POLL_SECONDS, MAX_POLL_SECONDS = 0.005, 0.5
GRACE_SECONDS = 10.0  # for the parts of the other processes, after one is lost

Files = dict[str, list[int]]
"""Path in a folder -> [size, CRC-32] of the file."""


class Exchange(Protocol):
    """The way of the parts from their processes to the first one.

    Folders are those of `parts_folder`, in each process under its own `checkpoints/`.
    """

    def publish(self, folder: Path, index: int, note: Mapping[str, Any]) -> None:
        """Makes the note of a process, and the part that it describes, known to the first one.

        Raises:
            OSError, UserError: that fails.
        """

    def read(self, folder: Path, index: int) -> Mapping[str, Any] | None:
        """The note of a process; None as long as there is none.

        Raises:
            OSError, UserError: it cannot be read.
        """

    def fetch(self, folder: Path, index: int, part: Part) -> Collection[str]:
        """Fetches those files of a part that the first process needs; returns their names.

        Raises:
            OSError, UserError: that fails.
        """

    def remote(self, step: int) -> str:
        """URL of the folder of the checkpoint that has the other files; "" if there are none."""

    def clear(self, folder: Path, indices: Collection[int]) -> None:
        """Removes the parts of these processes, once they are merged or of no use.

        Raises:
            OSError, UserError: that fails.
        """

    def checkpoint(self, directory: Path, step: int) -> Path:
        """The folder in which this process reads a checkpoint of the run.

        Raises:
            UserError: it cannot be read.
        """


class LostPartError(UserError):
    """The part of another process will never be complete."""


@dataclass(frozen=True)
class Part:
    """The content of the note of one process.

    Attributes:
        files: the files of its database.
        shards: slash path -> number of a shard -> (CRC-32, squared l2 norm, SHA-256).
    """

    files: Files
    shards: Mapping[str, Mapping[int, tuple[int, float, str]]]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        shards = {
            path: [[number, *values] for number, values in numbered.items()]
            for path, numbered in self.shards.items()
        }
        return {"files": self.files, "shards": shards}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Part:
        """The inverse of `to_json`."""
        return cls(
            files={str(name): list(pair) for name, pair in values["files"].items()},
            shards={
                path: {number: (crc, square, hashed) for number, crc, square, hashed in numbered}
                for path, numbered in values["shards"].items()
            },
        )


def parts_folder(directory: Path, step: int, save: str) -> Path:
    """The folder that receives the parts of one save.

    Args:
        directory: the run's `checkpoints/`.
        step: step that is saved.
        save: name of this save, unique among all starts of the run.
    """
    return directory / f"{step}{PARTS}{save}"


def database_of(folder: Path, index: int) -> Path:
    """The database of one process in the folder of a save, or in `state/`."""
    return folder / f"ocdbt.process_{index}"


def write_part(
    folder: Path, index: int, division: Mapping[str, Divided], pieces: Mapping[str, Pieces]
) -> Part:
    """Writes this process's part to the disk.

    Args:
        folder: the result of `parts_folder`; its parent must exist.
        index: index of this process.
        division: slash path -> the array and its shards.
        pieces: slash path -> the shards that this process owns.

    Raises:
        OSError, ValueError: it cannot be written; TensorStore raises either.
    """
    folder.mkdir(exist_ok=True)  # not its parents: the run may have been moved
    database = database_of(folder, index)
    remove(database)  # of an attempt that failed
    protocol.reached("part started")
    owned = {path: numbered for path, numbered in pieces.items() if numbered}
    with ThreadPoolExecutor(_THREADS) as pool:
        described = {
            path: {number: pool.submit(_describe, piece) for number, piece in numbered.items()}
            for path, numbered in owned.items()
        }
        if owned:
            write_database(database, division, owned)
    protocol.reached("part written")
    part = Part(
        files=describe_files(database) if owned else {},
        shards={
            path: {number: future.result() for number, future in numbered.items()}
            for path, numbered in described.items()
        },
    )
    sync_folders(folder)
    protocol.reached("part described")
    return part


def wait_for_part(
    read: Callable[[], Mapping[str, Any] | None], index: int, is_lost: threading.Event
) -> Part:
    """Waits until a process has noted its part.

    Args:
        read: reads the note, see `Exchange.read`.
        index: index of the process.
        is_lost: set when a process of the run is lost.

    Raises:
        LostPartError: the process has failed, or is lost.
        OSError, UserError: the note cannot be read.
    """
    pause, deadline = POLL_SECONDS, float("inf")
    while True:
        if (values := read()) is not None:
            if "failure" in values:
                raise LostPartError(f"Process {index} cannot save its part: {values['failure']}")
            return Part.from_json(values)
        if is_lost.is_set():
            deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        if time.monotonic() > deadline:
            raise LostPartError(f"Process {index} has not saved its part.")
        time.sleep(pause)
        pause = min(pause * 1.5, MAX_POLL_SECONDS)


def add_database(source: Path, target: Path, files: Files) -> None:
    """Adds the database of one process to the folder `state/` of a checkpoint being written.

    The part keeps its files, in case the checkpoint must be written again.

    Args:
        source: the database of the process.
        target: its place in `state/`.
        files: those to add.

    Raises:
        OSError: a file is missing, has another size or cannot be linked or copied.
    """
    for name, (size, _) in files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source / name, target / name)
        except OSError as error:
            if not is_impossible(error) and error.errno != errno.EMLINK:
                raise
            shutil.copyfile(source / name, target / name)  # a file system without hard links
            sync(target / name)
        if (found := (target / name).stat().st_size) != size:
            raise OSError(errno.EIO, f"has {found} bytes instead of {size}", str(source / name))


class SharedFolder:
    """An `Exchange` by files in a workdir that all processes share."""

    def publish(self, folder: Path, index: int, note: Mapping[str, Any]) -> None:
        """Writes the note next to the part."""
        write_atomically(self._note(folder, index), json.dumps(note))

    def read(self, folder: Path, index: int) -> Mapping[str, Any] | None:
        """See `Exchange.read`."""
        path = self._note(folder, index)
        with contextlib.suppress(OSError):
            # A network file system may remember for a minute that a file does not exist; a change
            # of the folder makes it look again.
            os.utime(folder)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise OSError(errno.EIO, f"cannot be read: {error}", str(path)) from error
        return dict(values)

    def fetch(self, folder: Path, index: int, part: Part) -> Collection[str]:
        """All files: they exist."""
        return part.files

    def remote(self, step: int) -> str:
        """Always ""."""
        return ""

    def clear(self, folder: Path, indices: Collection[int]) -> None:
        """Removes the folder with all parts, whose files the checkpoint shares."""
        del indices
        remove(folder)

    def checkpoint(self, directory: Path, step: int) -> Path:
        """The checkpoint's own folder."""
        return directory / str(step)

    @staticmethod
    def _note(folder: Path, index: int) -> Path:
        return folder / f"{index}.json"


def combine(division: Mapping[str, Divided], parts: Mapping[int, Part]) -> dict[str, Leaf]:
    """The descriptions of all arrays, from what each process has noted about its shards.

    Raises:
        LostPartError: a process has not saved one of its shards.
    """
    leaves = {}
    for path, divided in division.items():
        found = []
        for number, owner in enumerate(divided.owners):
            shard = parts[owner].shards.get(path, {}).get(number) if owner in parts else None
            if shard is None:
                raise LostPartError(f"Process {owner} has not saved shard {number} of {path}.")
            found.append(shard)
        checksums, squares, hashes = map(list, zip(*found, strict=True))
        leaves[path] = leaf_of(divided, checksums, squares, hashes)
    return leaves


def leaf_of(
    divided: Divided, checksums: list[int], squares: list[float], hashes: list[str]
) -> Leaf:
    """The description of an array, from the checksum, squared norm and hash of each shard."""
    norm = float(np.sqrt(np.sum(squares)))
    shape, dtype, hashed = divided.shape, str(divided.dtype), joined_hash(hashes)
    if len(checksums) == 1:
        return Leaf(shape, dtype, checksums[0], norm, owners=divided.owners, sha256=hashed)
    joined, shard_shape = crc32_of(np.asarray(checksums, "<u4")), divided.grid.shard_shape
    return Leaf(shape, dtype, joined, norm, shard_shape, tuple(checksums), divided.owners, hashed)


def _describe(piece: np.ndarray) -> tuple[int, float, str]:
    return crc32_of(piece), norm_of(piece) ** 2, array_hash(piece)
