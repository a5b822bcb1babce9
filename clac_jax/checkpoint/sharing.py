"""The files that a new checkpoint shares with earlier ones, and with other runs.

A file is only ever linked or removed, never written in place: a change of it would be one of every
checkpoint that has it. Before it is shared it is read and compared with its checksum, so damage is
not passed on; the arrays are then written again.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_collections
from etils import epath

from clac_jax.checkpoint.damage import DamagedCheckpointError, UnreadableCheckpointError
from clac_jax.checkpoint.files import MANIFEST, read_manifest, write_manifest
from clac_jax.checkpoint.groups import is_group
from clac_jax.checkpoint.layout import PARTS, STATE, UNFINISHED, step_folders
from clac_jax.checkpoint.removal import remove
from clac_jax.errors import WorkdirError, warn
from clac_jax.files import protocol
from clac_jax.files.checksum import is_intact
from clac_jax.files.links import is_impossible, link
from clac_jax.files.paths import explain, local_path

Files = dict[str, list[int]]
"""Path in a database -> [size, CRC-32] of the file."""

_SEARCHED = 3  # newest checkpoints; only the newest is needed, unless it was damaged or taken away
_NEW, _OLD = ".new-", ".old-"  # beginnings of names in a store: not there yet, and going away
_TOKEN_BYTES = 8
_TEMPORARY = re.compile(rf"({re.escape(_NEW)}|{re.escape(_OLD)})[0-9a-f]{{{2 * _TOKEN_BYTES}}}")


def sharing_of(config: ml_collections.ConfigDict) -> Sharing:
    """The files that a run with this config shares.

    Raises:
        PathError: `checkpoint.store` cannot be a folder.
    """
    options = config.checkpoint
    store = local_path(options.store, "config.checkpoint.store") if options.store else None
    return Sharing(store, options.share)


class Sharing:
    """Finds databases of groups, and links them into a new checkpoint.

    Attributes:
        only_own: whether only files that this process has written are linked, and once per step.
            Set for a workdir in a bucket, where a delayed request may still delete a file of a
            step, by a name that must not be used there again.
    """

    def __init__(self, store: Path | None = None, is_wanted: bool = True):
        """Nothing is read yet.

        Args:
            store: a folder that several runs share, `config.checkpoint.store`; it is made when the
                first database is kept in it.
            is_wanted: False: nothing is shared.
        """
        self.only_own = False
        self._store, self._is_wanted = store, is_wanted
        self._own: dict[str, Files] = {}  # name of a group -> files written by this process
        self._checked: dict[str, Files] = {}
        self._used: set[tuple[str, str]] = set()  # groups and the steps that they were linked to
        self._said: set[str] = set()
        self._possible: dict[Path, bool] = {}

    def is_possible(self, directory: Path) -> bool:
        """Whether files can be linked in a `checkpoints/`, and are to be; tried once."""
        if not self._is_wanted:
            return False
        if directory not in self._possible:
            self._possible[directory] = self._can_link(directory)
        return self._possible[directory]

    def adopt(
        self, name: str, directory: Path, target: Path, is_right: Callable[[Path], bool]
    ) -> Files | None:
        """Links an intact database of a group, if there is one.

        Args:
            name: name of the group.
            directory: the run's `checkpoints/`.
            target: folder of the database to be made, in a result of `parts_folder`.
            is_right: whether the database in a folder holds the arrays that it is named after;
                called once for files that this process has not written.

        Returns:
            Its files; None if the group must be written.
        """
        step = target.parent.name.partition(PARTS)[0]
        for source, files in self._sources(name, directory):
            if self.only_own and (files != self._own.get(name) or (name, step) in self._used):
                continue
            if not self._adopt(source, files, target):
                continue
            if files != self._checked.get(name) and not is_right(target):
                remove(target)
                self._say(f"{source} does not hold what its name says, so it is not used.")
                continue
            self._checked[name] = files
            self._used.add((name, step))
            protocol.reached("group linked")
            return files
        return None

    def relink(self, name: str, folder: Path) -> None:
        """Makes a file of a new checkpoint a link to that of the one before, if they are equal.

        Args:
            name: name of the file in the checkpoint's folder.
            folder: the new checkpoint, which is not committed yet.
        """
        earlier = list(step_folders(epath.Path(folder.parent)).values())
        if not earlier or not self.is_possible(folder.parent):
            return
        source, target = Path(earlier[-1]) / name, folder / name
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            if filecmp.cmp(source, target, shallow=False):
                os.link(source, temporary)
                os.replace(temporary, target)
        except OSError:  # the file stays as it is
            temporary.unlink(missing_ok=True)

    def keep(self, database: Path, files: Files) -> None:
        """Remembers a database that was written, and puts it into the store, if there is one."""
        self._own[database.name] = self._checked[database.name] = files
        if self._store is None or self.only_own:
            return
        new = self._store / _temporary(_NEW)
        try:
            for name in files:
                link(database / name, new / name)
            write_manifest(epath.Path(new), files)
            protocol.reached("put into the store")
            place = self._store / database.name
            with contextlib.suppress(FileNotFoundError):  # a damaged one, or one that came just now
                os.rename(place, self._store / _temporary(_OLD))
            os.rename(new, place)
        except (OSError, WorkdirError) as error:
            reason = explain(error) if isinstance(error, OSError) else str(error)
            self._say(
                f"Arrays cannot be shared through {self._store} (config.checkpoint.store): {reason}"
            )

    def collect(self) -> None:
        """Removes what no checkpoint uses any more from the store."""
        if self._store is not None:
            collect(self._store)

    def _sources(self, name: str, directory: Path) -> Iterator[tuple[Path, Files]]:
        folders = list(step_folders(epath.Path(directory)).values())[-_SEARCHED:]
        for folder in reversed(folders):
            database = Path(folder) / STATE / name
            if database.is_dir():
                yield database, _listed(folder, f"{STATE}/{name}/")
        if self._store is not None and (self._store / name).is_dir():
            yield self._store / name, _listed(epath.Path(self._store / name), "")

    def _adopt(self, source: Path, files: Files, target: Path) -> bool:
        if not files:
            return False
        try:
            for name in files:
                link(source / name, target / name)
        except OSError as error:  # taken away since, or a file with the most links there can be
            if is_impossible(error):
                self._say(f"Files of {source} cannot be shared: {explain(error)}")
            remove(target)
            return False
        for name, (size, crc) in files.items():
            if not is_intact(target / name, (size, crc)):
                remove(target)
                self._say(
                    f"{source / name} does not hold what was written, so its arrays are written "
                    "again. `clac-jax ckpt verify` names the checkpoints that share it."
                )
                return False
        return True

    def _can_link(self, directory: Path) -> bool:
        token = secrets.token_hex(8)
        one, two = (directory / f".link-{token}-{k}{UNFINISHED}" for k in (1, 2))
        try:
            one.write_bytes(b"")
            os.link(one, two)
        except OSError as error:
            if not is_impossible(error):
                raise
            self._say(
                f"{directory} is on a file system without hard links, so every checkpoint has its "
                f"own copy of the arrays that do not change ({explain(error)})"
            )
            return False
        finally:
            for path in (one, two):
                with contextlib.suppress(OSError):
                    path.unlink()
        return True

    def _say(self, problem: str) -> None:
        if problem not in self._said:
            self._said.add(problem)
            warn(problem)


def with_absolute_store(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy of a config in which `checkpoint.store` means the same in every current folder.

    Relative to the workdir it would not survive a move of only the workdir, after which links into
    a store that stays where it is are still good.

    Raises:
        PathError: `checkpoint.store` cannot be a folder.
    """
    config = config.copy_and_resolve_references()
    if name := config.checkpoint.store:
        config.checkpoint.store = os.path.abspath(local_path(name, "config.checkpoint.store"))
    return config


def stores_of(configs: Iterable[Mapping[str, Any]]) -> set[Path]:
    """The stores that checkpoints with these nested configs may have files in."""
    names = {str(config["checkpoint"].get("store", "")) for config in configs} - {""}
    return {local_path(name, "config.checkpoint.store") for name in names}


def collect(store: Path) -> None:
    """Removes the databases of a store that have no link elsewhere, so that no checkpoint has them.

    Another run may link a file at this very moment: it then has it, or writes its own. What fails
    is tried again after the next save.
    """
    with contextlib.suppress(OSError):
        for path in sorted(store.iterdir()):
            if not (is_group(path.name) or _TEMPORARY.fullmatch(path.name)):
                continue
            if any(_is_used(file) for file in path.rglob("*") if file.name != MANIFEST):
                continue
            if is_group(path.name):
                going = store / _temporary(_OLD)
                os.rename(path, going)
                path = going
            remove(path)


def _listed(folder: epath.Path, prefix: str) -> Files:
    """The files below a prefix, by their names there; {} if the list cannot be read."""
    try:
        listed = read_manifest(folder)
    except (DamagedCheckpointError, UnreadableCheckpointError):
        return {}
    return {
        name.removeprefix(prefix): [size, crc]
        for name, (size, crc) in listed.items()
        if name.startswith(prefix)
    }


def _temporary(begin: str) -> str:
    return f"{begin}{secrets.token_hex(_TOKEN_BYTES)}"


def _is_used(path: Path) -> bool:
    return path.is_file() and path.stat().st_nlink > 1
