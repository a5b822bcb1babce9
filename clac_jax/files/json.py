"""Reading of JSON files from other programs, with only `OSError` and `ValueError` as errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MAX_BYTES = 1 << 28
"""Far above the largest tokenizers (35 MB) and tensor indices (a few MB)."""


def read_text(path: Path) -> str:
    """Reads a UTF-8 text file, without its byte order mark.

    Raises:
        OSError: the file cannot be read, or is not a regular file (a pipe could block).
        ValueError: the file is not UTF-8, or larger than `MAX_BYTES`.
    """
    if path.exists() and not path.is_file():
        raise OSError("it is not a file")
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES >> 20} MiB")
    return data.decode("utf-8-sig")


def read_json_object(path: Path) -> dict[str, Any]:
    """Reads a JSON file that contains an object; errors as for `read_text` and `parse_object`."""
    return parse_object(read_text(path))


def parse_object(text: str, **options: Any) -> dict[str, Any]:
    """Parses a JSON object.

    Args:
        text: the JSON text.
        options: keyword arguments of `json.loads`.

    Raises:
        ValueError: the text is not JSON, is nested too deeply, or is not an object.
    """
    try:
        values = json.loads(text, **options)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(values, dict):
        raise ValueError(f"it is a {type(values).__name__}, not an object")
    return values
