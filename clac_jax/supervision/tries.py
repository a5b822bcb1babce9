"""The last lines of each try, in `WORKDIR/tries/`."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path

from clac_jax.supervision.child import Ended

TRIES = "tries"  # folder in the workdir
KEPT_TRIES = 20  # files, per supervisor


def keep_last_lines(folder: Path | None, number: int, ended: Ended) -> Path | None:
    """Writes a try's last lines to a file; the oldest files of this supervisor are removed.

    Nothing is written where the folder does not exist, as on a host that does not share it.

    Args:
        folder: the run's workdir, or the local copy of one in a bucket; None if unknown.
        number: number of the try, from 1.
        ended: how the try has ended.

    Returns:
        The file; None if there is none.
    """
    if folder is None or not folder.is_dir():
        return None
    own = f"{socket.gethostname()}-{os.getpid()}"
    now = time.strftime("%Y-%m-%dT%H-%M-%S", time.gmtime())
    path = folder / TRIES / f"{now}-{own}-try-{number}.txt"
    text = f"Try {number}: exit code {ended.code} after {ended.seconds:.0f} seconds.\n\n"
    try:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + "\n".join(ended.lines) + "\n", encoding="utf-8")
    except OSError:  # a full disk is what the try itself has reported
        return None
    for old in sorted(path.parent.glob(f"*-{own}-try-*.txt"))[:-KEPT_TRIES]:
        with contextlib.suppress(OSError):
            old.unlink()
    return path
