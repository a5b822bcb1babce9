"""JSON files that other programs have written, read so that only two kinds of error can come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MAX_BYTES = 1 << 28
"""The largest tokenizers have 35 MB, and an index of tensors a few."""


def read_text(path: Path) -> str:
    """The text of a file, without a byte order mark.

    Raises:
        OSError: it cannot be read, or is not a file (reading a pipe would wait for ever).
        ValueError: it is not UTF-8, or larger than `MAX_BYTES`.
    """
    if path.exists() and not path.is_file():
        raise OSError("it is not a file")
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES >> 20} MiB")
    return data.decode("utf-8-sig")


def read_json_object(path: Path) -> dict[str, Any]:
    """The one object that a JSON file holds; errors as for `read_text`."""
    return parse_object(read_text(path))


def parse_object(text: str, **options: Any) -> dict[str, Any]:
    """The object of a JSON text.

    Args:
        text: of it.
        options: of `json.loads`.

    Raises:
        ValueError: it is not JSON, is nested too deep, or is not an object.
    """
    try:
        values = json.loads(text, **options)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if not isinstance(values, dict):
        raise ValueError(f"it is a {type(values).__name__} and not an object")
    return values
