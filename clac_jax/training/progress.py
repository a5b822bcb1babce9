"""The position of a run, counted in examples, and its book-keeping: a checkpoint's JSON part."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass


@dataclass(frozen=True)
class RunProgress:
    """Everything a run knows about itself besides its TrainState.

    Attributes:
        step: number of optimizer updates done.
        epoch: the epoch that the next example belongs to, from 0.
        examples_in_epoch: number of examples of that epoch already done.
        examples_seen: number of examples done since the start, over all epochs.
        best_value: the best monitored value so far, or None.
        best_step: the step at which it was reached, or None.
        validations_since_best: validations since the best one, for early stopping.
        learning_rate_scale: current factor of the plateau schedule; initially 1.
        plateau_best: the best monitored value that the plateau schedule has seen, or None.
        plateau_validations: validations without improvement since the schedule's last change.
    """

    step: int = 0
    epoch: int = 0
    examples_in_epoch: int = 0
    examples_seen: int = 0
    best_value: float | None = None
    best_step: int | None = None
    validations_since_best: int = 0
    learning_rate_scale: float = 1.0
    plateau_best: float | None = None
    plateau_validations: int = 0

    def after_step(self, examples: int) -> RunProgress:
        """The progress after one more optimizer update of `examples` examples."""
        return dataclasses.replace(
            self,
            step=self.step + 1,
            examples_in_epoch=self.examples_in_epoch + examples,
            examples_seen=self.examples_seen + examples,
        )

    def after_epoch(self) -> RunProgress:
        """The progress at the start of the next epoch."""
        return dataclasses.replace(self, epoch=self.epoch + 1, examples_in_epoch=0)

    def after_validation(self, value: float, mode: str) -> RunProgress:
        """Updates the record of the monitored value; neither NaN nor a tie is an improvement."""
        if _is_better(value, self.best_value, mode):
            return dataclasses.replace(
                self, best_value=value, best_step=self.step, validations_since_best=0
            )
        return dataclasses.replace(self, validations_since_best=self.validations_since_best + 1)

    def after_plateau(
        self, value: float, mode: str, factor: float, patience: int, min_scale: float
    ) -> RunProgress:
        """Updates the plateau schedule with the monitored value of a validation.

        After more than `patience` consecutive validations without improvement, the learning rate is
        multiplied by `factor`, down to `min_scale` times the initial one.
        """
        if _is_better(value, self.plateau_best, mode):
            return dataclasses.replace(self, plateau_best=value, plateau_validations=0)
        if self.plateau_validations < patience:
            return dataclasses.replace(self, plateau_validations=self.plateau_validations + 1)
        scale = max(factor * self.learning_rate_scale, min_scale)
        return dataclasses.replace(self, learning_rate_scale=scale, plateau_validations=0)

    def without_plateau(self) -> RunProgress:
        """The progress with the plateau schedule reset."""
        return dataclasses.replace(
            self, learning_rate_scale=1.0, plateau_best=None, plateau_validations=0
        )

    def without_plateau_memory(self) -> RunProgress:
        """The progress with the plateau's learning rate kept, but its best value reset."""
        return dataclasses.replace(self, plateau_best=None, plateau_validations=0)

    def without_best(self) -> RunProgress:
        """The progress without the history of the monitored value."""
        return dataclasses.replace(self, best_value=None, best_step=None, validations_since_best=0)

    def to_json(self) -> dict[str, int | float | None]:
        """Plain values, as stored in a checkpoint."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, int | float | None]) -> RunProgress:
        """The inverse of `to_json`."""
        return cls(**values)  # type: ignore[arg-type]


def _is_better(value: float, best: float | None, mode: str) -> bool:
    """Whether a value beats the best so far; NaN and ties never do."""
    if math.isnan(value):
        return False
    return best is None or (value < best if mode == "min" else value > best)
