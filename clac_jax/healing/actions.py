"""The changes of healing to a run: the examples that it leaves out, and its learning rate."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clac_jax.input_pipeline.run_data import Gap
from clac_jax.journal.journal_file import HEALED

SKIP, LOWER_RATE, STOP = "skip", "lower_rate", "stop"
ACTIONS = (SKIP, LOWER_RATE, STOP)


@dataclass(frozen=True)
class Action:
    """One change to a run.

    Attributes:
        action: "skip" or "lower_rate".
        step: the step at which something was wrong.
        reason: what was wrong, as a clause.
        resumed_at: step of the checkpoint from which the run continued; a lower learning rate
            applies from the step after it.
        epoch: epoch of `step`.
        start: number of examples of that epoch before `step`; "skip" applies from there on.
        examples: the examples that are left out, by their index in the training split.
        names: their material ids.
        factor: factor on the learning rate; 1 for "skip".
        data: fingerprint of the training split, to which the indices refer.
    """

    action: str
    step: int
    reason: str
    resumed_at: int
    epoch: int
    start: int
    examples: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    factor: float = 1.0
    data: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` is the inverse."""
        values = dataclasses.asdict(self)
        values["at_step"] = values.pop("step")  # "step" of an event is that of the run
        values["start_example"] = values.pop("start")
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Action:
        """The action in an event of the journal.

        Raises:
            KeyError, TypeError, ValueError: it is not one.
        """
        return cls(
            action=str(values["action"]),
            step=int(values["at_step"]),
            reason=str(values["reason"]),
            resumed_at=int(values["resumed_at"]),
            epoch=int(values["epoch"]),
            start=int(values["start_example"]),
            examples=tuple(map(int, values["examples"])),
            names=tuple(map(str, values["names"])),
            factor=float(values["factor"]),
            data=str(values["data"]),
        )

    def describe(self) -> str:
        """A sentence for people."""
        before = (
            f"At step {self.step:,} {self.reason}; replayed from step {self.resumed_at:,}, it had "
            "the same bits, so the machine is not to blame. "
        )
        if self.action == LOWER_RATE:
            return before + (
                f"From step {self.resumed_at + 1:,} on, the learning rate is multiplied by "
                f"{self.factor:g}."
            )
        pairs = zip(self.examples, self.names, strict=True)
        listed = ", ".join(f"{number} ({name})" for number, name in pairs)
        if len(self.examples) > 1:
            return f"{before}From that step on, examples {listed} are left out."
        return f"{before}From that step on, example {listed} is left out."


def actions_in(events: Iterable[Mapping[str, Any]]) -> list[Action]:
    """The actions among the events of a journal, in their order."""
    return [Action.from_json(event) for event in events if event.get("event") == HEALED]


def gaps_of(actions: Iterable[Action]) -> tuple[Gap, ...]:
    """The examples that actions leave out."""
    return tuple(
        Gap(each.epoch, each.start, frozenset(each.examples))
        for each in actions
        if each.action == SKIP
    )


def scaled(scale: float, actions: Sequence[Action], step: int) -> np.float32:
    """A factor on the learning rate after all actions that apply once `step` steps are done.

    Rounded after each of them, so that it does not matter when the run was started.
    """
    result = np.float32(scale)
    for each in actions:
        if each.action == LOWER_RATE and each.resumed_at <= step:
            result = np.float32(result * np.float32(each.factor))
    return result


def tell(actions: Sequence[Action]) -> str:
    """The story of a run's healing, in a paragraph; "" if nothing was healed."""
    if not actions:
        return ""
    times = {1: "once", 2: "twice"}.get(len(actions), f"{len(actions)} times")
    return " ".join(
        [f"This run has healed itself {times}.", *(each.describe() for each in actions)]
    )
