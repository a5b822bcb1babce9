"""`data.digests`: a digest per row of the data, so that a row that has changed can be named.

The fingerprint of a split, which checkpoints and records name, is the hash of its digests: so the
file proves itself.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from clac_jax.errors import WorkdirError
from clac_jax.files.atomic import write_atomically
from clac_jax.files.paths import explain

ROW_DIGESTS_FILE = "data.digests"
_FORMAT = 1


def write_row_digests(workdir: Path, digests: Mapping[str, np.ndarray]) -> None:
    """Writes the file.

    Args:
        workdir: the run's workdir.
        digests: split name -> (rows,) uint64.

    Raises:
        WorkdirError: it cannot be written.
    """
    facts = {"rows": _FORMAT, "splits": {split: len(each) for split, each in digests.items()}}
    body = b"".join(each.astype("<u8").tobytes() for each in digests.values())
    write_atomically(workdir / ROW_DIGESTS_FILE, json.dumps(facts).encode() + b"\n" + body)


def read_row_digests(workdir: Path) -> dict[str, np.ndarray]:
    """Split name -> (rows,) uint64; empty without the file, or if it is not one.

    Raises:
        WorkdirError: it cannot be read.
    """
    path = workdir / ROW_DIGESTS_FILE
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise WorkdirError(f"Cannot read {path}: {explain(error)}") from error
    line, _, body = content.partition(b"\n")
    try:
        facts = json.loads(line)
        sizes = {str(split): int(size) for split, size in facts["splits"].items()}
        if facts["rows"] != _FORMAT or min(sizes.values()) < 0:
            return {}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    if len(body) != 8 * sum(sizes.values()):
        return {}
    ends = np.cumsum([0, *sizes.values()])
    values = np.frombuffer(body, "<u8")
    pairs = zip(sizes, itertools.pairwise(ends), strict=True)
    return {split: values[first:last] for split, (first, last) in pairs}


def fingerprint_of(digests: np.ndarray) -> str:
    """The fingerprint of rows, 32 hexadecimal digits, from their digests in order."""
    return hashlib.sha256(digests.astype("<u8").tobytes()).hexdigest()[:32]
