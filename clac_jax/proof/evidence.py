"""The files of a run, read as far as possible: tampering does not end the reading."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from etils import epath

from clac_jax.chain.chain_file import METRICS_FILE
from clac_jax.chain.record import CHAIN_FILE, CHECKPOINT, Entry, digest_of, entry_of
from clac_jax.checkpoint.files import DamagedCheckpointError, read_json
from clac_jax.checkpoint.layout import CHECKPOINTS, RUN_FILE, CheckpointInfo, read_all
from clac_jax.config.schema import differences
from clac_jax.errors import WorkdirError, one_line
from clac_jax.journal.journal_file import (
    START,
    STARTS_FILE,
    STEPS_FILE,
    read_events,
    read_steps,
)
from clac_jax.journal.record import DTYPE
from clac_jax.reporting.metrics_file import read_rows

CONFIG_FILE = "config.json"
T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """Something in a run that is not as it was recorded.

    Attributes:
        where: the file, and the row, record, key or array in it.
        what: what is wrong.
    """

    where: str
    what: str

    @property
    def words(self) -> str:
        """Both in words."""
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class Evidence:
    """The files of a run.

    Attributes:
        folder: its workdir, or the copy of one in a bucket.
        entries: the lines of its chain that are records.
        rows: its metrics.
        steps: the records of its journal, dtype `DTYPE`.
        events: its starts and other events.
        config: the nested config in config.json; None if it cannot be read.
        checkpoints: step -> intact checkpoint.
        damaged: step -> damage of the others.
        described: step -> the description of a checkpoint as it is on disk.
        findings: what could not be read.
        unread: names of files of which nothing is known because a part could not be read.
    """

    folder: Path
    entries: Sequence[Entry]
    rows: Sequence[Mapping[str, Any]]
    steps: np.ndarray
    events: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any] | None
    checkpoints: Mapping[int, CheckpointInfo]
    damaged: Mapping[int, DamagedCheckpointError]
    described: Mapping[int, Mapping[str, Any]]
    findings: list[Finding] = field(default_factory=list)
    unread: set[str] = field(default_factory=set)

    @property
    def records(self) -> list[Entry]:
        """The records of checkpoints."""
        return [entry for entry in self.entries if entry.kind == CHECKPOINT]

    @property
    def starts(self) -> list[Mapping[str, Any]]:
        """The starts of the program."""
        return [event for event in self.events if event["event"] == START]

    def configs(self) -> dict[str, Mapping[str, Any]]:
        """Digest -> each config that any file of the run holds."""
        found = [self.config, *(event.get("config") for event in self.starts)]
        found += [values.get("config") for values in self.described.values()]
        return {digest_of(each): each for each in found if isinstance(each, dict)}

    def changed_keys(self, config: Any, digest: str) -> str:
        """A phrase on the keys in which a config differs from the one with a digest."""
        recorded = self.configs().get(digest)
        if recorded is None or not isinstance(config, dict):
            return "differs from the config in the chain"
        changes = differences(dict(recorded), dict(config))
        words = [f"{key} is {new!r:.40} and was {old!r:.40}" for key, old, new in changes]
        return ", ".join(words[:5]) + (f" and {len(words) - 5} more" if len(words) > 5 else "")


def gather(folder: Path) -> Evidence:
    """Reads the files of a run, which may be running: what was written last is read first.

    Raises:
        UserError: a file cannot be read because of permissions or the file system.
    """
    findings: list[Finding] = []
    unread: set[str] = set()
    intact, damaged = read_all(epath.Path(folder) / CHECKPOINTS)
    described = _described(intact)
    entries = _entries(folder / CHAIN_FILE, findings)

    def read(name: str, reader: Callable[[Path], T], otherwise: T) -> T:
        try:
            return reader(folder / name)
        except WorkdirError as error:
            findings.append(Finding(name, one_line(error, 400)))
            unread.add(name)
            return otherwise

    rows: list[dict[str, Any]] = read(METRICS_FILE, read_rows, [])
    steps = read(STEPS_FILE, read_steps, np.zeros(0, DTYPE))
    events: list[dict[str, Any]] = read(STARTS_FILE, read_events, [])
    return Evidence(
        folder=folder,
        entries=entries,
        rows=rows,
        steps=steps,
        events=events,
        config=_config(folder / CONFIG_FILE, findings),
        checkpoints={step: info for step, info in intact.items() if step in described},
        damaged=damaged,
        described=described,
        findings=findings,
        unread=unread,
    )


def _described(
    checkpoints: Mapping[int, CheckpointInfo],
) -> dict[int, Mapping[str, Any]]:
    """The descriptions as they are on disk, of those checkpoints that still exist."""
    found = {}
    for step, info in checkpoints.items():
        try:
            found[step] = read_json(info.folder / RUN_FILE)
        except DamagedCheckpointError:
            if info.folder.exists():
                raise
    return found


def _entries(path: Path, findings: list[Finding]) -> list[Entry]:
    entries = []
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            entries.append(entry_of(json.loads(line), number))
        except (ValueError, RecursionError) as error:
            what = str(error) if type(error) is ValueError else "is not a record"
            findings.append(Finding(f"{CHAIN_FILE}, line {number}", what))
    return entries


def _config(path: Path, findings: list[Finding]) -> Mapping[str, Any] | None:
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        findings.append(Finding(CONFIG_FILE, "is missing"))
        return None
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        findings.append(Finding(CONFIG_FILE, "is not a config"))
        return None
    return values
