"""Config keys for what a run does on its own when a step goes wrong."""

from __future__ import annotations

from dataclasses import dataclass

from clac_jax.config.effects import NEXT_STEP
from clac_jax.config.key import key


@dataclass(frozen=True)
class Healing:
    """The config group `config.healing`."""

    enabled: bool = key(
        False,
        "whether a run goes back to its newest checkpoint and replays the steps when a loss or "
        "gradient is not finite, or a loss is a spike; otherwise one that is not finite stops it",
    )
    action: str = key(
        "skip",
        "what follows if the replay has the same bits: the examples to blame are left out from "
        "that step on, the learning rate is lowered from the checkpoint on, or the run stops and "
        "names the examples",
        choices=("skip", "lower_rate", "stop"),
    )
    max_times: int = key(3, "actions of a run; after them it stops instead", low=0)
    max_examples: int = key(
        4,
        "examples that may be to blame for one step; if more would be, the parameters are",
        low=1,
    )
    rate_factor: float = key(
        0.5,
        "factor on the learning rate, each time",
        low=0.0,
        high=1.0,
        used_with="healing.action=lower_rate",
    )
    spike_factor: float = key(
        20.0,
        "a loss is a spike this many standard deviations above the median of the steps before it; "
        "the deviation is estimated from the median absolute one; 0: off",
        low=0.0,
    )
    spike_window: int = key(128, "number of these steps", low=8, high=1000)
    verify_every: int = key(
        0,
        "steps between spot checks: a step is computed twice, on other devices where there are "
        "several, and the run ends with exit code 77 if the results differ; 0: never",
        low=0,
        on_change=NEXT_STEP,
    )
