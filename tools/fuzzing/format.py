"""The description of a format for the fuzzer, and corruptions shared by formats."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clac_jax.errors import UserError
from tools.fuzzing import mutations

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "tests" / "data" / "lightning"


class RefusedError(UserError):
    """A command exited with the code for user errors; the message is its error output."""


@dataclass(frozen=True)
class Format:
    """A file format to test.

    Attributes:
        name: name of the format.
        make: writes valid examples to a folder, each in a subfolder.
        corrupt: corrupts a copy of an example in place; returns whether its checksums must reveal
            the change (False if they were updated, or if the format has none).
        read: reads an example with the reader of the project and returns its content.
        memory: address space that a reader may use in addition to that at the start, bytes.
    """

    name: str
    make: Callable[[Path], None]
    corrupt: Callable[[Path, random.Random], bool]
    read: Callable[[Path], Any]
    memory: int = 1 << 30


def corrupt_one(
    name: str,
    *ways: Callable[[bytes, random.Random], bytes],
    checked: bool = False,
    as_file: bool = True,
) -> Any:
    """Corrupts a random file that matches the pattern `name`.

    Args:
        name: glob pattern.
        ways: corruptions that need no checksum, as they keep the format valid.
        checked: whether checksums must reveal changed bytes.
        as_file: whether to sometimes replace the file by a folder, a pipe or a link.
    """

    def corrupt(folder: Path, rng: random.Random) -> bool:
        path = rng.choice(sorted(path for path in folder.glob(name) if path.is_file()))
        if as_file and rng.random() < 0.05:
            mutations.corrupt_file(path, rng)
            return checked
        if ways and rng.random() < 0.6:
            path.write_bytes(rng.choice(ways)(path.read_bytes(), rng))
            return False
        path.write_bytes(mutations.corrupt_bytes(path.read_bytes(), (path.read_bytes(),), rng))
        return checked

    return corrupt


def as_json(data: bytes, rng: random.Random) -> bytes:
    """A mutated copy of a JSON text."""
    return mutations.json_text(mutations.corrupt_json(json.loads(data), rng), rng)


def as_json_lines(data: bytes, rng: random.Random) -> bytes:
    """A copy of JSON Lines with a line mutated, repeated or moved."""
    lines = data.splitlines()
    place = rng.randrange(len(lines))
    fault = rng.random()
    if fault < 0.8:
        lines[place] = as_json(lines[place], rng)
    elif fault < 0.9:
        lines.insert(rng.randrange(len(lines)), lines[place])
    else:
        rng.shuffle(lines)
    return b"\n".join(lines) + b"\n"
