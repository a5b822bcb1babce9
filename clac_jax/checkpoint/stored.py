"""The form of a state in which a save hands it to Orbax."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax

from clac_jax.checkpoint.layout import Leaf
from clac_jax.checkpoint.remote import Remote
from clac_jax.digests.digest import Digest
from clac_jax.errors import UserError

Shapes = Mapping[str, jax.ShapeDtypeStruct]
"""Slash path -> shape and dtype of an array, and its sharding if it has one."""


@dataclass(frozen=True)
class Stored:
    """The form of a state that Orbax and the description of a checkpoint need.

    Attributes:
        tree: slash path -> leaf that Orbax can save.
        leaves: slash path -> description of the array.
        files: path in the checkpoint -> size and CRC-32, of files that are on disk already.
        remote: where those of them are that other processes have put into a bucket.
        digests: part of the state -> digest; empty if they are unknown.
    """

    tree: Mapping[str, Any]
    leaves: Mapping[str, Leaf]
    files: Mapping[str, list[int]] = field(default_factory=dict)
    remote: Remote | None = None
    digests: Mapping[str, Digest] = field(default_factory=dict)


class WrongCopyError(UserError):
    """The copy of a state in host memory is not what was on the devices."""

    prevents_saving = True
