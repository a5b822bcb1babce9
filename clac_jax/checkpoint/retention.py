"""The rules, on steps and metrics only, for which checkpoints of a run are kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clac_jax.errors import counted

KEEP_ALL = -1

StepMetrics = Mapping[int, Mapping[str, float] | None]


@dataclass(frozen=True)
class Retention:
    """Keeps the last checkpoint, the best `save_top_k` by a metric, and milestones by step or time.

    A checkpoint without the metric (saved between validations) or with NaN is never among the best.
    Of equal values the earlier checkpoint is better: a tie is not an improvement.

    Attributes:
        save_top_k: number of best checkpoints to keep; 0 for none, -1 for all.
        monitor: name of the metric.
        mode: "min" or "max", the better direction.
        keep_every_n_steps: checkpoints at multiples of this step are kept permanently; 0 for none.
        keep_every_hours: the first checkpoint after each multiple of this time of training is kept
            permanently; 0 for none.
        save_last: whether the last one is kept after the run has ended; until then it always is.
        earlier_best: steps that were best by metrics that cannot be compared any more, latest
            metric first; they are kept.
        hours: step -> hours that the run had trained at its checkpoint; the run adds each save.
    """

    save_top_k: int
    monitor: str
    mode: str
    keep_every_n_steps: int = 0
    keep_every_hours: float = 0.0
    save_last: bool = True
    earlier_best: tuple[int, ...] = ()
    hours: dict[int, float] = field(default_factory=dict)

    @property
    def num_best(self) -> int | None:
        """Number of best checkpoints to keep; None for all."""
        return None if self.save_top_k == KEEP_ALL else self.save_top_k

    @classmethod
    def from_config(cls, options: Any) -> Retention:
        """The rules in the group `checkpoint` of a config, a ConfigDict or a checkpoint's dict."""
        return cls(
            save_top_k=options["save_top_k"],
            monitor=options["monitor"],
            mode=options["mode"],
            keep_every_n_steps=options["keep_every_n_steps"],
            keep_every_hours=options.get("keep_every_hours", 0.0),  # absent in older checkpoints
            save_last=options["save_last"],
        )

    def best_first(self, metrics: StepMetrics) -> list[int]:
        """The steps that have the metric, best first."""
        sign = 1.0 if self.mode == "min" else -1.0
        scores = {
            step: sign * values[self.monitor]
            for step, values in metrics.items()
            if values and not math.isnan(values.get(self.monitor, math.nan))
        }
        return sorted(scores, key=lambda step: (scores[step], step))

    def reasons(self, metrics: StepMetrics, ended: bool = False) -> dict[int, list[str]]:
        """Step -> the reasons to keep it, in words; steps that are not kept are left out.

        Args:
            metrics: step -> metrics of its checkpoint, or None without a validation.
            ended: whether the run has ended, so that nothing will resume from the last checkpoint.
        """
        kept: dict[int, list[str]] = {step: [] for step in sorted(metrics)}
        if metrics and (self.save_last or not ended):
            kept[max(metrics)].append("last")
        for place, step in enumerate(self.best_first(metrics)[: self.num_best], start=1):
            kept[step].append(f"best {self.monitor}" if place == 1 else f"best {place}")
        by_time = self._first_by_time()
        for step in metrics:
            if step in self.earlier_best:
                kept[step].append("best by an earlier measure")
            if self.keep_every_n_steps and step % self.keep_every_n_steps == 0:
                kept[step].append(f"every {counted(self.keep_every_n_steps, 'step')}")
            if step in by_time:
                kept[step].append(f"every {self.keep_every_hours:g} h")
            if self.save_top_k == KEEP_ALL:
                kept[step].append("all are")
        return {step: why for step, why in kept.items() if why}

    def kept(self, metrics: StepMetrics, ended: bool = False) -> set[int]:
        """The steps to keep; never empty if there are any."""
        return set(self.reasons(metrics, ended)) or set(sorted(metrics)[-1:])

    def _first_by_time(self) -> set[int]:
        """The first step after each multiple of `keep_every_hours`.

        A step is the first one when it is saved or never, so that the removal of others, which
        are not, changes nothing.
        """
        if not self.keep_every_hours:
            return set()
        first: dict[int, int] = {}
        for step in sorted(self.hours):
            first.setdefault(math.floor(self.hours[step] / self.keep_every_hours), step)
        return {step for multiple, step in first.items() if multiple > 0}
