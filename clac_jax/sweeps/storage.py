"""The trials of a sweep in a database, and their leases: who runs which.

A trial is run by the program that holds its lease. The lease has a number that grows with each new
holder (a fencing number) and a beat that its holder counts up. Results are written in the same
statement that checks the fencing number, so a program that wakes after its lease was taken cannot
write any. No clocks of two machines are compared: see `Observer`.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clac_jax.errors import UserError
from clac_jax.sweeps.database import (
    check_tables,
    explained,
    make_tables,
    open_engine,
    shown_url,
    without_password,
)
from clac_jax.sweeps.process_name import ProcessName
from clac_jax.sweeps.tables import JSON_COLUMNS, damaged, from_json, tables

if TYPE_CHECKING:
    import sqlalchemy as sa

LEASE_SECONDS = 60.0  # without a beat, as seen by another program, before it takes the trial


class State(enum.Enum):
    """The state of a trial."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"

    @property
    def has_ended(self) -> bool:
        """Whether the trial has a result."""
        return self not in (State.WAITING, State.RUNNING)


@dataclass(frozen=True)
class TrialRecord:
    """A trial as it is stored.

    Attributes:
        number: its number; the first trial is 0.
        params: dotted key -> value, of the keys of the space that have an effect in it.
        extra: what its maker has stored with it, plain values: the state of a sampler, its lineage.
        state: its state.
        result: what it has ended with, plain values; {} before its end.
        progress: what its holder has last reported, plain values.
        fence: number of its present or last lease; 0 before the first.
        beat: grows while the holder of the lease lives.
        holder: the process that runs it, or has run it last.
        asked: what the user has asked its holder to do: "", "prune".
    """

    number: int
    params: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)
    state: State = State.WAITING
    result: Mapping[str, Any] = field(default_factory=dict)
    progress: Mapping[str, Any] = field(default_factory=dict)
    fence: int = 0
    beat: int = 0
    holder: ProcessName | None = None
    asked: str = ""

    @property
    def value(self) -> float | None:
        """Its best value of the monitored measure; None without a validation."""
        value = (self.result or self.progress).get("value")
        return None if value is None else float(value)

    @property
    def values(self) -> list[tuple[int, int, float]]:
        """(step, epoch, monitored value) of each validation that counts."""
        rows = (self.result or self.progress).get("values", [])
        return [(int(step), int(epoch), float(value)) for step, epoch, value in rows]


@dataclass(frozen=True)
class Lease:
    """The right to run a trial.

    Attributes:
        number: number of the trial.
        fence: number of the lease.
    """

    number: int
    fence: int


class LostLeaseError(UserError):
    """Another program has taken a trial; this one may write nothing more about it."""


class Storage:
    """The trials of one sweep; for many programs; each method is one transaction."""

    def __init__(self, url: str, name: str, is_started: bool = False):
        """Connects, and makes the tables that are missing.

        Args:
            url: URL of the database: `sqlite:////FOLDER/sweep.db` or `postgresql://...`.
            name: name of the sweep; several may be in one database.
            is_started: the tables must be there; nothing is made, and a file may be read-only.

        Raises:
            StorageError: the database cannot be used.
        """
        self.name = name
        self._engine = open_engine(url, may_be_read_only=is_started)
        metadata, self._studies, self._trials = tables()
        (check_tables if is_started else make_tables)(self._engine, metadata)

    def __enter__(self) -> Storage:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._engine.dispose()

    @property
    def shown(self) -> str:
        """The URL of the database, without a password."""
        return shown_url(self._engine.url.render_as_string(hide_password=True))

    @property
    def address(self) -> str:
        """The URL of the database without a password, by which it can be opened again."""
        return without_password(self._engine.url)

    def definition(self) -> dict[str, Any] | None:
        """The sweep file as it was stored, plain values; None if the sweep has not been started."""
        import sqlalchemy as sa

        query = sa.select(self._studies.c.definition).where(self._studies.c.name == self.name)
        with explained(self._engine), self._engine.begin() as connection:
            row = connection.execute(query).first()
        what = f"the sweep {self.name!r}"
        return None if row is None else from_json(row[0], what, self._engine)

    def define(self, definition: Mapping[str, Any]) -> dict[str, Any]:
        """Stores the sweep file unless it is stored already; returns what is stored."""
        values = {"name": self.name, "definition": json.dumps(definition), "stops": 0}
        self._insert(self._studies, values)
        stored = self.definition()
        assert stored is not None
        return stored

    def redefine(self, definition: Mapping[str, Any]) -> None:
        """Replaces the stored sweep file."""
        self._update(
            self._studies, self._studies.c.name == self.name, definition=json.dumps(definition)
        )

    def names(self) -> list[str]:
        """The names of all sweeps in the database."""
        import sqlalchemy as sa

        with explained(self._engine), self._engine.begin() as connection:
            return sorted(connection.execute(sa.select(self._studies.c.name)).scalars())

    def stops(self) -> int:
        """The number of calls of `ask_all_to_stop` so far."""
        import sqlalchemy as sa

        query = sa.select(self._studies.c.stops).where(self._studies.c.name == self.name)
        with explained(self._engine), self._engine.begin() as connection:
            return int(connection.execute(query).scalar() or 0)

    def ask_all_to_stop(self) -> None:
        """Asks every program that runs trials of this sweep to save them and stop."""
        stops = self._studies.c.stops + 1
        self._update(self._studies, self._studies.c.name == self.name, stops=stops)

    def trials(self) -> list[TrialRecord]:
        """All trials by number."""
        import sqlalchemy as sa

        table = self._trials
        query = sa.select(table).where(table.c.sweep == self.name).order_by(table.c.number)
        with explained(self._engine), self._engine.begin() as connection:
            return [self._record(row) for row in connection.execute(query).mappings()]

    def trial(self, number: int) -> TrialRecord | None:
        """One trial, or None."""
        import sqlalchemy as sa

        query = sa.select(self._trials).where(self._is(number))
        with explained(self._engine), self._engine.begin() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else self._record(row)

    def add(self, trial: TrialRecord) -> bool:
        """Stores a new trial; False if there is one with its number, which stays as it is."""
        values = {name: json.dumps(getattr(trial, name)) for name in JSON_COLUMNS}
        others = {"state": trial.state.value, "holder": None, "fence": 0, "beat": 0, "asked": ""}
        key = {"sweep": self.name, "number": trial.number}
        return self._insert(self._trials, key | values | others)

    def claim(self, trial: TrialRecord, holder: ProcessName) -> Lease | None:
        """Takes a trial that waits, or whose holder is dead.

        Args:
            trial: as it was read. If anything has happened to it since, it is not taken.
            holder: this process.

        Returns:
            The lease; None if another program was faster.
        """
        columns = self._trials.c
        unchanged = (
            self._is(trial.number)
            & (columns.fence == trial.fence)
            & (columns.beat == trial.beat)
            & (columns.state == trial.state.value)
        )
        values = {
            "state": State.RUNNING.value,
            "holder": json.dumps(dataclasses.asdict(holder)),
            "fence": trial.fence + 1,
            "beat": trial.beat + 1,
        }
        if trial.state.has_ended or not self._update(self._trials, unchanged, **values):
            return None
        return Lease(trial.number, trial.fence + 1)

    def renew(self, lease: Lease, progress: Mapping[str, Any]) -> str:
        """Counts up the beat of a lease, and reports progress.

        Returns:
            What the user has asked the holder to do: "", "prune".

        Raises:
            LostLeaseError: another program has taken the trial.
        """
        values = {"beat": self._trials.c.beat + 1, "progress": json.dumps(progress)}
        self._update_leased(lease, values)
        record = self.trial(lease.number)
        return "" if record is None else record.asked

    def finish(self, lease: Lease, state: State, result: Mapping[str, Any]) -> None:
        """Writes the end of a trial.

        Raises:
            LostLeaseError: another program has taken the trial; nothing is written.
        """
        values = {"state": state.value, "result": json.dumps(result), "asked": ""}
        self._update_leased(lease, values)

    def release(self, lease: Lease, progress: Mapping[str, Any]) -> None:
        """Gives a trial back, for any program to continue it.

        Raises:
            LostLeaseError: another program has taken the trial already.
        """
        values = {"state": State.WAITING.value, "progress": json.dumps(progress)}
        self._update_leased(lease, values)

    def ask(self, number: int, what: str) -> None:
        """Asks the holder of a trial to do something; see `renew`."""
        self._update(self._trials, self._is(number), asked=what)

    def revive(self, trial: TrialRecord, extra: Mapping[str, Any]) -> bool:
        """Makes a trial that has ended wait again; False if it has changed since it was read.

        Args:
            trial: as it was read.
            extra: what replaces its `extra`.
        """
        unchanged = self._is(trial.number) & (self._trials.c.state == trial.state.value)
        values = {
            "state": State.WAITING.value,
            "extra": json.dumps(extra),
            "result": "{}",
            "progress": json.dumps(trial.result),
            "asked": "",
        }
        return trial.state.has_ended and self._update(self._trials, unchanged, **values)

    def _record(self, row: Mapping[Any, Any]) -> TrialRecord:
        engine, what = self._engine, f"trial {row['number']}"
        content = {name: from_json(row[name], what, engine) for name in JSON_COLUMNS}
        held = None if row["holder"] is None else from_json(row["holder"], what, engine)
        try:
            return TrialRecord(
                number=row["number"],
                state=State(row["state"]),
                fence=row["fence"],
                beat=row["beat"],
                holder=None if held is None else ProcessName(**held),
                asked=row["asked"],
                **content,
            )
        except (ValueError, TypeError) as error:
            raise damaged(what, engine) from error

    def _is(self, number: int) -> sa.ColumnElement[bool]:
        return (self._trials.c.sweep == self.name) & (self._trials.c.number == number)

    def _update_leased(self, lease: Lease, values: Mapping[str, Any]) -> None:
        columns = self._trials.c
        held = self._is(lease.number) & (columns.fence == lease.fence)
        if not self._update(self._trials, held & (columns.state == State.RUNNING.value), **values):
            raise LostLeaseError(
                f"Trial {lease.number} was taken by another program, because this one gave no sign "
                "of life. Nothing of it is lost, and nothing is to be done."
            )

    def _update(self, table: sa.Table, where: sa.ColumnElement[bool], **values: Any) -> bool:
        with explained(self._engine), self._engine.begin() as connection:
            return connection.execute(table.update().where(where).values(**values)).rowcount == 1

    def _insert(self, table: sa.Table, values: Mapping[str, Any]) -> bool:
        import sqlalchemy as sa

        with explained(self._engine):
            try:
                with self._engine.begin() as connection:
                    connection.execute(table.insert().values(**values))
            except sa.exc.IntegrityError:  # it exists
                return False
        return True


class Observer:
    """Notices that the holder of a lease is dead, on the clock of this machine only.

    A holder on this machine is dead once its process has ended. For any other, the beat must not
    have moved for some time, measured from when this program saw it first.
    """

    def __init__(self, lease_seconds: float | None = None):
        """Sets the time without a beat after which a holder counts as dead."""
        self._lease_seconds = LEASE_SECONDS if lease_seconds is None else lease_seconds
        self._seen: dict[int, tuple[tuple[int, int], float]] = {}

    def is_free(self, trial: TrialRecord) -> bool:
        """Whether a trial may be claimed: it waits, or its holder is dead."""
        if trial.state is not State.RUNNING:
            return trial.state is State.WAITING
        if trial.holder is None or trial.holder.is_alive() is False:
            return True
        mark, now = (trial.fence, trial.beat), elapsed()
        before = self._seen.get(trial.number)
        if before is None or before[0] != mark:
            self._seen[trial.number] = (mark, now)
            return False
        return now - before[1] > self._lease_seconds


def elapsed() -> float:
    """Seconds of a clock that also runs while the machine is suspended, where there is one."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)
