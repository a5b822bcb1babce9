"""Whether what is in a trial's folder is of that trial, and not of a different sweep.

A run continues from any checkpoint that it finds in its folder, so a result could be credited to
values that were never trained.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from clac_jax.checkpoint.layout import CHECKPOINTS
from clac_jax.errors import UserError, one_line
from clac_jax.sweeps.definition import as_tuples
from clac_jax.sweeps.trial_run import CHILD_FILE, flag_text

METRICS, CONFIG = "metrics.jsonl", "config.json"
_FLAG = "--config."


class ForeignFolderError(UserError):
    """A folder holds what another sweep, or another run, has trained."""


def has_started(folder: Path) -> bool:
    """Whether a run has left something in a folder from which it would continue."""
    return (folder / METRICS).exists() or (folder / CHECKPOINTS).is_dir()


def check_folder(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Checks that what is in a trial's folder, if anything, was trained with the trial's values.

    Args:
        folder: the folder, which need not exist.
        wanted: dotted key of the config -> value, of all keys that the trial sets.

    Raises:
        ForeignFolderError: it was trained with others.
    """
    if not has_started(folder):
        return
    given, config = _given(folder), _config(folder)
    there = {name: config[name] for name in wanted if name in config} | given
    differing = [
        name
        for name in sorted(there)
        if not name.startswith("restore.")  # which depends on the version of the program
        and (name not in wanted or _plain(name, there[name]) != _plain(name, wanted[name]))
    ]
    if differing:
        has = ", ".join(f"{name}={_shown(there[name])}" for name in differing)
        wants = ", ".join(
            f"{name}={_shown(wanted[name])}" if name in wanted else f"{name} is not set"
            for name in differing
        )
        raise ForeignFolderError(
            f"{folder} holds a trial of a different sweep, with {has}; here it would be {wants}. "
            "Give another --workdir. If it is this sweep, and its database was lost, trials "
            "that had failed or were pruned by hand may lead to other values: then move that "
            "folder away and run the same command again."
        )


def _given(folder: Path) -> dict[str, Any]:
    """The keys that the command line of the folder's last run has set; {} if that is unknown."""
    content = _read(folder / CHILD_FILE).get("command")
    words = [str(word) for word in content] if isinstance(content, list) else []
    pairs = [word.removeprefix(_FLAG).partition("=") for word in words if word.startswith(_FLAG)]
    return {name: value for name, _, value in pairs}


def _config(folder: Path) -> dict[str, Any]:
    """All keys of the config of the folder's last run, dotted; {} if that is unknown."""
    return _dotted(_read(folder / CONFIG), "")


def _dotted(values: Mapping[str, Any], start: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found[f"{start}{name}"] = value
        if isinstance(value, Mapping):
            found |= _dotted(value, f"{start}{name}.")
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # none, or a disk that lost it
        return {}
    return content if isinstance(content, dict) else {}


def _plain(name: str, value: Any) -> Any:
    """A value in a form in which equal ones are equal, wherever it was read."""
    if name == "resume_from" and value is not None:
        return PurePath(str(value)).parts[-3:]  # the workdir may have been moved
    try:
        parsed = ast.literal_eval(flag_text(value))
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return flag_text(value)
    return as_tuples(parsed)


def _shown(value: Any) -> str:
    return one_line(flag_text(value), 80)
