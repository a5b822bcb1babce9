"""Opens the sources of a restore by their names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from clac_jax.checkpoint.foreign import open_foreign
from clac_jax.checkpoint.locate import locate
from clac_jax.checkpoint.matching import RestoreOptions
from clac_jax.checkpoint.renaming import as_rules
from clac_jax.checkpoint.sources import Arrays, Wanted, of_checkpoint
from clac_jax.config.saving import MERGED_PARTS
from clac_jax.errors import UserError


class SourceError(UserError):
    """A source lacks what the config takes from it."""


def open_arrays(name: str) -> Arrays:
    """The contents of a source, by its name; the arrays themselves are not read.

    Args:
        name: a checkpoint of this program, as for `locate`; or a file or folder of another program,
            see `clac_jax.checkpoint.foreign`.

    Raises:
        CheckpointNotFoundError, DamagedCheckpointError, UserError: there is none, or it cannot be
            read.
    """
    return open_foreign(name) or of_checkpoint(locate(name), name)


def open_sources(group: Any) -> list[Wanted]:
    """The sources that a config names, in their order.

    Args:
        group: the group `restore` of a config.

    Raises:
        SourceError: a source of another program is to give what it does not have.
        UserError: see `open_arrays`.
    """
    base = RestoreOptions.from_config(group)
    return [
        wanted_of(open_arrays(values["from"]), values, base) for values in map(dict, group.sources)
    ]


def wanted_of(arrays: Arrays, values: Mapping[str, Any], base: RestoreOptions) -> Wanted:
    """A source with what a member of `config.restore.sources` wants of it.

    Args:
        arrays: what the source holds.
        values: the member.
        base: the options for all sources, `strict` and `on_shape_mismatch`.

    Raises:
        SourceError: it is of another program, and is to give what it does not have.
    """
    options = dataclasses.replace(
        base,
        parts=tuple(values.get("parts", MERGED_PARTS)),
        rules=as_rules(values.get("rules", ())),
        only=values.get("only", ""),
    )
    too_much = [part for part in options.parts if part not in MERGED_PARTS]
    if arrays.info is None and too_much:
        raise SourceError(
            f'Config key "restore.sources" takes {", ".join(too_much)} from {arrays.name!r}, '
            "which another program has written. Take only params and batch_stats from it."
        )
    return Wanted(arrays, options)


def giver_of(part: str, sources: Sequence[Wanted]) -> Wanted | None:
    """The source that gives a part which only one can give: "progress" or "key"."""
    return next((source for source in sources if part in source.options.parts), None)
