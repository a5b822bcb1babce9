"""Validation of paths from the user, and explanations of operating-system errors."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

from clac_jax.errors import UserError, error_reason, one_line

# More than the longest path inside a workdir: that of a checkpoint file while it is written.
MAX_SUFFIX_BYTES = 256
MAX_PATH_BYTES = 4096
MAX_NAME_BYTES = 255

STORES = ("gs", "s3", "az")
"""Schemes of the URLs of object stores."""

_STORE_URL = re.compile(rf"\s*({'|'.join(STORES)})://", re.IGNORECASE)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# `Path` and some shells collapse the two slashes. Such a path is only treated as a URL if it starts
# with a known store or protocol, because `run:/x` may be a folder.
_COLLAPSED = re.compile(
    r"(gs|gcs|s3|s3a|s3n|r2|az|abfs|abfss|adl|wasb|wasbs|oss|oci|cos|swift|hdfs|dbfs|viewfs"
    r"|file|https?|ftps?|sftp|ssh|scp|hf|memory|github):/",
    re.IGNORECASE,
)

# What to do about an operating-system error.
_ADVICE = {
    errno.ENOSPC: "The disk is full: free some space there",
    errno.EDQUOT: "The disk quota is used up: free some space or ask for a larger quota",
    errno.EFBIG: "A limit on the size of files was reached: raise it (ulimit -f)",
    errno.EROFS: "The file system is mounted read-only: choose another, or remount it for writing",
    errno.EACCES: "Get permission to read and write there, or choose a different location",
    errno.EPERM: "Get permission to read and write there, or choose a different location",
    errno.EISDIR: "A folder has the name of the file: move it",
    errno.ENOTDIR: "A file has the name of a folder: move it",
    errno.EEXIST: "A file has the name of a folder: move it",
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.ELOOP: "The symbolic links form a loop: remove them",
    errno.ENOENT: "Check the name, and whether it is a broken link",
    errno.EMFILE: "Raise the limit of open files (ulimit -n)",
    errno.ENFILE: "The machine has too many open files: close some programs",
    errno.EBUSY: "Close the programs that use it, or unmount it",
    errno.ENOTEMPTY: "Close the programs that have files there open",
    errno.EXDEV: "Put both on one file system",
    errno.EIO: "The disk or the network file system is failing: check it",
    errno.ESTALE: "The network file system has lost the file: remount it",
    errno.ETXTBSY: "Close the programs that use it",
}


class PathError(UserError, ValueError):
    """A path from the user is not that of a local file or folder."""


def path_text(value: Any, what: str) -> str:
    """The text of a path, of text or of bytes.

    Args:
        value: as given by the user.
        what: name of the flag, key or argument, for the message.

    Raises:
        PathError: it is neither text, bytes nor a path.
    """
    try:
        return os.fsdecode(value)
    except TypeError as error:
        raise PathError(f"{what} is {one_line(repr(value), 80)}. Give text, or a Path.") from error


def check_place(text: str | os.PathLike[str], what: str) -> str:
    """Rejects text that is neither a local path nor the URL of an object store.

    Args:
        text: as entered by the user.
        what: name of the flag or key, for the message, such as "--workdir".

    Returns:
        The text, unchanged.

    Raises:
        PathError: it is a different URL, or not a valid path, see `check_local`.
    """
    name = path_text(text, what)
    return name if _STORE_URL.match(name) else check_local(name, what)


def check_local(text: str | os.PathLike[str], what: str, why: str = "") -> str:
    """Rejects text that cannot be the path of a local file or folder.

    Args:
        text: the path as entered by the user.
        what: name of the flag or key, for the message, such as "--workdir".
        why: why it cannot be in an object store, as a sentence without its full stop; empty where
            URLs of object stores can be used, which the caller has looked for.

    Returns:
        The text, unchanged.

    Raises:
        PathError: it is empty, a URL, too long, or has characters not allowed in a path.
    """
    name = path_text(text, what)
    if not name.strip():
        raise PathError(f"{what} is empty. Name a file or folder.")
    if "\0" in name:
        raise PathError(f"{what} contains a NUL character: {name!r}. Remove it.")
    try:
        encoded = name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PathError(
            f"{what} is not UTF-8: {os.fsencode(name)!r}. Rename it or choose a different path; "
            "checkpoints cannot be saved under this one."
        ) from error
    start = name.lstrip()
    if url := _URL.match(start) or _COLLAPSED.match(start):
        raise PathError(f"{what} is a URL ({one_line(name, 80)}), {_advice(start, url[0], why)}")
    longest = max((len(part) for part in encoded.split(b"/")), default=0)
    if longest > MAX_NAME_BYTES:
        raise PathError(
            f"{what} has a name of {longest:,} bytes, but file systems allow {MAX_NAME_BYTES}: "
            f"{one_line(name, 80)}. Choose a shorter name."
        )
    if len(encoded) > MAX_PATH_BYTES - MAX_SUFFIX_BYTES:
        raise PathError(
            f"{what} is {len(encoded):,} bytes long, but file systems allow {MAX_PATH_BYTES:,} "
            "including the names of the files in it. Choose a shorter path."
        )
    return name


def local_path(text: str | os.PathLike[str], what: str, why: str = "") -> Path:
    """Converts text to a path and expands `~`.

    Args:
        text: the path as entered by the user; may be relative to the current folder.
        what: name of the flag or key, for the message, such as "--workdir".
        why: why it cannot be a URL, see `check_local`.

    Raises:
        PathError: see `check_local`; or the home folder is unknown.
    """
    name = check_local(text, what, why)
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise PathError(
            f"{what} starts with an unknown home folder: {one_line(name, 80)}. Write the path in "
            "full."
        ) from error


def _advice(text: str, begins: str, why: str) -> str:
    """The rest of the message about a URL that is not a local path."""
    scheme = begins.partition(":")[0].lower()
    if why or _STORE_URL.match(text):
        reason = f": {why}" if why else ""
        return (
            f"and must be a local path{reason}. Copy the files to a disk, or mount the store as a "
            "folder."
        )
    if scheme in STORES:  # with one slash
        rest = text.partition(":/")[2]
        return f"with one slash instead of two. Write {one_line(f'{scheme}://{rest}', 80)}."
    *stores, last = (f"{each}://" for each in STORES)
    return (
        f"and {begins} is not supported. Use a local path, or a URL that starts with "
        f"{', '.join(stores)} or {last}."
    )


def explain(error: OSError) -> str:
    """Two sentences for the user: the operating-system error and what to do about it."""
    reason = error_reason(error)
    advice = _ADVICE.get(error_number(error))
    return f"{reason}. {advice}." if advice else f"{reason}."


def error_number(error: OSError) -> int:
    """The errno of an error, from its text if it has none; 0 if unknown.

    Libraries in C++ (array_record, TensorStore) report only the text, in English.
    """
    if error.errno:
        return error.errno
    text = str(error)
    return next((number for number in _ADVICE if os.strerror(number) in text), 0)
