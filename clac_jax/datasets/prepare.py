"""Builds data sets where they are missing, whole or not at all, and opens them."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clac_jax.datasets import builder as builder_lib
from clac_jax.datasets import cif_folder, crystal_table, table
from clac_jax.datasets.gpt_narratives import GptNarratives
from clac_jax.datasets.jarvis_dft_3d import JarvisDft3d
from clac_jax.datasets.materials_project_mini.builder import PARQUET, MaterialsProjectMini
from clac_jax.datasets.record import DataError, Record
from clac_jax.datasets.split import SPLITS
from clac_jax.paths import local_path

NAMES = ("materials_project_mini", "gpt_narratives", "jarvis_dft_3d")
ON_BAD_ROW = ("error", "skip")
SPLIT_BY = ("row", "formula")
REFUSED_ROWS = "refused_rows.jsonl"
_TABLES: dict[str, type[table.TableBuilder]] = {
    "gpt_narratives": GptNarratives,
    "jarvis_dft_3d": JarvisDft3d,
}
# A build takes minutes; an unfinished one of this age was killed.
ABANDONED_SECONDS = 24 * 3600


def load(
    name: str,
    data_dir: str | Path,
    split: str,
    path: str | Path | None = None,
    on_bad_row: str = "error",
    split_by: str = "row",
    label: str = "",
) -> Sequence[Record]:
    """Random access to one split, built first if it is not there.

    Args:
        name: one of NAMES.
        data_dir: folder that holds the prepared data sets.
        split: "train", "validation" or "test".
        path: the user's table or folder of CIF files, for the other names than the first.
        on_bad_row: "error" or "skip", see `TableBuilder`.
        split_by: "row" or "formula", see `TableBuilder`.
        label: a property that the examples must have, for "jarvis_dft_3d".

    Raises:
        DataError: the data cannot be used.
    """
    data_set = _DataSet(name, path, on_bad_row, split_by, label)
    folder, _ = _prepare(data_set, local_path(data_dir, "dataset.data_dir"))
    return builder_lib.open_split(data_set.builder, folder, split)


def prepare(
    name: str,
    data_dir: str | Path,
    path: str | Path | None = None,
    on_bad_row: str = "error",
    split_by: str = "row",
    label: str = "",
) -> tuple[Path, bool]:
    """Builds a data set unless it is there already; arguments as for `load`.

    The folder is named for the content of what it was made from, is written under a temporary name
    and renamed when it is whole: a build that was cut off or runs twice at once does no harm.

    Returns:
        The folder of the prepared data set, and whether it was built now.

    Raises:
        DataError: the data cannot be used, or the folder not be written.
    """
    data_set = _DataSet(name, path, on_bad_row, split_by, label)
    return _prepare(data_set, local_path(data_dir, "dataset.data_dir"))


@dataclass(frozen=True)
class _DataSet:
    """What to build; arguments as for `load`."""

    name: str
    path: str | Path | None
    on_bad_row: str
    split_by: str
    label: str

    def __post_init__(self) -> None:
        choices = (
            ("data set", self.name, NAMES),
            ("on_bad_row", self.on_bad_row, ON_BAD_ROW),
            ("split_by", self.split_by, SPLIT_BY),
        )
        for what, value, allowed in choices:
            if value not in allowed:
                raise DataError(f"There is no {what} {value!r}. Use one of {', '.join(allowed)}.")
        if self.name in _TABLES and not self.path:
            raise DataError(
                f"The data set {self.name} needs a file. Give --config.dataset.path=FILE."
            )
        for file in self.files().values():
            if not file.is_file():
                raise DataError(f"There is no data file {file}. Check dataset.path.")

    def files(self) -> dict[str, Path]:
        """What it is made from."""
        if self.name == "materials_project_mini":
            return {"all": PARQUET}
        path = local_path(str(self.path), "dataset.path")
        if path.is_dir():
            return {file.name: file for file in cif_folder.files(path)}
        return table.split_files(path)

    def key(self) -> str:
        """A name that changes with the content of the files, the options and the format."""
        options: tuple[str, ...] = ()
        if self.name in _TABLES:
            options = self.on_bad_row, self.split_by, *([self._label()] if self._label() else [])
        digest = hashlib.sha256(repr((builder_lib.FORMAT, *options)).encode())
        for role, file in self.files().items():
            stat = file.stat()
            digest.update(f"{role} {_content_hash(file, stat.st_size, stat.st_mtime_ns)}".encode())
        return digest.hexdigest()[:12]

    def builder(self, folder: Path) -> builder_lib.RecordBuilder:
        """The builder that writes it to and reads it from a folder."""
        if self.name == "materials_project_mini":
            return MaterialsProjectMini(data_dir=folder)
        return _TABLES[self.name](
            data_dir=folder,
            path=local_path(str(self.path), "dataset.path"),
            on_bad_row=self.on_bad_row,
            split_by=self.split_by,
            label=self._label(),
        )

    def _label(self) -> str:
        # The others keep their rows without it, which serve other tasks.
        return self.label if self.name == "jarvis_dft_3d" else ""


def _prepare(data_set: _DataSet, data_dir: Path) -> tuple[Path, bool]:
    folder = data_dir / data_set.name / data_set.key()
    is_missing = not folder.is_dir()
    if is_missing:
        try:
            _build(data_set, folder)
        except OSError as error:
            raise DataError(
                f"Cannot write the data set to {folder}: {error.strerror or error}. Free some "
                "space or choose another dataset.data_dir."
            ) from error
    _tell_skipped(folder)
    return folder, is_missing


def _build(data_set: _DataSet, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder.parent)
    temporary = folder.with_name(f".building-{folder.name}-{uuid.uuid4().hex[:8]}")
    temporary.mkdir()
    try:
        with builder_lib.quiet():
            data_set.builder(temporary).download_and_prepare()
            written = data_set.builder(temporary)
            sources = {
                split: builder_lib.RecordSource(written.as_data_source(split=split))
                for split in SPLITS
            }
        shutil.rmtree(temporary / "downloads", ignore_errors=True)  # TFDS makes it, empty
        crystal_table.write(temporary, sources)
        _flush(temporary)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process was first: its folder holds the same
                raise
    except table.BadRowsError as error:
        if len(error.rows) <= table.SHOWN_BAD_ROWS:
            raise
        listing = folder.with_name(REFUSED_ROWS)
        table.write_bad_rows(listing, error.rows)
        raise DataError(f"{error}\nAll of them are listed in {listing}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    """Frees the space of builds that were killed; a running one is younger."""
    for folder in parent.glob(".building-*"):
        try:
            if time.time() - folder.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:  # another process removed or renamed it
            continue


def _flush(folder: Path) -> None:
    """Forces files to the disk, so that a crash after the rename leaves no empty ones."""
    for file in folder.rglob("*"):
        if file.is_file():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())


@functools.cache  # once a process, though each split is opened on its own
def _tell_skipped(folder: Path) -> None:
    for notice in (table.skipped_notice(folder), table.unlabelled_notice(folder)):
        if notice:
            print(notice, flush=True)


@functools.cache  # by size and time too, for a file that is replaced meanwhile
def _content_hash(file: Path, size: int, mtime_ns: int) -> str:
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
