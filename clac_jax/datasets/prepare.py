"""Builds missing data sets atomically, and opens prepared ones."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import functools
import hashlib
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clac_jax.datasets import builder as builder_lib
from clac_jax.datasets import cif_folder, crystal_table, manifest, table
from clac_jax.datasets.bad_rows import BadRowsError
from clac_jax.datasets.gpt_narratives import GptNarratives
from clac_jax.datasets.jarvis_dft_3d import JarvisDft3d
from clac_jax.datasets.materials_project_mini.builder import PARQUET, MaterialsProjectMini
from clac_jax.datasets.options import DEFAULTS, TableOptions
from clac_jax.datasets.record import DataError, Record, shortened
from clac_jax.errors import error_reason, set_origin
from clac_jax.files.atomic import sync
from clac_jax.files.paths import error_number, explain, local_path
from clac_jax.stores.copies import local_copy
from clac_jax.stores.errors import NotFoundError
from clac_jax.stores.url import is_url

NAMES = ("materials_project_mini", "gpt_narratives", "jarvis_dft_3d")
REFUSED_ROWS = "refused_rows.jsonl"
_TABLES: dict[str, type[table.TableBuilder]] = {
    "gpt_narratives": GptNarratives,
    "jarvis_dft_3d": JarvisDft3d,
}
_LOCAL = "data sets are prepared there and then read at random"
_BUILDING, _LOCK = ".building-", "lock"
# Without working locks, an unfinished build of this age is considered abandoned.
ABANDONED_SECONDS = 24 * 3600


def load(
    name: str,
    data_dir: str | Path,
    split: str,
    path: str | Path | None = None,
    options: TableOptions = DEFAULTS,
) -> Sequence[Record]:
    """Opens one split for random access, after building the data set if necessary.

    Args:
        name: one of NAMES.
        data_dir: folder of the prepared data sets.
        split: "train", "validation" or "test".
        path: table or folder of CIF files, or its URL; None for the bundled data set.
        options: options of the table.

    Raises:
        DataError: the data cannot be used.
    """
    data_set = _DataSet(name, path, options)
    folder, _ = _prepare(data_set, local_path(data_dir, "dataset.data_dir", _LOCAL))
    return builder_lib.open_split(data_set.builder, folder, split)


def prepare(
    name: str,
    data_dir: str | Path,
    path: str | Path | None = None,
    options: TableOptions = DEFAULTS,
) -> tuple[Path, bool]:
    """Builds a data set if it does not exist; arguments as for `load`.

    The name of the folder is a hash of the source files and options. The folder is written under a
    temporary name and renamed when complete, so interrupted or concurrent builds do no harm.

    Returns:
        The folder of the prepared data set, and whether it was built by this call.

    Raises:
        DataError: the data cannot be used, or the folder cannot be written.
    """
    return _prepare(_DataSet(name, path, options), local_path(data_dir, "dataset.data_dir", _LOCAL))


@dataclass(frozen=True)
class _DataSet:
    """A data set to build or open; arguments as for `load`."""

    name: str
    path: str | Path | None
    options: TableOptions

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise DataError(f"Unknown data set {self.name!r}. Use one of {', '.join(NAMES)}.")
        if self.name != "jarvis_dft_3d":
            # The other data sets keep rows without the label, which other tasks use.
            object.__setattr__(self, "options", dataclasses.replace(self.options, label=""))
        if self.name in _TABLES and not self.path:
            raise DataError(
                f"The data set {self.name} needs a file. Set --path=FILE (`clac-jax train`: "
                "--config.dataset.path=FILE)."
            )
        if self.name not in _TABLES and self.path:
            raise DataError(
                f"The data set {self.name} comes with the package and reads no file. Set "
                "--name=gpt_narratives (`clac-jax train`: --config.dataset.name=gpt_narratives) "
                "for data of your own."
            )
        if self.name in _TABLES and is_url(str(self.path)):
            object.__setattr__(self, "path", _copied(str(self.path)))
        with _read_errors(self.path):
            for file in self.files().values():
                if not file.is_file():
                    raise DataError(f"The data file {file} does not exist. Check dataset.path.")

    def files(self) -> dict[str, Path]:
        """The source files by role."""
        if self.name == "materials_project_mini":
            return {"all": PARQUET}
        path = self._source()
        if path.is_dir():
            return {file.name: file for file in cif_folder.files(path)}
        return table.split_files(path)

    def key(self) -> str:
        """Hash of the content of the source files, the options and the format."""
        options = self.options.key() if self.name in _TABLES else ""
        digest = hashlib.sha256(f"{builder_lib.FORMAT} {options}".encode())
        with _read_errors(self.path):
            for role, file in self.files().items():
                content = _content_hash(file, _state(file))
                digest.update(f"{role} {content}".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:12]

    def state(self) -> list[tuple[int, ...]]:
        """The `_state` of each source file."""
        with _read_errors(self.path):
            return [_state(file) for file in self.files().values()]

    def builder(self, folder: Path) -> builder_lib.RecordBuilder:
        """The builder that writes the data set to, or reads it from, a folder."""
        if self.name == "materials_project_mini":
            return MaterialsProjectMini(data_dir=folder)
        return _TABLES[self.name](
            data_dir=folder,
            path=self._source(),
            options=self.options,
        )

    def _source(self) -> Path:
        return local_path(str(self.path), "dataset.path")


def _copied(url: str) -> Path:
    """A local copy of a table in an object store, with its sibling files if it has any."""
    copy = local_copy(url, "dataset.path")
    folder, _, name = url.strip().rstrip("/").rpartition("/")
    for sibling in table.names_of_siblings(name):
        link = copy.with_name(sibling)
        with contextlib.suppress(FileNotFoundError):
            link.unlink()
        with contextlib.suppress(NotFoundError):
            other = local_copy(f"{folder}/{sibling}", "dataset.path")
            with contextlib.suppress(FileExistsError):  # another process was faster
                link.symlink_to(other)
    set_origin(copy.parent, folder)
    return copy


@contextlib.contextmanager
def _read_errors(path: str | Path | None) -> Iterator[None]:
    """Converts file-system errors to `DataError`, naming the path."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # the latter: the home folder in ~user does not exist
        shown = shortened(str(getattr(error, "filename", None) or path), 300)
        raise DataError(
            f"Cannot read {shown}: {error_reason(error)}. Check dataset.path."
        ) from error


def _prepare(data_set: _DataSet, data_dir: Path) -> tuple[Path, bool]:
    folder = data_dir / data_set.name / data_set.key()
    builder_lib.check_address_space()
    try:
        is_missing = not folder.is_dir()
        if is_missing:
            _build(data_set, folder)
    except OSError as error:
        is_full = error_number(error) in (errno.ENOSPC, errno.EDQUOT)
        needs = " A build needs about twice the uncompressed size of its table." if is_full else ""
        raise DataError(
            f"Cannot write the data set to {shortened(str(folder), 300)} (dataset.data_dir): "
            f"{explain(error)}{needs}"
        ) from error
    _print_notices(folder)
    return folder, is_missing


def _build(data_set: _DataSet, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder.parent)
    source = data_set.state()
    with _temporary_folder(folder) as temporary:
        try:
            with builder_lib.quiet():
                builder = data_set.builder(temporary)
                builder.download_and_prepare()
        except BadRowsError as error:
            if error.listing is None:
                raise
            listing = folder.with_name(REFUSED_ROWS)
            error.listing.replace(listing)
            raise DataError(f"{error}\nAll bad rows are listed in {listing}.") from error
        if data_set.state() != source:
            raise DataError(f"{data_set.path} changed while it was read. Run the command again.")
        shutil.rmtree(temporary / "downloads", ignore_errors=True)  # TFDS makes it, empty
        (temporary / _LOCK).unlink()
        crystal_table.write(temporary, builder.tables)
        notices = [line.replace(str(temporary), str(folder)) for line in builder.notices]
        manifest.write(temporary, notices)
        _flush(temporary)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process finished first, with the same result
                raise


@contextlib.contextmanager
def _temporary_folder(folder: Path) -> Iterator[Path]:
    """A locked temporary folder next to `folder`, removed on exit; the lock shows it is in use."""
    temporary = folder.with_name(f"{_BUILDING}{folder.name}-{uuid.uuid4().hex[:8]}")
    temporary.mkdir()
    try:
        with open(temporary / _LOCK, "w", encoding="utf-8") as lock:
            with contextlib.suppress(OSError):  # not supported by some network file systems
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                lock.write(socket.gethostname())
                lock.flush()
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    """Deletes the folders of builds that were killed; a running build holds a lock."""
    for folder in parent.glob(f"{_BUILDING}*"):
        try:
            if _is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:  # another process removed or renamed it
            continue


def _is_abandoned(folder: Path) -> bool:
    if time.time() - folder.stat().st_mtime > ABANDONED_SECONDS:
        return True
    try:
        with open(folder / _LOCK, encoding="utf-8") as lock:
            # A lock only shows that its process is alive if that runs on this machine.
            if lock.read() != socket.gethostname():
                return False
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:  # locked, not yet locked, or done
        return False


def _flush(folder: Path) -> None:
    """Flushes files to disk, so that a crash after the rename leaves no empty files."""
    for file in folder.rglob("*"):
        if file.is_file():
            sync(file)


@functools.cache  # once per process, although each split is opened separately
def _print_notices(folder: Path) -> None:
    for notice in manifest.read(folder).notices:
        print(notice, flush=True)


def _state(file: Path) -> tuple[int, ...]:
    """Metadata that change whenever the content of a file does."""
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


@functools.cache  # also by state, in case the file is replaced during the run
def _content_hash(file: Path, state: tuple[int, ...]) -> str:
    del state
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
