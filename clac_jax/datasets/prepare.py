"""Builds data sets where they are missing, whole or not at all, and opens them."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from clac_jax.datasets import builder as builder_lib
from clac_jax.datasets.gpt_narratives.builder import GptNarratives
from clac_jax.datasets.materials_project_mini.builder import PARQUET, MaterialsProjectMini
from clac_jax.datasets.record import DataError, Record

NAMES = ("materials_project_mini", "gpt_narratives")


def load(
    name: str,
    data_dir: str | Path,
    split: str,
    path: str | None = None,
    on_bad_row: str = "error",
) -> Sequence[Record]:
    """Random access to one split, built first if it is not there.

    Args:
        name: one of NAMES.
        data_dir: folder that holds the prepared data sets.
        split: "train", "validation" or "test".
        path: the user's table, for "gpt_narratives".
        on_bad_row: "error" or "skip", see `GptNarratives`.

    Raises:
        DataError: the data cannot be used.
    """
    folder = prepare(name, data_dir, path, on_bad_row)
    with builder_lib.quiet():
        return builder_lib.RecordSource(
            _builder(name, folder, path, on_bad_row).as_data_source(split=split)
        )


def prepare(
    name: str, data_dir: str | Path, path: str | None = None, on_bad_row: str = "error"
) -> Path:
    """Builds a data set unless it is there already; arguments as for `load`.

    The folder is named for the content of what it was made from, is written under a temporary name
    and renamed when it is whole: a build that was cut off or runs twice at once does no harm.

    Returns:
        The folder of the prepared data set.
    """
    if name not in NAMES:
        raise DataError(f"There is no data set {name!r}. Use one of {', '.join(NAMES)}.")
    if name == "gpt_narratives" and not path:
        raise DataError(
            "The data set gpt_narratives needs a file. Give --config.dataset.path=FILE.parquet."
        )
    source = PARQUET if name == "materials_project_mini" else Path(str(path)).expanduser()
    if not source.is_file():
        raise DataError(f"There is no data file {source}. Check dataset.path.")
    key = _fingerprint(source, on_bad_row if name == "gpt_narratives" else "")
    folder = Path(data_dir).expanduser() / name / key
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=folder.parent))
    except OSError as error:
        raise DataError(
            f"Cannot write to {folder.parent}: {error.strerror}. Choose another dataset.data_dir."
        ) from error
    try:
        with builder_lib.quiet():
            builder = _builder(name, temporary, path, on_bad_row)
            builder.download_and_prepare()
        try:
            os.rename(temporary, folder)
        except OSError:
            if not folder.is_dir():  # another process was first: its folder holds the same
                raise
    except OSError as error:
        raise DataError(
            f"Cannot write the data set to {folder}: {error.strerror}. Free some space or choose "
            "another dataset.data_dir."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if builder.notice:
        print(f"{builder.notice} in {folder}", flush=True)
    return folder


def _builder(
    name: str, folder: Path, path: str | None, on_bad_row: str
) -> builder_lib.RecordBuilder:
    if name == "materials_project_mini":
        return MaterialsProjectMini(data_dir=folder)
    return GptNarratives(data_dir=folder, path=str(path), on_bad_row=on_bad_row)


@functools.cache
def _fingerprint(source: Path, options: str) -> str:
    """A name that changes with the content of the file and the options."""
    digest = hashlib.sha256(options.encode())
    with open(source, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()[:12]
