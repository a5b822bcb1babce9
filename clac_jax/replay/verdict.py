"""Whether a step computed again is the one that was recorded; if not, where they differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from clac_jax.checkpoint.arrays import read_arrays
from clac_jax.checkpoint.layout import CheckpointInfo
from clac_jax.digests.digest import COUNTERS, TOTAL, Digest
from clac_jax.digests.host import array_digests, by_part
from clac_jax.replay.differences import ArrayDifference, Element, changed_elements, unlike_saved
from clac_jax.replay.replayer import Done

STAGES = {
    "ids": "which examples are in the batch",
    "texts": "the texts of the batch",
    "crystals": "the crystals of the batch",
    "loss": "the loss",
    "gradients": "the gradient",
    "opt_state": "the state of the optimizer",
    "batch_stats": "the batch statistics",
    "params": "the parameters",
    "ema": "the averaged parameters",
    COUNTERS: "the counters and the key",
}
"""Digest of a step -> what it covers, in the order in which a step computes them."""


def parting(left: Mapping[str, Digest], right: Mapping[str, Digest]) -> list[str]:
    """The digests that both sides have and that differ, in the order of a step."""
    return [name for name in STAGES if name in left and name in right and left[name] != right[name]]


@dataclass(frozen=True)
class Verdict:
    """A step computed again, compared with what the run has recorded of it.

    Attributes:
        step: its number.
        compared: number of digests compared, without the total; 0 if none is recorded.
        parting: the digests that differ, in the order of a step.
        arrays: the arrays that differ from the run's checkpoint of this step, as `unlike_saved`
            finds them; None if there is no checkpoint.
        flipped: part of the state -> the single elements whose change would explain the
            digest that was recorded.
        lawful: why other bits are to be expected here; "" if they are not.
    """

    step: int
    compared: int
    parting: list[str]
    arrays: list[ArrayDifference] | None
    flipped: Mapping[str, list[tuple[str, Element]]]
    lawful: str = ""

    @property
    def is_equal(self) -> bool:
        """Whether nothing that was compared differs."""
        return not self.parting and not self.arrays

    @property
    def words(self) -> list[str]:
        """The verdict in words, the most important line first."""
        lines = []
        if self.compared and not self.parting:
            lines.append(f"equal to the journal ({self.compared} digests)")
        elif self.parting:
            lines.append(f"DIFFERS from the journal in {STAGES[self.parting[0]]}")
            if len(self.parting) > 1:
                lines.append(f"then also in {', '.join(self.parting[1:])}")
        else:
            lines.append("the journal has no digests of this step")
        if self.arrays is not None:
            if self.arrays:
                lines.append(f"{len(self.arrays)} arrays differ from the checkpoint of this step:")
                lines += [f"  {each.words}" for each in self.arrays[:SHOWN]]
                lines += [f"    {self.arrays[0].path}{e.words}" for e in self.arrays[0].elements]
            else:
                lines.append("equal to the checkpoint of this step, every array")
        for part, found in self.flipped.items():
            lines += flipped_words(part, found)
        if self.lawful and not self.is_equal:
            lines.append(f"other bits are to be expected: {self.lawful}")
        return lines


SHOWN = 8


def flipped_words(part: str, found: list[tuple[str, Element]]) -> list[str]:
    """Lines on the elements whose change explains the digest of a part."""
    if not found:
        return [f"{part}: no change of a single element explains the recorded digest"]
    path, element = found[0]
    if len(found) == 1:
        return [f"{part}: one element explains the recorded digest: {path}{element.words}"]
    lines = [f"{part}: a change of one of these {len(found)} elements explains the digest:"]
    return lines + [f"  {path}{element.words}" for path, element in found[:SHOWN]]


def judge(
    done: Done,
    recorded: Mapping[str, Digest],
    arrays: Mapping[str, np.ndarray] | None = None,
    checkpoint: CheckpointInfo | None = None,
    lawful: str = "",
) -> Verdict:
    """Compares a step with what the run has recorded of it.

    Args:
        done: the step, computed again.
        recorded: its digests in the journal; {} if it has none.
        arrays: the state after the step; None: only the digests are compared.
        checkpoint: the run's checkpoint of this step, if it is to be compared.
        lawful: why other bits are to be expected here; "" if they are not.
    """
    common = done.digests.keys() & recorded.keys() & STAGES.keys()
    differing = parting(done.digests, recorded)
    compared = None
    flipped: dict[str, list[tuple[str, Element]]] = {}
    if arrays is not None and checkpoint is not None:
        compared = unlike_saved(arrays, read_arrays(checkpoint, checkpoint.leaves))
    elif arrays is not None and differing and not set(differing) & {"loss", "gradients"}:
        flipped = explained(arrays, recorded, differing)
    return Verdict(done.step, len(common), differing, compared, flipped, lawful)


def explained(
    arrays: Mapping[str, np.ndarray], recorded: Mapping[str, Digest], parts: list[str]
) -> dict[str, list[tuple[str, Element]]]:
    """For each differing part of a state, the single elements that explain its digest."""
    digests = array_digests(arrays)
    of_parts = by_part(digests)
    found = {}
    for part in parts:
        if part not in of_parts or part == TOTAL:
            continue
        own = {path: arrays[path] for path in arrays if _part(path) == part}
        found[part] = changed_elements(own, of_parts[part], recorded[part])
    return found


def _part(path: str) -> str:
    part, slash, _ = path.partition("/")
    return part if slash else COUNTERS
