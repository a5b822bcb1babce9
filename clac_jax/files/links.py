"""Files with several names: hard links to what is already on the disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

# Errors of a file system that cannot link, or not from there to here.
_IMPOSSIBLE = {errno.EPERM, errno.EACCES, errno.EXDEV, errno.ENOTSUP, errno.EOPNOTSUPP}
_IMPOSSIBLE |= {errno.ENOSYS, errno.EINVAL}


def link(source: Path, target: Path) -> None:
    """Gives a file another name; the folder of the target is made if it is missing.

    Raises:
        OSError: see `os.link`; `is_impossible` says whether another attempt makes sense.
    """
    try:
        os.link(source, target)
    except FileNotFoundError:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, target)


def is_impossible(error: OSError) -> bool:
    """Whether no file can be linked between these two places."""
    return error.errno in _IMPOSSIBLE
