"""Paths that a user gives: checked where they come in, with one sentence for what is wrong."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from clac_jax.errors import UserError, error_reason, one_line

# Longer than any name that is put behind a workdir: the files of a checkpoint, while it is written.
ROOM_BELOW = 256
MAX_PATH_BYTES = 4096
MAX_NAME_BYTES = 255

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# `Path` and some shells make one slash of two; of those only what names a store or a protocol is
# taken for a URL, because `run:/x` may be a folder.
_COLLAPSED = re.compile(
    r"(gs|gcs|s3|s3a|s3n|r2|az|abfs|abfss|adl|wasb|wasbs|oss|oci|cos|swift|hdfs|dbfs|viewfs"
    r"|file|https?|ftps?|sftp|ssh|scp|hf|memory|github):/",
    re.IGNORECASE,
)

# What to do about an error of the operating system, where more can be said than "try again".
_ADVICE = {
    errno.ENOSPC: "The disk is full: free some space there",
    errno.EDQUOT: "The disk quota is used up: free some space or ask for a larger quota",
    errno.EFBIG: "A limit on the size of files was reached: raise it (ulimit -f)",
    errno.EROFS: "The file system is mounted read-only: choose another, or mount it for writing",
    errno.EACCES: "Get permission to read and write there, or choose another place",
    errno.EPERM: "Get permission to read and write there, or choose another place",
    errno.EISDIR: "A folder is in the place of the file: move it away",
    errno.ENOTDIR: "A file is in the place of a folder: move it away",
    errno.EEXIST: "A file is in the place of a folder: move it away",
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.ELOOP: "The links there lead in a circle: remove them",
    errno.ENOENT: "Check the name, and whether a link leads nowhere",
    errno.EMFILE: "Raise the limit of open files (ulimit -n)",
    errno.ENFILE: "The machine has too many open files: close some programs",
    errno.EBUSY: "Close the programs that use it, or unmount what is mounted there",
    errno.ENOTEMPTY: "Close the programs that still hold files there open",
    errno.EXDEV: "Put both on one file system",
    errno.EIO: "The disk or the network file system is failing: check it",
    errno.ESTALE: "The network file system has lost the file: mount it again",
    errno.ETXTBSY: "Close the programs that use it",
}


class PathError(UserError, ValueError):
    """What was given is not the name of a local file or folder."""


def check_local(text: str | os.PathLike[str], what: str) -> str:
    """Refuses what cannot be the path of a local file or folder.

    Args:
        text: as the user gave it.
        what: the flag or key it was given with, for the message: "--workdir".

    Returns:
        The same text.

    Raises:
        PathError: it is empty, a URL, too long, or holds characters that no file can be given.
    """
    name = os.fspath(text)
    if not name.strip():
        raise PathError(f"{what} is empty. Name a file or folder.")
    if "\0" in name:
        raise PathError(f"{what} contains a NUL character: {name!r}. Type it again.")
    try:
        encoded = name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PathError(
            f"{what} is not UTF-8: {os.fsencode(name)!r}. Rename it, or choose another name; "
            "checkpoints cannot be saved below such a folder."
        ) from error
    start = name.lstrip()
    if url := _URL.match(start) or _COLLAPSED.match(start):
        raise PathError(
            f"{what} is a URL ({one_line(name, 80)}), and {url[0]} cannot be read or written. Give "
            "a local path: mount the store as a folder, or copy what you need to a disk."
        )
    longest = max((len(part) for part in encoded.split(b"/")), default=0)
    if longest > MAX_NAME_BYTES:
        raise PathError(
            f"{what} has a name of {longest:,} bytes, and file systems allow {MAX_NAME_BYTES}: "
            f"{one_line(name, 80)}. Choose a shorter name."
        )
    if len(encoded) > MAX_PATH_BYTES - ROOM_BELOW:
        raise PathError(
            f"{what} is {len(encoded):,} bytes long, and file systems allow {MAX_PATH_BYTES:,} "
            "with the names of the files below it. Choose a shorter path."
        )
    return name


def local_path(text: str | os.PathLike[str], what: str) -> Path:
    """The path that a user names, with `~` resolved.

    Args:
        text: as the user gave it; relative paths start at the current folder.
        what: the flag or key it was given with, for the message: "--workdir".

    Raises:
        PathError: see `check_local`; or there is no such home folder.
    """
    name = check_local(text, what)
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise PathError(
            f"{what} starts with a home folder that is not known: {one_line(name, 80)}. Write the "
            "path in full."
        ) from error


def explain(error: OSError) -> str:
    """An error of the operating system in words, and what to do: two sentences."""
    reason = error_reason(error)
    advice = _ADVICE.get(error.errno or 0)
    return f"{reason}. {advice}." if advice else f"{reason}."
