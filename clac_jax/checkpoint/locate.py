"""`config.resume_from`: finds the checkpoint that a name refers to."""

from __future__ import annotations

import difflib
import os
import re

from etils import epath

from clac_jax.checkpoint.fetched import fetch_run, split_name
from clac_jax.checkpoint.files import DamagedCheckpointError
from clac_jax.checkpoint.layout import (
    CHECKPOINTS,
    CheckpointInfo,
    entries,
    is_checkpoint,
    read_all,
    read_info,
    step_folders,
)
from clac_jax.checkpoint.yardstick import retention_of
from clac_jax.errors import UserError, counted, origin_of
from clac_jax.files.paths import local_path
from clac_jax.stores.url import is_url

FORMS = (
    "DIR, DIR@last, DIR@best, DIR@best=2 (the second best), DIR@step=5000, DIR@epoch=49, or a "
    "checkpoint's own folder"
)


class CheckpointNotFoundError(UserError):
    """No checkpoint has this name."""


def locate(name: str) -> CheckpointInfo:
    """Finds the checkpoint that a name refers to.

    Args:
        name: a run's workdir (its newest intact checkpoint) or its `checkpoints/`, either with the
            suffix "@last", "@best" (by the monitor of that run's config), "@best=2" (the second
            best), "@step=N" or "@epoch=N" (saved at the end of epoch N), also written with a colon
            ("@step:N"); or the folder of one checkpoint. Absolute, relative to the current folder,
            or with "~"; or the URL of a folder in an object store, of which the small files are
            copied.

    Raises:
        PathError: it is not a valid name of a folder.
        StoreError: the object store cannot be read.
        CheckpointNotFoundError: there is none; the message lists the existing ones.
        DamagedCheckpointError: the only one that the name can refer to is damaged.
    """
    place, which = name.strip(), ""
    if is_url(place):
        place, which = split_name(place)
    elif "@" in place and not _path(place).exists():  # the name of a folder may contain an @
        place, _, which = place.rpartition("@")
    folder = _path(place)
    if not folder.exists():
        raise CheckpointNotFoundError(
            f"Checkpoint not found: {folder} does not exist{_near(folder)}. "
            f"Give {FORMS}; a relative path starts at the current folder."
        )
    if is_checkpoint(folder):
        if which:
            raise CheckpointNotFoundError(
                f"{folder} is one checkpoint, and {name!r} selects @{which} of a run. "
                f"Leave out @{which}, or give the run's folder."
            )
        return read_info(folder)
    directory = folder / CHECKPOINTS if (folder / CHECKPOINTS).is_dir() else folder
    intact, damaged = read_all(directory)
    if not intact:
        if damaged:
            raise next(reversed(damaged.values()))
        raise CheckpointNotFoundError(f"Checkpoint not found: {folder} holds none. Give {FORMS}.")
    return _choose(which, directory, intact, damaged)


def is_inside(name: str, workdir: os.PathLike[str]) -> bool:
    """Whether a name, as for `locate`, refers to a checkpoint of the run in this workdir."""
    if is_url(name):
        url = origin_of(workdir)
        return url is not None and f"{split_name(name)[0]}/".startswith(f"{url}/")
    places = {name.strip(), name.strip().rpartition("@")[0]} - {""}
    folder = str(_path(os.fspath(workdir)))
    return any(f"{_path(place)}/".startswith(f"{folder}/") for place in places)


def _path(place: str) -> epath.Path:
    if is_url(place):
        return epath.Path(fetch_run(place))
    return epath.Path(local_path(place, "The name of a checkpoint")).resolve()


def _choose(
    which: str,
    directory: epath.Path,
    intact: dict[int, CheckpointInfo],
    damaged: dict[int, DamagedCheckpointError],
) -> CheckpointInfo:
    newest = intact[max(intact)]
    if which in ("", "last"):
        return newest
    if found := re.fullmatch(r"best(?:[=:]([1-9]\d{0,8}))?", which, re.ASCII):
        place = int(found[1] or 1)
        options = newest.config["checkpoint"]
        for step in sorted(intact, reverse=True):  # by the newest metrics
            if options["monitor"] in (intact[step].metrics or {}):
                config = intact[step].config | {"checkpoint": options}
                retention, metrics = retention_of(config, intact[step].data, intact)
                best = retention.best_first(metrics)
                if len(best) >= place:
                    return intact[best[place - 1]]
                if best:
                    ranked = counted(len(best), "checkpoint")
                    raise CheckpointNotFoundError(
                        f"Checkpoint not found: only {ranked} in {directory} can be ranked by "
                        f"{options['monitor']!r}, so none is @{which}. Best first, there "
                        f"{_there({step: intact[step] for step in best})}."
                    )
        raise CheckpointNotFoundError(
            f"No checkpoint in {directory} has the metric {options['monitor']!r}, so none is best. "
            f"There {_there(intact)}."
        )
    if found := re.fullmatch(r"step[=:](\d+)", which):
        step = int(found[1])
        if step in damaged:
            raise damaged[step]
        if step in intact:
            return intact[step]
    elif found := re.fullmatch(r"epoch[=:](\d+)", which):
        ended = [info for info in intact.values() if info.ended_epoch == int(found[1])]
        if ended:
            return ended[-1]
    else:
        raise CheckpointNotFoundError(f"@{which} is not understood. Give {FORMS}.")
    raise CheckpointNotFoundError(
        f"Checkpoint not found: {directory} has none for @{which}. There {_there(intact)}."
    )


def _there(intact: dict[int, CheckpointInfo]) -> str:
    names = [
        f"step={step}" + (f" (epoch={info.ended_epoch})" if info.ended_epoch is not None else "")
        for step, info in intact.items()
    ]
    return f"{'are' if len(names) > 1 else 'is'} {', '.join(names)}"


def _near(folder: epath.Path) -> str:
    """The name most similar to that of a missing folder, among its siblings."""
    if not folder.parent.is_dir() or (
        origin_of(folder) is not None and folder.parent.name != CHECKPOINTS
    ):
        return ""
    names = [path.name for path in entries(folder.parent)]
    if folder.parent.name == CHECKPOINTS:
        steps = step_folders(folder.parent)
        return f" (there are {', '.join(map(str, steps))})" if steps else ""
    near = difflib.get_close_matches(folder.name, names, n=1)
    return f" (did you mean {folder.parent / near[0]}?)" if near else ""
