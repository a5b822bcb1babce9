"""Whether a folder can take an index: it is free, or holds this index or its unfinished parts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from clac_jax.distributed.workdir import LOCK_FILE
from clac_jax.errors import WorkdirError, counted, warn
from clac_jax.files.atomic import write_atomically
from clac_jax.files.paths import explain
from clac_jax.index import parts
from clac_jax.index.join import remove_parts
from clac_jax.index.layout import (
    CONTENTS,
    PARTS,
    IndexFolderError,
    IndexMismatchError,
    read_sealed,
    sealed,
)
from clac_jax.index.plan import require_same
from clac_jax.index.store import Index

_UNFINISHED = "an unfinished index"
_FILES = re.compile(
    r"items(-\d{5,})?\.parquet|refused(-\d{5,})?\.jsonl|(vectors|texts)-\d{5,}\.npy"
)
_GIVEN = "crystals"


def begin(folder: Path, plan: dict[str, Any], given: Sequence[str]) -> bool:
    """Whether the index is complete already; otherwise makes the folder of its parts.

    Parts of the same crystals before they were corrected cannot be used any more, and are removed.

    Args:
        folder: the folder of the index, which this process has locked.
        plan: the plan of the index.
        given: names of the crystals on the command line, local ones as absolute paths.

    Raises:
        IndexMismatchError: it, or its parts, belong to another plan.
        WorkdirError: the folder of the parts cannot be made.
    """
    if plan["base"] is None and is_complete(folder, plan):
        return True
    place = parts.folder_of(folder)
    found = unfinished_plan(folder)
    if found is not None and any([*place.glob("*.part"), *place.glob("machine-*")]):
        require_same(folder, plan, {**found, "fingerprint": plan["fingerprint"]})
        if found["fingerprint"] == plan["fingerprint"]:
            return False
        _require_outdated(folder, found, given)
        _remove_joined(folder)  # while the plan still shows that these files are not the user's
        remove_parts(folder)
    elif found is not None:
        _remove_joined(folder)
    try:
        place.mkdir(exist_ok=True)
    except OSError as error:
        raise WorkdirError(f"Cannot write {place}: {explain(error)}") from error
    write_atomically(place / parts.PLAN, sealed({**plan, _GIVEN: list(given)}))
    return False


def _require_outdated(folder: Path, found: dict[str, Any], given: Sequence[str]) -> None:
    """Checks that parts were made from the crystals given, which have changed since.

    Raises:
        IndexMismatchError: they may be of other crystals, or other machines may be at work.
    """
    place = parts.folder_of(folder)
    count = counted(len(list(place.glob("*.part"))), "part")
    if found.get(_GIVEN) != list(given) or any(place.glob("machine-*")):
        names = ", ".join(found.get(_GIVEN, ())[:3]) or "other crystals"
        raise IndexMismatchError(
            f"{place} holds unfinished work ({count}) on {names}, whose content was not that of "
            "the crystals given now. Run the command for those crystals again to finish it; or, if "
            f"it is not needed any more, delete {place} and run this command again."
        )
    warn(f"The crystals have changed since the last start; {count} in {place} will be made again.")


def _remove_joined(folder: Path) -> None:
    """Removes files that were made from the parts, but are not those of a complete index.

    Raises:
        WorkdirError: they cannot be removed.
    """
    complete = Index(folder).files if (folder / CONTENTS).exists() else {}
    try:
        for path in sorted(folder.iterdir()):
            if _FILES.fullmatch(path.name) and path.name not in complete:
                path.unlink()
    except OSError as error:
        raise WorkdirError(f"{folder} cannot be cleared: {explain(error)}") from error


def unfinished_plan(folder: Path) -> dict[str, Any] | None:
    """The plan of the unfinished parts in a folder; None if there are none.

    Raises:
        DamagedIndexError: it cannot be read.
    """
    path = parts.folder_of(folder) / parts.PLAN
    return read_sealed(path, _UNFINISHED) if path.exists() else None


def is_complete(folder: Path, plan: dict[str, Any]) -> bool:
    """Whether the folder has the index of a plan; then what is left of its parts is removed.

    Raises:
        IndexMismatchError: it has the index of a different plan, or an unfinished addition.
    """
    if not (folder / CONTENTS).exists():
        return False
    info = Index(folder).info
    first = info["data"][0]
    found = {
        "model": info["model"],
        "fingerprint": first["fingerprint"],
        "options": info["options"],
        "base": first["base"],
    }
    require_same(folder, plan, found)
    unfinished = unfinished_plan(folder)
    if unfinished is not None and unfinished["base"] is not None:
        raise IndexMismatchError(
            f"{folder} has an unfinished addition. Run its `clac-jax index add` again, or delete "
            f"{parts.folder_of(folder)}."
        )
    remove_parts(folder)
    return True


def require_free(folder: Path, crystals: Sequence[str | os.PathLike[str]] = ()) -> None:
    """Checks that a folder is new, empty, or that of an index, and that no source is inside.

    Raises:
        IndexFolderError: it holds other files.
        WorkdirError: it cannot be read.
    """
    if folder.is_dir() and not (folder / CONTENTS).exists() and (others := _others(folder)):
        raise holds_others(f"--out={folder}", others)
    for name in crystals:
        path = Path(name).expanduser()
        if os.path.exists(path) and folder.resolve() in path.resolve().parents:
            raise IndexFolderError(f"{path} is inside --out={folder}. Name a new folder.")


def _others(folder: Path) -> list[str]:
    """The files in a folder without a complete index that do not belong to an unfinished one."""
    place = parts.folder_of(folder)
    try:
        names = [path.name for path in folder.iterdir() if path.name != LOCK_FILE]
        if (place / parts.PLAN).exists():
            return others_in(names)
        if place.is_dir() and all(path.name.startswith(".") for path in place.iterdir()):
            names.remove(PARTS)  # made by a process that was killed before it wrote the plan
    except OSError as error:
        raise WorkdirError(f"--out={folder} cannot be read: {explain(error)}") from error
    return sorted(name for name in names if not name.startswith("."))


def others_in(names: Iterable[str]) -> list[str]:
    """The names that no file of an unfinished index has, hidden ones aside."""
    visible = [name for name in names if not name.startswith(".")]
    return sorted(name for name in visible if name != PARTS and not _FILES.fullmatch(name))


def holds_others(place: str, others: Sequence[str]) -> IndexFolderError:
    """The error for a place that holds other files than those of an index."""
    return IndexFolderError(
        f"{place} holds other files ({', '.join(others[:3])}). Name a new folder."
    )
