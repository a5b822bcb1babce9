"""The first step whose bits differ between two runs, what differs in it, and why."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clac_jax.checkpoint.arrays import read_arrays
from clac_jax.digests.digest import Digest
from clac_jax.errors import UserError
from clac_jax.journal.record import DIGESTS
from clac_jax.replay.devices import lawful_difference, prepare_devices
from clac_jax.replay.differences import ArrayDifference, Element, differences, unlike_saved
from clac_jax.replay.errors import ReplayError
from clac_jax.replay.history import History
from clac_jax.replay.replayer import Done, Replayer, Say
from clac_jax.replay.report import as_plain, labelled
from clac_jax.replay.suspects import Suspect, suspects
from clac_jax.replay.verdict import SHOWN, STAGES, explained, flipped_words, parting


@dataclass(frozen=True)
class Side:
    """One of the two runs at the step where they part, computed again.

    Attributes:
        history: what it has recorded.
        before: the state before the step.
        done: the step.
        after: the state after it.
        changed: arrays in which its checkpoint before the step is not the state of then.
    """

    history: History
    before: Mapping[str, np.ndarray]
    done: Done
    after: Mapping[str, np.ndarray]
    changed: list[ArrayDifference]

    @property
    def wrong(self) -> list[str]:
        """The digests of its journal that are not those of the step computed again."""
        return parting(self.done.digests, self.history.digests(self.done.step))


@dataclass(frozen=True)
class Bisection:
    """The outcome.

    Attributes:
        names: the two runs.
        compared: number of steps whose digests both journals have.
        last: the last of these.
        step: the first step that differs; None if none does.
        parting: the digests that differ there, in the order of a step.
        values: digest -> its two values.
        before: arrays that differ before the step, computed again.
        arrays: arrays that differ after it.
        irreproducible: run -> digests of its journal that a replay does not give.
        flipped: for each such run, part of the state -> single elements that explain its digest.
        checkpoints: run -> arrays in which its checkpoint before the step is not the state of then.
        lawful: run -> why other bits are to be expected on this machine.
        suspects: what differs between the runs, the likeliest first.
        notes: what could not be looked into.
    """

    names: tuple[str, str]
    compared: int
    last: int
    step: int | None = None
    parting: list[str] = field(default_factory=list)
    values: dict[str, tuple[str, str]] = field(default_factory=dict)
    before: list[ArrayDifference] = field(default_factory=list)
    arrays: list[ArrayDifference] = field(default_factory=list)
    irreproducible: dict[str, list[str]] = field(default_factory=dict)
    flipped: dict[str, dict[str, list[tuple[str, Element]]]] = field(default_factory=dict)
    checkpoints: dict[str, list[ArrayDifference]] = field(default_factory=dict)
    lawful: dict[str, str] = field(default_factory=dict)
    suspects: list[Suspect] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        plain: dict[str, Any] = as_plain(asdict(self))
        return plain

    def lines(self) -> list[str]:
        """The outcome in words."""
        if self.step is None:
            return [f"equal     all {self.compared:,} steps that both have, to step {self.last:,}"]
        first, *rest = self.parting
        lines = [
            f"first     step {self.step:,}: {STAGES[first]} ({first}); "
            f"{self.compared:,} steps before it are equal",
            *labelled("digest", [f"{name:<12}{a}  {b}" for name, (a, b) in self.values.items()]),
        ]
        if rest:
            lines.append(f"then      {', '.join(rest)}")
        lines += self._array_lines("before it", self.before)
        lines += self._array_lines("after it", self.arrays)
        lines += labelled("verdict", self._verdict())
        for run, changed in self.checkpoints.items():
            what = f"in the checkpoint of {run} before this step, which does not hold its state:"
            lines += labelled("located", [what])
            lines += self._array_lines("", changed)
        for run, by_part in self.flipped.items():
            for part, found in by_part.items():
                lines += labelled("located", [f"in {run}:", *flipped_words(part, found)])
        lines += labelled(
            "suspects",
            [each.words for each in self.suspects]
            or ["none: no config key, version or device that is recorded differs"],
        )
        return lines + labelled("note", self.notes)

    def _array_lines(self, label: str, arrays: list[ArrayDifference]) -> list[str]:
        lines = []
        for array in arrays[:SHOWN]:
            lines.append(array.words)
            lines += [f"  {element.words}" for element in array.elements[:3]]
        if len(arrays) > SHOWN:
            lines.append(f"and {len(arrays) - SHOWN} more arrays")
        return labelled(label, lines)

    def _verdict(self) -> list[str]:
        if not self.irreproducible:
            if self.notes:
                return ["the step could not be computed again in both runs: see the note"]
            return [
                "both runs do this step again with the bits that they have recorded: they differ "
                "by their configs, data or code, not by a fault"
            ]
        lines = []
        for run, names in self.irreproducible.items():
            lines.append(
                f"the journal of {run} cannot be reproduced from step {self.step:,} on, in "
                f"{', '.join(names)}"
            )
            if reason := self.lawful.get(run):
                lines.append(f"  which is to be expected here: {reason}")
            else:
                lines.append("  a fault of the machine that did it (memory, device) is likely")
        return lines


def bisect(left: History, right: History, scratch: Path, say: Say = lambda line: None) -> Bisection:
    """Finds the first step that differs, and computes it again in both runs.

    Args:
        left: one run.
        right: the other one.
        scratch: an empty folder.
        say: receives a line on what is restored.

    Raises:
        ReplayError: a run has no journal, or the journals have no step in common.
    """
    names = left.name, right.name
    steps, unlike = _common(left, right)
    if not unlike.any():
        return Bisection(names, len(steps), int(steps[-1]))
    number = int(np.argmax(unlike))
    step = int(steps[number])
    for history in sorted((left, right), key=lambda each: each.start_of(step).count):
        with contextlib.suppress(ReplayError):  # it becomes a note
            prepare_devices(history, step)
    digests = left.digests(step), right.digests(step)
    different = parting(*digests)
    values = {name: (str(digests[0][name]), str(digests[1][name])) for name in different}
    notes: list[str] = []
    sides = []
    for place, history in enumerate((left, right)):
        try:
            sides.append(_computed(history, step, scratch / f"{place}", say))
        except UserError as error:
            notes.append(f"{history.name}, step {step:,}: {error}")
    found = Bisection(
        names=names,
        compared=number,
        last=int(steps[-1]),
        step=step,
        parting=different,
        values=values,
        before=differences(sides[0].before, sides[1].before) if len(sides) == 2 else [],
        arrays=differences(sides[0].after, sides[1].after) if len(sides) == 2 else [],
        irreproducible={side.history.name: side.wrong for side in sides if side.wrong},
        flipped={side.history.name: _flipped(side) for side in sides if side.wrong},
        checkpoints={side.history.name: side.changed for side in sides if side.changed},
        lawful={
            side.history.name: reason
            for side in sides
            if (reason := lawful_difference(side.history.start_of(step)))
        },
        suspects=suspects(left, right, step, different[0]),
        notes=notes,
    )
    return found


def _common(left: History, right: History) -> tuple[np.ndarray, np.ndarray]:
    """(steps,) the steps of which both journals have digests, and (steps,) bool, which differ.

    Raises:
        ReplayError: there are none.
    """
    for history in (left, right):
        if not len(history.journal.steps):
            raise ReplayError(
                f"{history.name} has no journal, so its steps cannot be compared. Runs write one "
                "unless journal.digest_every=0; `clac-jax ckpt diff` compares two checkpoints."
            )
    rows = left.journal.steps, right.journal.steps
    steps, first, second = np.intersect1d(rows[0]["step"], rows[1]["step"], return_indices=True)
    a, b = rows[0][first], rows[1][second]
    compared, unlike = np.zeros(len(steps), bool), np.zeros(len(steps), bool)
    for number, name in enumerate(DIGESTS):
        if name in STAGES:
            both = (a["present"] & b["present"]) >> number & 1 == 1
            compared |= both
            unlike |= both & (a["digests"][name] != b["digests"][name]).any(axis=-1)
    if not compared.any():
        raise ReplayError(
            f"The journals of {left.name} and {right.name} have no step with digests in common, so "
            "nothing can be compared. Name two runs that have done the same steps."
        )
    return steps[compared], unlike[compared]


def _computed(history: History, step: int, scratch: Path, say: Say) -> Side:
    replayer = Replayer(history, scratch, say)
    replayer.go_to(step)
    before = replayer.arrays()
    changed = []
    if info := replayer.unlike.get(step - 1):
        changed = unlike_saved(before, read_arrays(info, info.leaves))
    done = replayer.do()
    return Side(history, before, done, replayer.arrays(), changed)


def _flipped(side: Side) -> dict[str, list[tuple[str, Element]]]:
    """The elements that explain a digest, by a checkpoint of the step or only by its digest."""
    history, step = side.history, side.done.step
    checkpoint = history.checkpoints.get(step)
    if checkpoint is not None:
        saved = read_arrays(checkpoint, checkpoint.leaves)
        return {
            array.path: [("", element) for element in array.elements]
            for array in unlike_saved(side.after, saved)[:SHOWN]
        }
    recorded: Mapping[str, Digest] = history.digests(step)
    if {"loss", "gradients"} & set(side.wrong):
        return {}
    return explained(side.after, recorded, side.wrong)
