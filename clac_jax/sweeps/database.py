"""The database of a sweep: which one, and its tables, made by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clac_jax.errors import UserError, one_line, warn
from clac_jax.files.paths import explain

if TYPE_CHECKING:
    import sqlalchemy as sa

STORAGE_VARIABLE = "CLAC_SWEEP_STORAGE"
DATABASE_FILE = "sweep.db"
MISSING = 'Sweeps need a package that is not installed. Run pip install "clac-jax[sweep]".'
WAIT_SECONDS = 60  # for another program's transaction, which takes milliseconds
_LOCK_NUMBER = 0x636C6163  # of PostgreSQL's advisory lock: "clac"
_MOUNTS = Path("/proc/mounts")
# File systems on which the locks of SQLite are known not to work, and those on which it depends on
# how they are mounted.
_WITHOUT_LOCKS = ("nfs", "cifs", "smb", "9p", "afs", "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse")
_PERHAPS_WITHOUT = ("lustre", "beegfs", "fuse")


class StorageError(UserError):
    """The database of a sweep cannot be used."""


class UnreachableStorageError(StorageError):
    """The database cannot be reached at present; the next try may succeed."""


def open_engine(url: str, may_be_read_only: bool = False) -> sa.Engine:
    """Connects to a database; nothing is made yet.

    Args:
        url: `sqlite:///PATH` or `postgresql://USER:PASSWORD@HOST/NAME`.
        may_be_read_only: open a file that cannot be written for reading only.

    Raises:
        StorageError: the URL cannot be used, or a package is missing.
    """
    try:
        import sqlalchemy as sa
    except ImportError as error:
        raise UserError(MISSING) from error
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise StorageError(
            "--storage is not the URL of a database. Write sqlite:////FOLDER/sweep.db or "
            "postgresql://USER@HOST/NAME."
        ) from error
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        options: dict[str, Any] = {"connect_args": {"timeout": WAIT_SECONDS}}
        if may_be_read_only and (file := _read_only_file(parsed)):
            address = f"{file.resolve().as_uri()}?mode=ro"
            options = {
                "creator": lambda: sqlite3.connect(address, timeout=WAIT_SECONDS, uri=True),
            }
        return sa.create_engine(parsed, **options)
    if backend not in ("postgresql", "postgres"):
        raise StorageError(
            f"--storage names a database of the kind {one_line(backend)!r}. Write "
            "sqlite:////FOLDER/sweep.db or postgresql://USER@HOST/NAME."
        )
    try:
        import psycopg as psycopg
    except ImportError as error:
        raise StorageError(
            'PostgreSQL needs a missing package. Run pip install "clac-jax[postgres]".'
        ) from error
    return sa.create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        connect_args={"connect_timeout": 10},
    )


def _read_only_file(url: sa.URL) -> Path | None:
    """The file of a SQLite database, if it exists and this program cannot write there."""
    path = Path(url.database or ":memory:")
    is_writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    return path if path.is_file() and not is_writable else None


def import_optuna() -> Any:
    """The package Optuna, whose notices are hidden.

    Raises:
        UserError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError(MISSING) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def storage_url(given: str, workdir: Path) -> str:
    """The URL of a sweep's database.

    Args:
        given: the value of `--storage`; "": that of the variable CLAC_SWEEP_STORAGE, or else a
            file in the workdir.
        workdir: the folder of the sweep.

    Raises:
        StorageError: the file would be on a file system where SQLite is not safe.
    """
    if url := given or os.environ.get(STORAGE_VARIABLE, ""):
        return url
    kind = file_system_of(workdir)
    if kind.startswith(_WITHOUT_LOCKS):
        raise StorageError(
            f"{workdir} is on a network file system ({kind}), where SQLite loses data. Give the "
            "URL of a PostgreSQL database by --storage, or of a file on a local disk "
            "(sqlite:////PATH/sweep.db) if all trials run on this machine."
        )
    if kind.startswith(_PERHAPS_WITHOUT):
        warn(
            f"{workdir} is on a shared file system ({kind}). SQLite is safe there only if the "
            "administrator has enabled locks; otherwise give --storage=postgresql://USER@HOST/NAME."
        )
    return f"sqlite:///{workdir.resolve() / DATABASE_FILE}"


def file_system_of(folder: Path) -> str:
    """The kind of file system that holds a folder, such as "ext4" or "nfs4"; "" if unknown."""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    place, best, kind = folder.resolve(), -1, ""
    for line in lines:
        _, mount, found, *_ = [*line.split(), "", "", ""]
        mount = mount.replace("\\040", " ")
        if len(mount) >= best and place.is_relative_to(mount or "-"):
            best, kind = len(mount), found
    return kind


def shown_url(url: str) -> str:
    """A URL for messages, with *** for a password."""
    import sqlalchemy as sa

    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        return "the given URL"
    query = {name: value for name, value in parsed.query.items() if "pass" not in name}
    return parsed.set(query=query).render_as_string(hide_password=True)


def without_password(url: sa.URL) -> str:
    """A URL as it may be stored in a file."""
    import sqlalchemy as sa

    query = {name: value for name, value in url.query.items() if "pass" not in name}
    kind = url.get_backend_name()
    place = (url.username, None, url.host, url.port, url.database)
    return sa.URL.create(kind, *place, query).render_as_string(hide_password=False)


@contextlib.contextmanager
def explained(engine: sa.Engine) -> Iterator[None]:
    """Turns errors of the database into sentences, without secrets.

    Raises:
        UnreachableStorageError: it cannot be reached, or another program has locked it.
        StorageError: anything else that the database reports.
    """
    import sqlalchemy as sa

    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        origin = getattr(error, "orig", None) or error
        text = one_line(origin)
        if password := engine.url.password:
            text = text.replace(str(password), "***")
        where = shown_url(engine.url.render_as_string(hide_password=True))
        is_away = isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError)
        advice = "Check the URL, and whether the server runs or the file can be written."
        is_damaged = isinstance(error, sa.exc.DatabaseError) and not is_away
        if engine.dialect.name == "sqlite" and (is_damaged or "Could not decode" in text):
            is_away, advice = False, advice_on_damage(engine)
        kind = UnreachableStorageError if is_away else StorageError
        raise kind(f"The database {where} cannot be used: {text.rstrip('.')}. {advice}") from error


def advice_on_damage(engine: sa.Engine) -> str:
    """The advice on a database whose content is damaged."""
    if engine.dialect.name != "sqlite":
        return "Restore it from a backup, or start a new sweep with another --workdir and --name."
    name = Path(engine.url.database or DATABASE_FILE).name
    return (
        f"Move {name} away and start the same sweep file again: the trials are then read from "
        "their folders."
    )


def check_tables(engine: sa.Engine, metadata: sa.MetaData) -> None:
    """Checks that no table is missing; nothing is written.

    Raises:
        StorageError: one is, or the database cannot be used.
    """
    import sqlalchemy as sa

    with explained(engine):
        inspector = sa.inspect(engine)
        have_all = all(inspector.has_table(name) for name in metadata.tables)
    if not have_all:
        where = shown_url(engine.url.render_as_string(hide_password=True))
        raise StorageError(
            f"No sweep was started in {where}: its tables are missing. Give --workdir, --storage "
            "and --name as for `clac-jax sweep start`."
        )


def make_tables(engine: sa.Engine, metadata: sa.MetaData) -> None:
    """Makes the tables that are missing; several programs may do so at the same time.

    Raises:
        StorageError: the database cannot be used.
    """
    with explained(engine), making_tables(engine), engine.begin() as connection:
        metadata.create_all(connection)


@contextlib.contextmanager
def making_tables(engine: sa.Engine) -> Iterator[None]:
    """Context in which no other program makes tables in a database.

    Raises:
        StorageError: the lock cannot be taken.
    """
    import sqlalchemy as sa

    if engine.dialect.name != "sqlite":
        with engine.connect() as connection:
            number = {"number": _LOCK_NUMBER}
            connection.execute(sa.text("SELECT pg_advisory_lock(:number)"), number)
            try:
                yield
            finally:
                connection.execute(sa.text("SELECT pg_advisory_unlock(:number)"), number)
        return
    if engine.url.database in (None, "", ":memory:"):  # in memory: no other program has it
        yield
        return
    path = Path(engine.url.database)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path.with_name(f".{path.name}.lock"), "a")  # noqa: SIM115
    except OSError as error:
        raise StorageError(f"Cannot write to {path.parent}: {explain(error)}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
