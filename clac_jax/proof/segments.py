"""Random stretches of a run between its checkpoints, computed again."""

from __future__ import annotations

import dataclasses
import itertools
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clac_jax.checkpoint.arrays import read_arrays
from clac_jax.checkpoint.layout import CheckpointInfo
from clac_jax.distributed.program_facts import machine_settings, source_digest
from clac_jax.replay.devices import lawful_difference
from clac_jax.replay.differences import ArrayDifference, unlike_saved
from clac_jax.replay.history import History, Start
from clac_jax.replay.replayer import Done, Replayer
from clac_jax.replay.verdict import STAGES, parting
from clac_jax.reporting.start_facts import cpu_model

_EXACT = ("ids", "texts")  # digests that do not depend on the machine


@dataclass(frozen=True)
class Stretch:
    """Steps between two positions from which a run can be computed again.

    Attributes:
        first: its first step.
        last: its last step.
    """

    first: int
    last: int

    @property
    def length(self) -> int:
        """Number of steps."""
        return self.last - self.first + 1


@dataclass(frozen=True)
class Limits:
    """The amount of steps to compute again.

    Attributes:
        segments: number of stretches.
        steps: largest number of steps of each; 0: all.
        seed: makes the choice repeatable; None: a different choice each time.
        minutes: time after which no further step is computed; 0: no limit.
        tolerance: largest relative difference that is put down to rounding on another machine.
    """

    segments: int = 1
    steps: int = 40
    seed: int | None = None
    minutes: float = 0.0
    tolerance: float = 1e-3


@dataclass(frozen=True)
class Segment:
    """A stretch that was computed again.

    Attributes:
        first: its first step.
        last: the last step that was computed; before `first` if there was no time for one.
        compared: number of steps of which the journal has digests.
        wrong: step -> digests that differ, in the order of a step.
        arrays: arrays that differ from the checkpoint at its end; None if there is none.
        largest: largest relative difference of loss, gradient norm and parameters.
        lawful: why other bits are to be expected here; "" if they are not.
        tolerance: see `Limits`.
    """

    first: int
    last: int
    compared: int = 0
    wrong: Mapping[int, Sequence[str]] = field(default_factory=dict)
    arrays: Sequence[ArrayDifference] | None = None
    largest: float = 0.0
    lawful: str = ""
    tolerance: float = 0.0

    @property
    def steps(self) -> str:
        """The steps in words."""
        return f"{self.first:,}-{self.last:,}" if self.last > self.first else f"{self.first:,}"

    @property
    def is_compared(self) -> bool:
        """Whether there was anything to compare with."""
        return self.compared > 0 or self.arrays is not None

    @property
    def is_equal(self) -> bool:
        """Whether all that was compared is equal bit for bit."""
        return self.is_compared and not self.wrong and not self.arrays

    @property
    def agrees(self) -> bool:
        """Whether it is equal, or differs by no more than rounding where that is lawful."""
        if self.is_equal:
            return True
        exact = any(name in _EXACT for names in self.wrong.values() for name in names)
        is_close = self.is_compared and self.largest <= self.tolerance
        return bool(self.lawful) and is_close and not exact

    @property
    def words(self) -> str:
        """The result in words."""
        if not self.is_compared:
            return "computed again, with nothing recorded to compare with"
        if self.is_equal:
            return "equal"
        if self.agrees:
            return (
                f"agrees within {self.largest:.1e} (tolerance {self.tolerance:.0e}), not bit for "
                f"bit, because {self.lawful}"
            )
        words = []
        if self.wrong:
            step, names = next(iter(self.wrong.items()))
            words.append(f"step {step:,} DIFFERS in {STAGES[names[0]]}")
        if self.arrays:
            count = len(self.arrays)
            differ = "array DIFFERS" if count == 1 else "arrays DIFFER"
            words.append(f"{count} {differ}: {self.arrays[0].words}")
        by = f", by {self.largest:.1e} (tolerance {self.tolerance:.0e})" if self.lawful else ""
        because = f", although {self.lawful}" if self.lawful else ""
        return "; ".join(words) + by + because

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "first": self.first,
            "last": self.last,
            "compared": self.compared,
            "bit_for_bit": self.is_equal,
            "agrees": self.agrees,
            "wrong": {str(step): list(names) for step, names in self.wrong.items()},
            "arrays": None if self.arrays is None else [each.words for each in self.arrays],
            "largest_difference": self.largest,
            "lawful": self.lawful,
            "tolerance": self.tolerance,
        }


def stretches(history: History, last: int, can_begin: bool = True) -> list[Stretch]:
    """The stretches that can be computed again, from the beginning or a checkpoint each.

    Args:
        history: what the run has recorded.
        last: the last step that its chain covers.
        can_begin: whether that from which the run began is still there.
    """
    first = history.starts[0].step
    places = sorted(
        ({first} if can_begin else set()) | {step for step in history.checkpoints if step >= first}
    )
    pairs = itertools.pairwise([*places, last])
    return [Stretch(begin + 1, end) for begin, end in pairs if end > begin]


def choose(found: Sequence[Stretch], limits: Limits) -> list[Stretch]:
    """Random stretches, each as likely as it is long, in the order of their steps."""
    random_numbers = random.Random(limits.seed)
    left, chosen = list(found), list[Stretch]()
    while left and len(chosen) < limits.segments:
        weights = [each.length for each in left]
        chosen.append(random_numbers.choices(left, weights)[0])
        left.remove(chosen[-1])
    return sorted(chosen, key=lambda each: each.first)


def recompute(replayer: Replayer, chosen: Sequence[Stretch], limits: Limits) -> list[Segment]:
    """Computes stretches again, and compares every step with the journal.

    The state after the last step is compared with the checkpoint of that step, if there is one.

    Raises:
        ReplayError: a step cannot be reached.
        UserError: the data or a checkpoint cannot be used.
    """
    until = time.monotonic() + 60 * limits.minutes if limits.minutes else float("inf")
    results: list[Segment] = []
    for stretch in chosen:
        last = stretch.last
        has_digests = any(replayer.history.digests(step) for step in range(stretch.first, last + 1))
        if limits.steps and has_digests:  # else only the checkpoint at its end can be compared
            last = min(last, stretch.first + limits.steps - 1)
        if time.monotonic() < until:
            before = results[-1] if results else None
            is_exact = before is not None and before.is_equal and before.last == stretch.first - 1
            part = Stretch(stretch.first, last)
            results.append(_segment(replayer, part, limits, until, is_exact))
    return results


def _segment(
    replayer: Replayer, stretch: Stretch, limits: Limits, until: float, is_exact: bool
) -> Segment:
    """Computes a stretch again.

    `is_exact`: the present state is that of the run before it. One that was rounded otherwise
    would carry its differences into this stretch, in which they may not be lawful.
    """
    history = replayer.history
    wrong: dict[int, Sequence[str]] = {}
    compared, largest, done = 0, 0.0, stretch.first - 1
    replayer.go_to(stretch.first, again=not is_exact)
    since = stretch.first if is_exact else replayer.restored + 1
    for step in range(stretch.first, stretch.last + 1):
        if time.monotonic() > until:
            break
        result = replayer.do()
        done = step
        compared += bool(history.digests(step))
        if different := parting(result.digests, history.digests(step)):
            wrong[step] = different
        largest = max(largest, _relative(history, result))
    segment = Segment(stretch.first, done, compared, wrong, largest=largest)
    checkpoint = history.checkpoints.get(done) if done >= stretch.first else None
    if checkpoint is not None:
        unlike, by = _compare(replayer, checkpoint)
        segment = dataclasses.replace(segment, arrays=unlike, largest=max(largest, by))
    if segment.is_equal:
        return dataclasses.replace(segment, largest=0.0)
    reasons = _reasons(history, since, min(wrong, default=max(done, stretch.first)))
    return dataclasses.replace(segment, lawful=reasons, tolerance=limits.tolerance)


def _reasons(history: History, first: int, last: int) -> str:
    """Why the state after `last` may have other bits if it is computed from before `first`."""
    starts = [history.start_of(first), *(s for s in history.starts if first <= s.step < last)]
    found: dict[str, str] = {}  # reason -> from when on
    for start in starts:
        since = f"from step {start.step + 1:,} on, " if start.step >= first else ""
        if reason := why_lawful(start):
            found.setdefault(reason, since)
    return "; ".join(since + reason for reason, since in found.items())


def _compare(replayer: Replayer, checkpoint: CheckpointInfo) -> tuple[list[ArrayDifference], float]:
    """The arrays that differ from those of a checkpoint, and by how much the parameters do."""
    own, saved = replayer.arrays(), read_arrays(checkpoint, checkpoint.leaves)
    unlike = unlike_saved(own, saved)
    squares, norms = 0.0, 0.0
    for path in saved:
        if path.startswith("params/") and path in own and own[path].shape == saved[path].shape:
            now, then = own[path].astype(np.float64), saved[path].astype(np.float64)
            squares += float(np.sum((now - then) ** 2))
            norms += float(np.sum(then**2))
    return unlike, float(np.sqrt(squares / norms)) if norms else 0.0


def _relative(history: History, done: Done) -> float:
    """The largest relative difference of the loss and the gradient norm from the journal."""
    record = history.journal.at(done.step)
    if record is None:
        return 0.0
    pairs = ((done.metrics["loss"], record.loss), (done.metrics["grad_norm"], record.grad_norm))
    return max(abs(now - then) / max(abs(float(then)), 1e-12) for now, then in pairs)


def why_lawful(start: Start) -> str:
    """Why the steps of a start may have other bits on this machine; "" if they must be equal."""
    facts, reasons = start.facts, []
    if found := lawful_difference(start):
        reasons.append(found)
    if facts.get("cpu") not in (None, cpu_model()):
        reasons.append(f"the processor was {facts['cpu']} and is {cpu_model()}")
    if facts.get("source") not in (None, source_digest()):
        reasons.append("the source of clac_jax was different")
    settings = facts.get("settings")
    if isinstance(settings, Mapping):
        now = machine_settings()
        reasons += [
            f"{name} was {then or 'not set'} and is {now.get(name) or 'not set'}"
            for name, then in settings.items()
            if now.get(name) != then
        ]
    return "; ".join(reasons)
