"""The sweep of a workdir: its name, its database and its definition, the same for every program."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clac_jax.errors import WorkdirError, one_line
from clac_jax.files.atomic import write_atomically
from clac_jax.files.paths import explain
from clac_jax.sweeps.database import (
    DATABASE_FILE,
    STORAGE_VARIABLE,
    StorageError,
    storage_url,
)
from clac_jax.sweeps.definition import FREE_TO_CHANGE, Definition, SweepFileError
from clac_jax.sweeps.storage import Storage, TrialRecord

SWEEP_FILE = "sweep.json"
TRIALS = "trials"
FOLDER = "folder"
"""Name under which a trial that is not in `TRIALS` keeps the path of its folder, in its `extra`."""
LINEAGE = "lineage"
"""Name under which a trial of a population keeps its plan, in its `extra`."""


def trial_folder(workdir: Path, number: int) -> Path:
    """The folder of a trial."""
    return workdir / TRIALS / f"{number:04}"


def folder_of(workdir: Path, trial: TrialRecord) -> Path:
    """The folder of a trial, which may be one generation of a member of a population."""
    return workdir / str(trial.extra.get(FOLDER) or trial_folder(Path(), trial.number))


@dataclass(frozen=True)
class Place:
    """Where a sweep is.

    Attributes:
        workdir: its folder on this machine.
        name: its name in the database.
        url: URL of the database; it may hold a password.
        is_named: whether the name was given, now or earlier; else it is that of the folder.
    """

    workdir: Path
    name: str
    url: str
    is_named: bool = True

    def open(self) -> Storage:
        """Connects to its database.

        Raises:
            StorageError: the database cannot be used.
        """
        return Storage(self.url, self.name)

    @property
    def own_url(self) -> str:
        """URL of the database that is in the workdir if no other is given."""
        return f"sqlite:///{self.workdir.resolve() / DATABASE_FILE}"

    @property
    def is_own(self) -> bool:
        """Whether the database is the one in the workdir, which may be moved together."""
        return self.url == self.own_url

    def may_exist(self) -> bool:
        """Whether there may be a database: False if it is a file that does not exist."""
        return not self.url.startswith("sqlite:///") or self._file.exists()

    @property
    def _file(self) -> Path:
        return Path(self.url.removeprefix("sqlite:///").partition("?")[0])

    def open_started(self) -> Storage:
        """Connects to the database of a sweep that was started; no file is made.

        Raises:
            StorageError: there is no such file, no sweep in it, or it cannot be used.
        """
        if not self.may_exist():
            raise StorageError(
                f"There is no sweep in {self.workdir}: {self._file} does not exist. Give "
                "--workdir, --storage and --name as for `clac-jax sweep start`."
            )
        return Storage(self.url, self.name, is_started=True)


def place_of(workdir: Path, storage: str = "", name: str = "") -> Place:
    """The place of a sweep; what is not given is what an earlier start has written in the workdir.

    Args:
        workdir: its folder.
        storage: URL of its database; "": that of `CLAC_SWEEP_STORAGE`, or as above, or a file in
            the workdir.
        name: its name; "": as above, then the name of the folder.

    Raises:
        StorageError: the database would be on a file system that is not safe for it.
    """
    noted = noted_in(workdir)
    variable = os.environ.get(STORAGE_VARIABLE, "")
    url = storage or variable or str(noted.get("storage") or "") or storage_url("", workdir)
    given = name or str(noted.get("name") or "")
    return Place(workdir, given or workdir.resolve().name, url, bool(given))


def noted_in(workdir: Path) -> dict[str, Any]:
    """The content of the file that `note` has written into a workdir; {} without one.

    Raises:
        WorkdirError: it cannot be read.
    """
    try:
        return dict(json.loads((workdir / SWEEP_FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise WorkdirError(
            f"{workdir / SWEEP_FILE} cannot be read: {one_line(error)}. Remove it, and give "
            "--storage and --name if they were given when the sweep was started."
        ) from error


def note(place: Place, storage: Storage) -> None:
    """Writes name and database, without a password, into the workdir for later commands.

    Raises:
        WorkdirError: the workdir cannot be written.
    """
    url = "" if place.is_own else storage.address
    content = {"name": place.name, "storage": url}
    try:
        place.workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkdirError(f"Cannot make {place.workdir}: {explain(error)}") from error
    write_atomically(place.workdir / SWEEP_FILE, json.dumps(content, indent=1) + "\n")


def check_folder(place: Place, storage: Storage) -> None:
    """Checks that a sweep that has its name from its folder is not one of another folder.

    Raises:
        StorageError: it was started in another folder of this machine.
    """
    stored, here = storage.definition() or {}, _folder_and_host(place)
    folder = stored.get("folder")
    is_other = stored.get("host") == here["host"] and folder != here["folder"]
    if is_other and not (place.is_named or place.is_own):
        raise StorageError(
            f"{storage.shown} has a sweep named {place.name!r} already, of the folder {folder}. "
            f"Give --name=NAME for a new sweep, or --name={shlex.quote(place.name)} to take part "
            "in that one from this folder."
        )


def record_folder(place: Place, storage: Storage) -> None:
    """Stores the folder in which a sweep was first started; see `check_folder`."""
    stored = storage.definition()
    if stored is not None and "folder" not in stored and not place.is_own:
        storage.redefine(stored | _folder_and_host(place))


def _folder_and_host(place: Place) -> dict[str, str]:
    return {"folder": str(place.workdir.resolve()), "host": socket.gethostname()}


def prepared(given: Definition, storage: Storage) -> Definition:
    """The complete definition of a sweep: as stored, or checked and stored now.

    Raises:
        SweepFileError: the file cannot be used, or the file or its config differs from that of the
            stored sweep.
        ConfigError: the config cannot be used.
    """
    from clac_jax.sweeps import kept_config  # takes as long as importing JAX

    plain = given.to_plain()
    stored = storage.definition()
    if stored is None:
        from clac_jax.sweeps.checked import complete

        new = {"file": plain, "complete": complete(given).to_plain()}
        stored = storage.define(new | {"config": kept_config.current(given)})
    changes = [
        _change(name, stored["file"].get(name), plain.get(name))
        for name in plain
        if name not in FREE_TO_CHANGE and plain[name] != stored["file"].get(name)
    ]
    if changes:
        raise SweepFileError(
            f"{given.file} differs from what the sweep {storage.name!r} was started with: "
            f"{'; '.join(changes)}. Restore the file, or start a new sweep with another --workdir; "
            f"only {' and '.join(FREE_TO_CHANGE)} may change."
        )
    definition = Definition.from_plain(stored["complete"])
    kept_config.check_unchanged(stored["config"], given, definition)
    free = {name: plain[name] for name in FREE_TO_CHANGE}
    if any(stored["complete"][name] != value for name, value in free.items()):
        changed = {"file": plain, "complete": stored["complete"] | free}
        storage.redefine(stored | changed)
        definition = dataclasses.replace(definition, **free)
    return definition


def write_config(place: Place, storage: Storage) -> Path:
    """Writes the config of a sweep that was started into its workdir; returns the path.

    Raises:
        WorkdirError: the workdir cannot be written.
    """
    from clac_jax.sweeps import kept_config

    stored = storage.definition()
    assert stored is not None
    return kept_config.write(stored["config"], place.workdir)


def stored_definition(storage: Storage) -> Definition:
    """The complete definition of a sweep that was started.

    Raises:
        StorageError: no sweep of this name was started.
    """
    stored = storage.definition()
    if stored is None:
        names = ", ".join(storage.names()) or "none"
        raise StorageError(
            f"{storage.shown} has no sweep named {storage.name!r}. Give --workdir, --storage and "
            f"--name as for `clac-jax sweep start`; the sweeps there are: {names}."
        )
    return Definition.from_plain(stored["complete"])


def _change(name: str, old: Any, new: Any) -> str:
    """The difference of one part of two sweep files, as "space.learning_rate: ... -> ..."."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        return "; ".join(_change(f"{name}.{key}", old.get(key), new.get(key)) for key in keys)
    return f"{name}: {one_line(json.dumps(old), 80)} -> {one_line(json.dumps(new), 80)}"
