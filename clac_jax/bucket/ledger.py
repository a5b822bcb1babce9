"""`run.ledger.json`: who may write to a workdir in a bucket, and which checkpoints exist there.

One object is both, so that one compare-and-swap decides both: a commit or a removal by somebody who
no longer holds the workdir fails, however long the holder was paused before it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clac_jax.errors import WorkdirError

LEDGER = "run.ledger.json"
FORMAT = 2
READABLE = (1, FORMAT)  # without `run` and `removed`


class LedgerError(WorkdirError):
    """The ledger of a workdir in a bucket cannot be used."""


@dataclass(frozen=True)
class Ledger:
    """The content of `run.ledger.json`.

    Attributes:
        fence: number of times that the workdir has been taken so far; part of every manifest.
        nonce: a random number of the holder; "" if no process holds the workdir.
        holder: who holds it, or held it last, for messages.
        started: when it was taken, in seconds since 1970 by the holder's clock; for messages.
        changes: counts the changes, so that no two contents of the ledger are equal.
        lease_seconds: time without a change after which others may take the workdir.
        checkpoints: step -> CRC-32 of its `files.json`, for every checkpoint that exists.
        commits: step -> name of its object in `commits/`, see `clac_jax.bucket.commits`.
        rows: name in `commits/` of the copy of `metrics.jsonl`; "" if there is none.
        deleting: names in `commits/` of what no longer exists, but takes space.
        run: `identity` of the run that held the workdir last; `ckpt rm` does not change it.
        removed: step -> checksum in `files.json` of checkpoints that `ckpt rm` has removed: copies
            of them in a mirror are not uploaded again.
        damaged: step -> name in `commits/` of checkpoints that a resumed run has set aside.
        run_files: name -> [size, CRC-32] of the other files of the run, as last put.
        finished: whether the run has ended, and everything is here.
        is_new: whether this is the first ledger here, and no start has looked for checkpoints yet.
    """

    fence: int = 0
    nonce: str = ""
    holder: str = ""
    started: float = 0.0
    changes: int = 0
    lease_seconds: float = 60.0
    checkpoints: Mapping[int, int] = field(default_factory=dict)
    commits: Mapping[int, str] = field(default_factory=dict)
    rows: str = ""
    deleting: tuple[str, ...] = ()
    damaged: Mapping[int, str] = field(default_factory=dict)
    run_files: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    finished: bool = False
    is_new: bool = False
    run: str = ""
    removed: Mapping[int, int] = field(default_factory=dict)

    @property
    def is_held(self) -> bool:
        """Whether somebody holds the workdir, or died while holding it."""
        return bool(self.nonce)

    @property
    def identity(self) -> str:
        """Which holder: kept after its release, when the nonce is gone."""
        return f"{self.fence} {self.started!r} {self.holder}"

    @property
    def last_run(self) -> str:
        """`run`, or that of a ledger of format 1."""
        return self.run or self.identity

    def to_bytes(self) -> bytes:
        """The JSON text of the object."""
        values = {"format": FORMAT, **dataclasses.asdict(self)}
        return (json.dumps(values, indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, url: str) -> Ledger:
        """The inverse of `to_bytes`.

        Args:
            data: the object's bytes.
            url: its URL, for messages.

        Raises:
            LedgerError: it is not a ledger, or of a newer version of the program.
        """
        try:
            values = json.loads(data)
            number = values.pop("format")
            if number not in READABLE:
                raise LedgerError(
                    f"{url} has format {number!r:.20}, and this version of clac_jax reads "
                    f"{READABLE[0]} to {FORMAT}. Use the version that wrote it."
                )
            return cls(**{name: _READ[name](value) for name, value in values.items()})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise LedgerError(
                f"{url} is not the ledger of a run. Restore an older version of that object if the "
                "bucket keeps them. Otherwise remove it: the next start finds the checkpoints by "
                "their files.json."
            ) from error


def _integer(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(value)
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError(value)
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(value)
    return value


_READ: Mapping[str, Any] = {
    "fence": _integer,
    "nonce": _text,
    "holder": _text,
    "started": _number,
    "changes": _integer,
    "lease_seconds": _number,
    "checkpoints": lambda value: {int(k): _integer(v) for k, v in value.items()},
    "commits": lambda value: {int(k): _text(v) for k, v in value.items()},
    "rows": _text,
    "deleting": lambda value: tuple(map(_text, value)),
    "damaged": lambda value: {int(k): _text(v) for k, v in value.items()},
    "run_files": lambda value: {
        _text(k): (_integer(v[0]), _integer(v[1])) for k, v in value.items()
    },
    "finished": _flag,
    "is_new": _flag,
    "run": _text,
    "removed": lambda value: {int(k): _integer(v) for k, v in value.items()},
}
