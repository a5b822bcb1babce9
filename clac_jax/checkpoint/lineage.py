"""The place of a checkpoint in the chain of its run: the content of its record, and its parent."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from clac_jax.chain.chain_file import Chain, NoChain, Parent
from clac_jax.chain.record import digest_of
from clac_jax.checkpoint.layout import CheckpointInfo
from clac_jax.checkpoint.resume import Origin
from clac_jax.errors import shown
from clac_jax.training.progress import RunProgress


def content_of(info: CheckpointInfo) -> dict[str, Any]:
    """The part of the record of a checkpoint that describes the checkpoint itself."""
    return {
        "step": info.step,
        "progress": info.progress.to_json(),
        "metrics": info.metrics,
        "arrays": arrays_digest(info),
        "digests": dict(info.digests),
        "config": config_digest(info.config),
        "data": dict(info.data),
    }


class Recorder:
    """Brings checkpoints into the chain of their run.

    Args:
        chain: the chain; by default they have none.
    """

    def __init__(self, chain: Chain | None = None):
        self._chain = chain or NoChain()

    def begin(self) -> Callable[[CheckpointInfo], CheckpointInfo]:
        """Begins a save: what the run writes later belongs to the next record.

        Returns:
            The description of a checkpoint -> the same with its record, which is then on disk; it
            raises a `WorkdirError` if that cannot be written.
        """
        sizes = self._chain.sizes()

        def recorded(info: CheckpointInfo) -> CheckpointInfo:
            return dataclasses.replace(info, record=self._chain.extend(sizes, content_of(info)))

        return recorded


def arrays_digest(info: CheckpointInfo) -> str | None:
    """The digest of the hashes of all arrays; None if they have none."""
    hashes = {path: leaf.sha256 for path, leaf in info.leaves.items()}
    return digest_of(hashes) if all(hashes.values()) else None


def config_digest(config: Mapping[str, Any]) -> str:
    """The digest of a nested config, as saved."""
    return digest_of(json.loads(json.dumps(config)))


def parent_of(origin: Origin, progress: RunProgress) -> Parent:
    """The checkpoint that a run resumes from.

    Args:
        origin: what it could have started from.
        progress: the position from which it resumes.
    """
    if origin.sources:
        infos = [(each.arrays.place, each.arrays.info) for each in origin.sources]
        sources = [{"run": place, "step": info.step if info else None} for place, info in infos]
        run = ", ".join(place for place, _ in infos)
        return Parent(progress.step, None, {"run": run, "step": progress.step, "sources": sources})
    if origin.other is not None:
        other = origin.other
        where = {"run": shown(other.folder), "step": other.step}
        return Parent(progress.step, other.record, where)
    own = origin.own.get(progress.step)
    if own is not None and own.record is None:
        return Parent(progress.step, None, {"run": None, "step": own.step})
    return Parent(progress.step, own.record if own else None)
