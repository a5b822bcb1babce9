"""The layout of a run's `checkpoints/`, read without Orbax, JAX or the model.

checkpoints/<step>/state/          the arrays, in Orbax's OCDBT format
checkpoints/<step>/run/metadata    JSON: `CheckpointInfo`
checkpoints/<step>/files.json      size and checksum of every file, written last
checkpoints/<step>.unfinished      exists while the step is being written
checkpoints/<step>.parts-<save>/   the parts of the processes, until they are merged
checkpoints/being_deleted/         checkpoints being removed; also being_replaced/
checkpoints/damaged/               damaged checkpoints that a resumed run set aside
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from etils import epath

from clac_jax.checkpoint.files import (
    MANIFEST,
    DamagedCheckpointError,
    RemovedCheckpointError,
    UnreadableCheckpointError,
    check_files,
    read_json,
    total_size,
)
from clac_jax.checkpoint.shards import Grid
from clac_jax.config.renamed import upgraded
from clac_jax.errors import UserError
from clac_jax.files.paths import explain
from clac_jax.training.progress import RunProgress

CHECKPOINTS = "checkpoints"
STATE, RUN = "state", "run"
RUN_FILE = "run/metadata"
MERGED = "manifest.ocdbt"  # in the state's folder: the location of each array
COMMITTED = "commit_success.txt"  # Orbax's mark, in the checkpoint and in each of its parts
# Version of the metadata file; incremented when an older version cannot read it. Format 1 has a
# single step count of Adam for all parameters and no fingerprints of the training data; arrays have
# shards since format 3.
# A small run of each format is stored for the tests, by tools/store_format.py. A renamed config key
# does not need a new format: config/renamed.py.
FORMAT, READABLE = 3, (1, 2, 3)
# Next to the steps in `checkpoints/`: folders that are being removed. A folder is moved into one of
# these before anything in it is deleted, so every existing step is complete.
DELETED, REPLACED = "being_deleted", "being_replaced"
DAMAGED = "damaged"  # next to them, so on the same disk: what a resumed run set aside
EARLIER_DAMAGED = "damaged_checkpoints"  # in the workdir: their location in older versions
# Suffix of a step's number: this file exists while the step is being written, and the step is not
# yet a checkpoint. A step with neither this file nor its list of files has lost the list.
UNFINISHED = ".unfinished"
PARTS = ".parts-"  # follows the step in the name of the folder that receives the processes' parts
ORBAX_UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a folder that Orbax is writing into
MAX_NUMBERS = 1 << 50  # elements of one array
DTYPES = {"bool", "bfloat16", "complex64", "complex128", "float16", "float32", "float64"} | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}


class CheckpointFormatError(UserError):
    """A checkpoint was written in the format of a different version."""


@dataclass(frozen=True)
class Leaf:
    """One saved array.

    Attributes:
        shape: shape of the array.
        dtype: NumPy name of its dtype.
        crc32: CRC-32 of its bytes in C order; of an array with shards, that of their checksums.
        norm: l2 norm.
        shard_shape: shape of each shard; () if the array is saved in one piece.
        shard_crc32: CRC-32 of the bytes of each shard, in the order of `grid`; () as well.
        owners: number of the database with each piece of `grid`, in `state/ocdbt.process_<number>`;
            () if that is unknown.
        sha256: see `clac_jax.chain.record.array_hash`; "" in checkpoints of earlier versions.
    """

    shape: tuple[int, ...]
    dtype: str
    crc32: int
    norm: float
    shard_shape: tuple[int, ...] = ()
    shard_crc32: tuple[int, ...] = ()
    owners: tuple[int, ...] = ()
    sha256: str = field(default="", compare=False)  # of what the other attributes describe

    @property
    def grid(self) -> Grid:
        """The pieces in which the array is saved."""
        return Grid(self.shape, self.shard_shape if self.shard_crc32 else self.shape)

    @property
    def checksums(self) -> tuple[int, ...]:
        """The CRC-32 of each piece of `grid`."""
        return self.shard_crc32 or (self.crc32,)

    def to_json(self) -> list[Any]:
        """[shape, dtype, crc32, norm]; then, if there are any, the other attributes."""
        more: list[Any] = [list(self.shard_shape), list(self.shard_crc32), list(self.owners)]
        more = more if self.owners or self.sha256 else []
        hashed = [self.sha256] if self.sha256 else []
        return [list(self.shape), self.dtype, self.crc32, self.norm, *more, *hashed]

    @classmethod
    def from_json(cls, values: list[Any]) -> Leaf:
        """The inverse of `to_json`."""
        shape, dtype, crc32, norm, *more = values
        shard_shape, shard_crc32, owners = map(tuple, more[:3] or ((), (), ()))
        (sha256,) = more[3:] or ("",)
        return cls(tuple(shape), dtype, crc32, norm, shard_shape, shard_crc32, owners, sha256)


@dataclass(frozen=True)
class CheckpointInfo:
    """Everything about a checkpoint except its arrays.

    Attributes:
        folder: the checkpoint's own folder, `checkpoints/<step>`.
        progress: position of the run.
        metrics: results of the validation at this step, or None between validations.
        config: the nested config of the run that wrote it, its keys named as in this version.
        versions: package name -> version at the time of writing.
        num_train_examples: size of the split that the position in the epoch refers to.
        saved_at: seconds since 1970.
        leaves: slash path ("params/logit_scale") -> description of the saved array.
        data: split name -> fingerprint of the data used for training and validation; {} in
            checkpoints of format 1, which lack it.
        trained_seconds: time for which the run had trained, over all its starts, without the time
            between them; None in checkpoints of earlier versions.
        digests: part of the state ("params", ..., "total") -> 16 hexadecimal digits, see
            `clac_jax.digests`; computed on the devices before the state was copied off them. Empty
            if they were not recorded.
        renamed: one line per key of the config that has been renamed since.
        record: the record of the checkpoint in the chain of its run, see `clac_jax.chain`; None in
            checkpoints of earlier versions.
        made_from: `how` and `checkpoints` of a model that was computed from others, see
            `averaging`; None for what a run has trained.
    """

    folder: epath.Path
    progress: RunProgress
    metrics: dict[str, float] | None
    config: dict[str, Any]
    versions: dict[str, str]
    num_train_examples: int
    saved_at: float
    leaves: Mapping[str, Leaf]
    data: Mapping[str, str] = field(default_factory=dict)
    trained_seconds: float | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    renamed: tuple[str, ...] = ()
    record: Mapping[str, Any] | None = None
    made_from: Mapping[str, Any] | None = None

    @property
    def step(self) -> int:
        """Number of optimizer updates done."""
        return self.progress.step

    @property
    def ended_epoch(self) -> int | None:
        """The epoch that had just ended, or None within an epoch."""
        ended = self.progress.examples_in_epoch == 0 and self.progress.epoch > 0
        return self.progress.epoch - 1 if ended else None

    @property
    def num_bytes(self) -> int:
        """Size on disk, bytes."""
        return total_size(self.folder)

    def to_json(self) -> dict[str, Any]:
        """Plain values of all attributes except `folder` and `renamed`."""
        return {
            "format": FORMAT,
            "progress": self.progress.to_json(),
            "metrics": self.metrics,
            "config": self.config,
            "versions": self.versions,
            "num_train_examples": self.num_train_examples,
            "saved_at": self.saved_at,
            "trained_seconds": self.trained_seconds,
            "data": dict(self.data),
            "digests": dict(self.digests),
            **({} if self.record is None else {"record": self.record}),
            **({} if self.made_from is None else {"made_from": self.made_from}),
            "leaves": {path: leaf.to_json() for path, leaf in self.leaves.items()},
        }

    @classmethod
    def from_json(cls, folder: epath.Path, values: dict[str, Any]) -> CheckpointInfo:
        """The inverse of `to_json`."""
        values = dict(values)
        leaves = {path: Leaf.from_json(leaf) for path, leaf in values.pop("leaves").items()}
        progress = RunProgress.from_json(values.pop("progress"))
        data = {str(split): str(text) for split, text in values.pop("data", {}).items()}
        config, lines = upgraded(values.pop("config"))
        return cls(
            folder=folder,
            progress=progress,
            config=config,
            leaves=leaves,
            data=data,
            renamed=tuple(lines),
            **values,
        )


def step_folders(directory: epath.Path) -> dict[int, epath.Path]:
    """Step -> folder of every committed checkpoint in `checkpoints/`, oldest first.

    Raises:
        UnreadableCheckpointError: the folder cannot be read.
    """
    paths = entries(directory)
    marked = {path.name for path in paths if path.name.endswith(UNFINISHED)}
    folders = {int(path.name): path for path in paths if is_step(path.name) and path.is_dir()}
    return {
        step: path
        for step, path in sorted(folders.items())
        if f"{step}{UNFINISHED}" not in marked or os.path.lexists(path / MANIFEST)
    }


def unfinished(directory: epath.Path) -> list[epath.Path]:
    """The folders in `checkpoints/` whose saves were interrupted before the list of files.

    Raises:
        UnreadableCheckpointError: the folder cannot be read.
    """
    there = step_folders(directory).values()
    paths = [path for path in entries(directory) if is_step(path.name) and path.is_dir()]
    return [path for path in paths if path not in there]


def entries(directory: epath.Path) -> list[epath.Path]:
    """The entries of `checkpoints/`; empty if it does not exist.

    Raises:
        UnreadableCheckpointError: the folder cannot be read.
    """
    if not directory.is_dir():
        return []
    try:
        return [directory / name for name in sorted(os.listdir(directory))]
    except OSError as error:
        raise UnreadableCheckpointError(f"Cannot read {directory}: {explain(error)}") from error


def is_step(name: str) -> bool:
    """Whether this is a valid name of a checkpoint's folder; "²" and "007" are not."""
    return re.fullmatch("0|[1-9][0-9]{0,18}", name, re.ASCII) is not None


def is_checkpoint(folder: epath.Path) -> bool:
    """Whether a folder is a checkpoint, which may be damaged: by its place, or by what it holds."""
    is_in_run = is_step(folder.name) and folder.parent.name == CHECKPOINTS
    return (is_in_run and folder.is_dir()) or any(
        (folder / part).exists() for part in (MANIFEST, STATE, RUN_FILE, COMMITTED)
    )


def read_info(folder: epath.Path) -> CheckpointInfo:
    """Reads a checkpoint's description, after checking its small files and all sizes.

    Raises:
        DamagedCheckpointError: a file differs from what was written; the message names it.
        UnreadableCheckpointError: permissions or the file system prevent reading.
        CheckpointFormatError: it is intact, but in the format of a different version.
    """
    check_files(folder)
    path = folder / RUN_FILE
    try:
        values = read_json(path)
    except DamagedCheckpointError:
        check_files(folder)  # it existed a moment ago
        raise
    if not isinstance(values, dict):
        raise DamagedCheckpointError(path, "does not describe a checkpoint")
    if values.pop("format", None) not in READABLE:
        versions = values.get("versions")
        version = versions.get("clac-jax") if isinstance(versions, dict) else None
        raise CheckpointFormatError(
            f"{path} was written by another version of clac_jax ({version or 'unknown'}). Use that "
            "version."
        )
    try:
        info = CheckpointInfo.from_json(folder, values)
        problem = wrong_description(info)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise DamagedCheckpointError(path, "does not describe a checkpoint") from error
    if problem:
        raise DamagedCheckpointError(path, f"does not describe a checkpoint: {problem}")
    if is_step(folder.name) and int(folder.name) != info.step:
        raise DamagedCheckpointError(path, f"is that of step {info.step}, under another name")
    return info


def read_all(
    directory: epath.Path,
) -> tuple[dict[int, CheckpointInfo], dict[int, DamagedCheckpointError]]:
    """Reads all checkpoints in `checkpoints/`: the intact ones, and the damage of the others.

    A run may be saving: checkpoints removed since the folder was listed are left out.
    """
    intact, damaged = {}, {}
    for step, folder in step_folders(directory).items():
        try:
            intact[step] = read_info(folder)
        except RemovedCheckpointError:
            continue
        except DamagedCheckpointError as error:
            damaged[step] = error
    return intact, damaged


def wrong_description(info: CheckpointInfo) -> str | None:
    """A phrase on the first field of a description that has the wrong type, or None."""
    counts = ("step", "epoch", "examples_in_epoch", "examples_seen", "validations_since_best")
    for name in counts:
        if not _is_count(getattr(info.progress, name)):
            return f"progress.{name} is {getattr(info.progress, name)!r:.40}"
    for name in ("best_value", "plateau_best", "learning_rate_scale"):
        value = getattr(info.progress, name)
        if not (value is None or _is_number(value)):
            return f"progress.{name} is {value!r:.40}"
    if not _is_count(info.num_train_examples) or not _is_number(info.saved_at):
        return "num_train_examples or saved_at is not a number"
    if not (info.trained_seconds is None or _is_number(info.trained_seconds)):
        return f"trained_seconds is {info.trained_seconds!r:.40}"
    metrics = {} if info.metrics is None else info.metrics
    if not all(_is_number(value) for value in metrics.values()):
        return "metrics holds something that is not a number"
    if not all(re.fullmatch("[0-9a-f]{16}", value) for value in info.digests.values()):
        return "digests holds something that is not a digest"
    if not all(isinstance(value, str) for value in info.versions.values()):
        return "versions holds something that is not text"
    for group in ("checkpoint", "input", "dataset"):
        if not isinstance(info.config[group], dict):
            return f"config.{group} is not a group of keys"
    for name in ("record", "made_from"):
        if not (getattr(info, name) is None or _is_object(getattr(info, name))):
            return f"{name} is not an object"
    options = info.config["checkpoint"]
    if not (
        type(options["save_top_k"]) is int
        and isinstance(options["monitor"], str)
        and options["mode"] in ("min", "max")
        and _is_count(options["keep_every_n_steps"])
        and _is_number(options.get("keep_every_hours", 0.0))
        and "seed" in info.config
    ):
        return "config has values that no run has"
    for path, leaf in info.leaves.items():
        sound = all(_is_count(size) for size in leaf.shape) and math.prod(leaf.shape) < MAX_NUMBERS
        texts = isinstance(leaf.dtype, str) and isinstance(leaf.sha256, str)
        if not (sound and texts and _is_count(leaf.crc32)):
            return f"array {path[:80]!r}"
        if not _is_number(leaf.norm) or leaf.dtype not in DTYPES or not _has_sound_shards(leaf):
            return f"array {path[:80]!r}"
    return None


def _has_sound_shards(leaf: Leaf) -> bool:
    """Whether the shards, if the array has any, divide it, and each has checksum and owner."""
    if not all(map(_is_count, leaf.owners)):
        return False
    if not leaf.shard_crc32:
        return leaf.shard_shape == () and len(leaf.owners) < 2
    pairs = list(zip(leaf.shape, leaf.shard_shape, strict=False))
    return (
        len(leaf.shape) == len(leaf.shard_shape)
        and all(_is_count(part) and part > 0 and size % part == 0 for size, part in pairs)
        and math.prod(size // part for size, part in pairs) == len(leaf.shard_crc32)
        and len(leaf.owners) == len(leaf.shard_crc32)
        and all(map(_is_count, leaf.shard_crc32))
    )


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 1 << 63)
