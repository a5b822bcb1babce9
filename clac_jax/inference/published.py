"""The folder of a published model: which files it has, and how it is verified and read."""

from __future__ import annotations

import functools
import hashlib
import re
from pathlib import Path, PurePosixPath

from clac_jax.checkpoint.export import CONFIG_FILE, MODEL_FILE, read_export
from clac_jax.config.schema import to_plain
from clac_jax.errors import one_line
from clac_jax.files.json import read_text
from clac_jax.files.paths import explain
from clac_jax.inference.errors import PublishedError
from clac_jax.inference.source import Source, chosen, frozen

TEXT_FOLDER = "text_encoder"
"""Holds the tokenizer's files, and the config.json of a pretrained text encoder."""

EVALUATION, CARD = "eval.json", "README.md"
CHECKSUMS = "SHA256SUMS"
"""One line per file, as `sha256sum` writes it; not of the card, which people edit."""

_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def open_published(folder: Path, name: str) -> Source:
    """Reads a published folder, after comparing every file with its checksum.

    A model exported by an earlier version has no checksums and no files of its text encoder.

    Args:
        folder: the folder.
        name: what the user called it.

    Raises:
        PublishedError: a file is missing or differs from what was published; the message names it.
        ExportError: the model or its config cannot be read.
    """
    verify(folder)
    config, about, arrays = read_export(folder)
    text_folder = folder / TEXT_FOLDER
    return Source(
        name,
        frozen(to_plain(config)),
        int(about["progress"]["step"]),
        {path: array.shape for path, array in arrays.items()},
        functools.partial(chosen, arrays),
        text_folder if text_folder.is_dir() else None,
    )


def is_complete(folder: Path) -> bool:
    """Whether all files are there that the folder should have; their content is not read.

    Raises:
        PublishedError: the list of files cannot be read.
    """
    needed = {MODEL_FILE, CONFIG_FILE, *_listed(folder)}
    return all((folder / name).is_file() for name in needed)


def verify(folder: Path) -> None:
    """Compares every file with its checksum; does nothing if there are none.

    Raises:
        PublishedError: a file is missing or differs; the message names it.
    """
    for name, expected in _listed(folder).items():
        path = folder / name
        if not path.is_file():
            raise PublishedError(
                f"{path} is missing, and {CHECKSUMS} lists it. Publish or download it again."
            )
        try:
            found = sha256_of(path)
        except OSError as error:
            raise PublishedError(f"Cannot read {path}: {explain(error)}") from error
        if found != expected:
            raise PublishedError(
                f"{path} is not the file that was published: its SHA-256 differs from the one in "
                f"{CHECKSUMS}. Publish or download it again; to use a file that you have changed "
                f"yourself, delete its line in {CHECKSUMS}."
            )


def write_checksums(folder: Path) -> None:
    """Writes the list of all files in a folder, except the card."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    lines = [f"{sha256_of(path)}  {name}\n" for name, path in names.items() if name != CARD]
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _listed(folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of each listed file; empty without a list.

    Raises:
        PublishedError: the list cannot be read, or names a file outside the folder.
    """
    path = folder / CHECKSUMS
    if not path.exists():
        return {}
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as error:
        raise PublishedError(
            f"{path} cannot be read ({one_line(error)}). Publish or download it again."
        ) from error
    files = {}
    for number, line in enumerate(lines, 1):
        found = _LINE.fullmatch(line)
        parts = PurePosixPath(found[2]).parts if found else ()
        if not found or "\0" in line or not parts or parts[0] == "/" or ".." in parts:
            raise PublishedError(
                f"Line {number} of {path} is not the SHA-256 and the name of a file in this "
                "folder. Publish or download it again."
            )
        files[found[2]] = found[1]
    return files
