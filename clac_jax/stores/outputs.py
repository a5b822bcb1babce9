"""Files and folders that are made locally and then put where the user wants them.

What a URL names is complete or not there: everything is uploaded when it is finished, last the file
by which readers recognize it.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from clac_jax.errors import WorkdirError, forget_origin, set_origin
from clac_jax.files.paths import explain, local_path
from clac_jax.stores.errors import StoreError
from clac_jax.stores.store import Store, StoreOptions, open_store
from clac_jax.stores.url import is_url


@contextlib.contextmanager
def output_folder(target: str | Path, what: str, commit: str) -> Iterator[Path]:
    """The local folder in which to make an output; that of a URL is uploaded at the end.

    Nothing is uploaded if the body raises an error.

    Args:
        target: path or URL of the folder.
        what: name of the flag, for messages, such as "--out".
        commit: name of the file without which the folder is not treated as complete: it is removed
            from the store before, and uploaded after all others. Empty if there is no such file.

    Raises:
        PathError: the path is not valid.
        StoreError: the URL cannot be used, or the folder cannot be uploaded; the message says
            where it is.
        WorkdirError: there is no place for temporary files.
    """
    if not is_url(target):
        yield local_path(target, what)
        return
    store = open_store(str(target))
    require_writable(store)
    with _temporary(store, store.url) as folder:
        yield folder
        if commit:
            store.delete(commit)
        files = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
        upload(store, folder, [name for name in files if not _is_private(name)], commit)


@contextlib.contextmanager
def output_file(target: str | Path, what: str) -> Iterator[Path]:
    """The local file that the body writes; that of a URL is uploaded at the end.

    Files that are written next to it, with related names, are uploaded as well. Arguments, except
    `commit`, and errors as for `output_folder`.
    """
    if not is_url(target):
        yield local_path(target, what)
        return
    parent, _, name = str(target).strip().rpartition("/")
    if parent.endswith("/") or not name:
        raise StoreError(f"{what}={target} names a bucket or a folder. Add the name of a file.")
    store = open_store(parent)
    require_writable(store)
    with _temporary(store, store.url) as folder:
        yield folder / name
        upload(store, folder, [path.name for path in folder.iterdir()], "")


def check_output(target: str | Path) -> None:
    """Checks that a URL can be written to, before the work is done; does nothing for a path.

    Raises:
        StoreError: it cannot be written.
    """
    if is_url(target):
        require_writable(open_store(str(target)))


def require_writable(store: Store) -> None:
    """Writes an object and removes it, so that a wrong name is reported before the work is done.

    Raises:
        StoreError: it cannot be written.
    """
    probe = f".write_probe.{secrets.token_hex(4)}"
    store.put(probe, b"ok")
    store.delete(probe)


def upload(store: Store, folder: Path, names: list[str], last: str) -> None:
    """Puts files of a folder into a store, a few at a time.

    Args:
        store: receives them under the same names.
        folder: the local folder.
        names: names of the files, relative to the folder.
        last: name or path of the file that is put after all others; empty if there is none.
    """
    final = [name for name in names if last and f"/{name}".endswith(f"/{last}")]
    first = sorted(set(names) - set(final))
    with ThreadPoolExecutor(StoreOptions().concurrency, thread_name_prefix="upload") as pool:
        list(pool.map(lambda name: store.put(name, folder / name), first))
    for name in final:
        store.put(name, folder / name)


@contextlib.contextmanager
def _temporary(store: Store, url: str) -> Iterator[Path]:
    """A temporary folder that messages call by a URL; it is kept if it cannot be uploaded."""
    try:
        # In a folder of its own, so that what is made next to the output is temporary as well.
        around = Path(tempfile.mkdtemp(prefix="clac-jax-"))
        folder = around / (url.rpartition("/")[2] or "output")
        folder.mkdir()
    except OSError as error:
        raise WorkdirError(
            f"Cannot make a temporary folder for {url}: {explain(error)} TMPDIR names another."
        ) from error
    set_origin(folder, url)
    try:
        yield folder
    except StoreError as error:
        forget_origin(folder)
        if any(folder.iterdir()):
            raise type(error)(
                f"{error} What was made is kept in {folder}: copy it to {store.url}, or run the "
                "same command again."
            ) from error
        raise
    except BaseException:
        shutil.rmtree(around, ignore_errors=True)
        raise
    shutil.rmtree(around, ignore_errors=True)


def _is_private(name: str) -> bool:
    """Whether a file is of use only where it was made, such as a lock."""
    return name.rpartition("/")[2].startswith(".")
