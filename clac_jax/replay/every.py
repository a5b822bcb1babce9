"""All steps of a stretch of a run, computed again and compared with the journal."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from clac_jax.replay.errors import ReplayError
from clac_jax.replay.replayer import Replayer
from clac_jax.replay.verdict import STAGES, parting

_SECONDS = 15.0
"""Time between two lines of progress where there is no terminal."""


@dataclass(frozen=True)
class Checked:
    """The result of comparing a stretch of steps.

    Attributes:
        first: its first step.
        last: its last step.
        compared: number of steps of which the journal has digests.
        wrong: step -> the digests that differ, in the order of a step.
        seconds: time that it took.
        lawful: why other bits are to be expected at the first wrong step; "" if they are not.
    """

    first: int
    last: int
    compared: int
    wrong: dict[int, list[str]]
    seconds: float
    lawful: str = ""

    @property
    def is_equal(self) -> bool:
        """Whether no step differs."""
        return not self.wrong

    def lines(self) -> list[str]:
        """The result in words."""
        steps = f"steps {self.first:,} to {self.last:,}"
        equal = self.compared - len(self.wrong)
        lines = [
            f"checked   {steps}: {equal:,} of {self.compared:,} equal to the journal "
            f"({self.seconds:.0f} s)"
        ]
        if unknown := self.last + 1 - self.first - self.compared:
            lines.append(f"unknown   {unknown:,} of them: the journal has no record of them")
        if self.wrong:
            step, names = next(iter(self.wrong.items()))
            lines.append(f"first     step {step:,} DIFFERS in {STAGES[names[0]]}")
            if self.lawful:
                lines.append(f"          other bits are to be expected: {self.lawful}")
                lines.append(
                    "          To compare bits, name steps of one such stretch (--from, --to)."
                )
        return lines

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "first": self.first,
            "last": self.last,
            "compared": self.compared,
            "equal": self.compared - len(self.wrong),
            "lawful": self.lawful,
            "wrong": {str(step): names for step, names in self.wrong.items()},
            "seconds": round(self.seconds, 3),
        }


def check_every(replayer: Replayer, first: int, last: int) -> Checked:
    """Computes the steps from `first` to `last` again, and compares their digests.

    Raises:
        ReplayError: the journal has no digests of them, or they are not steps of the run.
    """
    history = replayer.history
    if first > last:
        raise ReplayError(f"--from {first} is after --to {last}. Name an earlier first step.")
    steps = [step for step in range(first, last + 1) if history.digests(step)]
    if not steps:
        raise ReplayError(
            f"The journal of {history.name} has no digests of the steps {first:,} to {last:,}. "
            "Runs record them with journal.digest_every=1; look at one step with --step."
        )
    began = shown = time.monotonic()
    wrong: dict[int, list[str]] = {}
    lawful = ""
    replayer.go_to(first)
    is_terminal = sys.stderr.isatty()
    for step in tqdm(range(first, last + 1), disable=not is_terminal, unit="step"):
        done = replayer.do()
        if different := parting(done.digests, history.digests(step)):
            lawful = lawful if wrong else replayer.lawful
            wrong[step] = different
        if not is_terminal and time.monotonic() - shown > _SECONDS:
            shown = time.monotonic()
            print(f"step {step:,} of {last:,}: {len(wrong)} differ", file=sys.stderr, flush=True)
    return Checked(first, last, len(steps), wrong, time.monotonic() - began, lawful)
