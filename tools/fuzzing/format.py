"""What a format is to the fuzzer, and the ways of spoiling a file that formats share."""

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
    """A command ended with the exit code of a user's error, and this on its error output."""


@dataclass(frozen=True)
class Format:
    """One of them.

    Attributes:
        name: of the format.
        make: writes sound examples into a folder, each a folder of its own.
        spoil: changes the files of a copy of one of them; whether their checksums still have to
            notice any change (bytes were changed behind them), or fit (all was written anew).
        read: the content of such a folder, by the project's own reader.
        memory: bytes of address space that a reader may take beyond what is taken at the start.
    """

    name: str
    make: Callable[[Path], None]
    spoil: Callable[[Path, random.Random], bool]
    read: Callable[[Path], Any]
    memory: int = 1 << 30


def spoil_one(
    name: str,
    *ways: Callable[[bytes, random.Random], bytes],
    checked: bool = False,
    as_file: bool = True,
) -> Any:
    """Spoils a file of that name (a pattern) as bytes, in these ways, or (`as_file`) as a file."""

    def spoil(folder: Path, rng: random.Random) -> bool:
        path = rng.choice(sorted(path for path in folder.glob(name) if path.is_file()))
        if as_file and rng.random() < 0.05:
            mutations.spoil_file(path, rng)
            return checked
        if ways and rng.random() < 0.6:
            path.write_bytes(rng.choice(ways)(path.read_bytes(), rng))
            return False
        path.write_bytes(mutations.spoil_bytes(path.read_bytes(), (path.read_bytes(),), rng))
        return checked

    return spoil


def as_json(data: bytes, rng: random.Random) -> bytes:
    """Another JSON value of the kind."""
    return mutations.json_text(mutations.spoil_json(json.loads(data), rng), rng)


def as_json_lines(data: bytes, rng: random.Random) -> bytes:
    """One line with another JSON value, repeated, or in another place."""
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
