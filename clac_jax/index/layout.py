"""The folder of an index: names of its files, its table of contents `index.json`, and errors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clac_jax.errors import UserError, error_reason
from clac_jax.files.json import parse_object, read_text

FORMAT = 1
"""Number of the format that is written, and the highest that is read."""

CONTENTS = "index.json"
ITEMS = "items.parquet"
REFUSED = "refused.jsonl"
ANN = "ann.json"
PARTS = "parts"
"""Folder of finished parts while the index is being made; removed when it is complete."""

MAP = "map"
"""Folder of the map of an index, if it is made inside of it."""
MAP_HEAD = "data/head.js"
"""The file of a map by which it is recognized, wherever the map is."""
HEAD_START = "ClacMap.head("
"""The beginning of that file."""

ROW_GROUP = 4096
"""Rows per row group of the items, the unit in which a few rows are read."""

_READ_BYTES = 1 << 20


class IndexFolderError(UserError):
    """A folder is not an index, or cannot be made into one."""


class BuildError(UserError, ValueError):
    """An index cannot be made from this model or these crystals."""


class DamagedIndexError(IndexFolderError):
    """A file of an index is missing or differs from what was written."""


class IndexMismatchError(IndexFolderError):
    """An index belongs to a different model, to other data, or was made with other options."""


def vector_file(number: int) -> str:
    """Name of the file with the crystal vectors of a shard."""
    return f"vectors-{number:05d}.npy"


def text_file(number: int) -> str:
    """Name of the file with the text vectors of a shard."""
    return f"texts-{number:05d}.npy"


def numbered(name: str, number: int) -> str:
    """Name of a file by the number of the addition it belongs to; 0 is that of `clac-jax embed`."""
    path = Path(name)
    return name if number == 0 else f"{path.stem}-{number:05d}{path.suffix}"


def sealed(values: Mapping[str, Any]) -> str:
    """A JSON object as text, with its own SHA-256 under the key "checksum"."""
    return _text({**values, "checksum": checksum_of(values)})


def read_sealed(path: Path, what: str) -> dict[str, Any]:
    """Reads a file written from `sealed`.

    Args:
        path: path of the file.
        what: what the folder is to be, for messages, such as "an index".

    Raises:
        IndexFolderError: there is no such file, or it has a later format.
        DamagedIndexError: it differs from what was written.
    """
    folder = path.parent
    try:
        text = read_text(path)
        values = parse_object(text)
    except FileNotFoundError as error:
        hint = "no such folder" if not folder.exists() else f"it has no {path.name}"
        raise IndexFolderError(
            f"{folder} is not {what}: {hint}. Give a folder made by `clac-jax embed`."
        ) from error
    except (OSError, ValueError) as error:
        raise DamagedIndexError(
            f"{path} cannot be read: {error_reason(error)}. Restore it, or make the index again."
        ) from error
    number = values.get("format")
    if isinstance(number, int) and number > FORMAT:
        raise IndexFolderError(
            f"{path} has the format {number}, and this version of clac_jax reads up to {FORMAT}. "
            "Update clac_jax, or make the index again with this version."
        )
    if values.pop("checksum", None) != checksum_of(values) or text != sealed(values):
        raise DamagedIndexError(
            f"{path} was changed after it was written: its checksum does not match. Restore it, "
            "or make the index again."
        )
    return values


def file_facts(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, as recorded in `index.json`.

    Raises:
        OSError: the file cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
            size += len(block)
    return {"bytes": size, "sha256": digest.hexdigest()}


def is_plain_name(name: Any) -> bool:
    """Whether a name read from a file is that of a file in the same folder."""
    return isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name


def is_head_of_map(content: bytes) -> bool:
    """Whether the content of a file `MAP_HEAD`, or its beginning, is that of a map."""
    return content.startswith(HEAD_START.encode())


def is_map(folder: Path) -> bool:
    """Whether a folder has a map made by `clac-jax map`, complete or not."""
    try:
        with open(folder / MAP_HEAD, "rb") as file:
            return is_head_of_map(file.read(len(HEAD_START)))
    except OSError:
        return False


def checksum_of(values: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object without its own checksum."""
    return hashlib.sha256(_text(values).encode()).hexdigest()


def _text(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=1, sort_keys=True) + "\n"
