"""Groups of arrays that do not change from save to save, so that each is stored once.

A group is a database of its own in a checkpoint's `state/`, next to the one of the arrays that
change. It is named by the content of its arrays, so two databases of one name are interchangeable:
a save links the files of an earlier one instead of writing them again. `arrays.json` in the
database, linked like its other files, describes its arrays; checkpoints need no other record of
what they share, and nothing counts users: a file is freed by the file system with its last link.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from etils import epath

from clac_jax.checkpoint.files import (
    DamagedCheckpointError,
    UnreadableCheckpointError,
    read_json,
)
from clac_jax.checkpoint.layout import STATE, Leaf
from clac_jax.config.adapters import Config, frozen_patterns

ARRAYS_FILE = "arrays.json"
PREFIX = "ocdbt.process_"  # Orbax merges all databases of such names
MIN_BYTES = 1 << 20  # of a group: smaller ones are cheaper to write again than to link
_UNUSABLE = (
    DamagedCheckpointError,
    UnreadableCheckpointError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
)
_NAME = re.compile(r"ocdbt\.process_[0-9a-f]{32}")


@dataclass(frozen=True)
class Content:
    """An array, identified by its content.

    Attributes:
        leaf: its description.
        sha256: its hash, see `clac_jax.chain.record.array_hash`.
    """

    leaf: Leaf
    sha256: str


@dataclass(frozen=True)
class Group:
    """Arrays that are stored together.

    Attributes:
        arrays: slash path -> array.
    """

    arrays: Mapping[str, Content]

    @cached_property
    def name(self) -> str:
        """Name of the database: equal if and only if paths, shapes, dtypes and bytes are."""
        facts = {
            path: [list(each.leaf.shape), each.leaf.dtype, each.sha256]
            for path, each in self.arrays.items()
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return f"{PREFIX}{digest[:32]}"

    def to_text(self) -> str:
        """The content of `arrays.json`."""
        arrays = {path: [each.sha256, *each.leaf.to_json()] for path, each in self.arrays.items()}
        return json.dumps({"arrays": arrays}, sort_keys=True)

    @classmethod
    def from_json(cls, values: Any) -> Group:
        """The inverse of `to_text`.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: these are not such values.
        """
        return cls(
            {
                str(path): Content(Leaf.from_json(leaf), str(sha256))
                for path, (sha256, *leaf) in values["arrays"].items()
            }
        )


def groups_of(folder: Path) -> list[Group]:
    """The groups in a checkpoint; a database whose `arrays.json` is damaged counts as none."""
    found = []
    for path in sorted((folder / STATE).glob(f"{PREFIX}*/{ARRAYS_FILE}")):
        try:
            group = Group.from_json(read_json(epath.Path(path)))
        except _UNUSABLE:
            continue
        if group.name == path.parent.name:
            found.append(group)
    return found


def is_group(name: str) -> bool:
    """Whether this is the name of a group's database."""
    return _NAME.fullmatch(name) is not None


def regroup(
    groups: Iterable[Collection[str]], unchanged: Collection[str], sizes: Mapping[str, int]
) -> list[frozenset[str]]:
    """Divides what is stored once into groups; all other arrays are written with each save.

    A group stays as long as none of its arrays changes, since its files can only be linked
    together. What is left of a group that has changed, and arrays that have not changed for the
    first time, make a new one: written once more, and linked from then on.

    Args:
        groups: the paths in each group of the save before.
        unchanged: the arrays that are equal to those of the save before; for the first save those
            that are not expected to change.
        sizes: path -> bytes of each array.
    """
    known = set(unchanged)
    kept = [frozenset(group) for group in groups if known.issuperset(group)]
    rest = frozenset(known & sizes.keys()).difference(*kept)
    large = sum(sizes[path] for path in rest) >= MIN_BYTES
    return [*kept, rest] if large else kept


def constant_paths(paths: Iterable[str], config: Config) -> set[str]:
    """The parameters that a run does not train.

    Args:
        paths: slash paths of a state's arrays.
        config: the run's config, complete.
    """
    patterns = [re.compile(pattern) for pattern in frozen_patterns(config)]
    return {
        path
        for path in paths
        if path.startswith("params/")
        and any(pattern.fullmatch(path.removeprefix("params/")) for pattern in patterns)
    }
