"""Which checkpoints are kept: pure rules, and their form as Orbax's preservation policy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orbax.checkpoint import checkpoint_managers


@dataclass(frozen=True)
class Retention(checkpoint_managers.PreservationPolicy):
    """Keeps the last checkpoint and the best `save_top_k` by a metric.

    A checkpoint without the metric (saved between validations) or with NaN is never among the best.
    Of equal values the earlier checkpoint is the better one: a tie is no improvement.

    Attributes:
        save_top_k: how many of the best to keep beside the last; 0 keeps the last alone.
        monitor: name of the metric.
        mode: "min" or "max", which values are better.
    """

    save_top_k: int
    monitor: str
    mode: str

    def best_first(self, metrics: dict[int, dict[str, float] | None]) -> list[int]:
        """The steps that have the metric, best first."""
        sign = 1.0 if self.mode == "min" else -1.0
        scores = {
            step: sign * values[self.monitor]
            for step, values in metrics.items()
            if values and not math.isnan(values.get(self.monitor, math.nan))
        }
        return sorted(scores, key=lambda step: (scores[step], step))

    def kept(self, metrics: dict[int, dict[str, float] | None]) -> set[int]:
        """The steps to keep, of those given with their metrics."""
        if not metrics:
            return set()
        return {max(metrics), *self.best_first(metrics)[: self.save_top_k]}

    def should_preserve(
        self,
        checkpoints: Sequence[checkpoint_managers.PolicyCheckpointInfo],
        *,
        context: checkpoint_managers.PreservationContext,
    ) -> Sequence[bool]:
        """Orbax's question: one answer per checkpoint."""
        del context
        kept = self.kept({info.step: info.metrics for info in checkpoints})
        return [info.step in kept for info in checkpoints]
