"""Passes over the same steps, compared: which values differ, and which pass is the odd one out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from clac_jax.digests.digest import TOTAL
from clac_jax.journal.record import DIGESTS

_WORDS = {
    "grad_norm": "gradient norm",
    "ids": "the batch",
    "texts": "its texts",
    "crystals": "its crystals",
    "batch_stats": "batch statistics",
    "opt_state": "optimizer state",
    "ema": "averaged parameters",
    "params": "parameters",
}


@dataclass(frozen=True)
class Observed:
    """The results of a finished step that are on the host.

    Attributes:
        step: its number.
        loss: the loss, before the update.
        grad_norm: norm of the gradient, before clipping.
        digests: name -> digest, as text; of the batch, the gradient, the state after the step...
        unlike: which device has a copy of the state that differs from the others', as a clause; ""
            if none has.
    """

    step: int
    loss: float
    grad_norm: float
    digests: Mapping[str, str] = field(default_factory=dict)
    unlike: str = ""

    @property
    def is_finite(self) -> bool:
        """Whether loss and gradient are finite."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


Pass = Mapping[int, Observed]
"""Step -> what was observed of it, in one pass over some steps."""


def differences(a: Observed, b: Observed) -> list[str]:
    """The names of what differs: the loss, the gradient norm, and digests that both have."""
    values = [
        name for name in ("loss", "grad_norm") if not _equal(getattr(a, name), getattr(b, name))
    ]
    unlike = {name for name, digest in a.digests.items() if b.digests.get(name, digest) != digest}
    if len(unlike) > 1:
        unlike.discard(TOTAL)  # the parts say more
    in_order = [name for name in DIGESTS if name in unlike]
    return list(dict.fromkeys([*values, *in_order]))


@dataclass(frozen=True)
class Verdict:
    """The comparison of a step with the same step in earlier passes.

    Attributes:
        again: whether another pass is needed, to find out which one is wrong.
        fault: what differed, as sentences, if the machine is to blame; "" otherwise.
    """

    again: bool = False
    fault: str = ""


def compare(passes: Sequence[Pass], step: int) -> Verdict:
    """Compares the last pass with those before it, at one step.

    Two passes that differ show that one of them is wrong; a third one shows which. It is the one
    that the third does not agree with.

    Args:
        passes: oldest first; at most three.
        step: a step of the last one.
    """
    now = passes[-1][step]
    earlier = [each.get(step) for each in passes[:-1]]
    unlike = [None if then is None else differences(then, now) for then in earlier]
    if not any(unlike):
        return Verdict()
    if len(passes) < 3:
        return Verdict(again=True)
    if unlike[1] == []:
        wrong, which = unlike[0] or [], "the first time"
    elif unlike[0] == []:
        wrong, which = unlike[1] or [], "the second time"
    else:
        return Verdict(
            fault=f"Step {step:,} was computed three times, with three different results"
            f" ({_listed(unlike[1] or unlike[0] or [])} differ)."
        )
    return Verdict(
        fault=f"Step {step:,} was computed three times from the same checkpoint, and {which} "
        f"{_listed(wrong)} differed from the two other times, which agree with each other."
    )


def _equal(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


def _listed(names: Sequence[str]) -> str:
    names = [_WORDS.get(name, name) for name in names]
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]
