"""Whether a trial of a sweep is ended early."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

from clac_jax.errors import WorkdirError
from clac_jax.reporting.rows import Row
from clac_jax.sweeps.database import import_optuna
from clac_jax.sweeps.definition import PRUNERS, Definition
from clac_jax.sweeps.storage import TrialRecord
from clac_jax.sweeps.study_view import study_of
from clac_jax.sweeps.trial_run import Verdict


class Judge:
    """Judges a trial by its validation rows; used as `watch` of `run_trial`.

    The verdict on a row is a function of the sweep file, of the rows so far and of the results of
    the trials numbered up to n - parallel. So it is the same at any time and on any machine.

    Attributes:
        values: (step, epoch, monitored value) of each row so far.
        has_stopped: whether the trial is to be ended early.
    """

    def __init__(
        self, definition: Definition, trials: Sequence[TrialRecord], number: int, epochs: int
    ):
        """Sees no row yet.

        Args:
            definition: the sweep, complete.
            trials: the trials before this one, by number.
            number: number of this one.
            epochs: its epochs, if it is not ended early; no verdict is needed on the last one.
        """
        self.values: list[tuple[int, int, float]] = []
        self.has_stopped = False
        self._monitor, self._epochs = definition.monitor, epochs
        self._trial: Any = None
        self._study: Any = None
        self._number = number
        if definition.prune is not None:
            pruner = pruner_of(definition, epochs)
            self._study = study_of(definition, trials, number, pruner=pruner)
            self._trial = self._study.ask()

    def __call__(self, row: Row) -> Verdict:
        """The verdict on the next row.

        Raises:
            WorkdirError: the row has no number as its value of the monitor.
        """
        epoch = int(row["epoch"])
        try:
            value = float(row[self._monitor])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise WorkdirError(
                f"A validation row in its metrics.jsonl (epoch {epoch}) has no number as "
                f"{self._monitor}. Fix or remove that line, or monitor another measure."
            ) from error
        self.values.append((int(row["step"]), epoch, value))
        if self._trial is None or math.isnan(value):
            return Verdict.CONTINUE
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of experimental arguments, of few values
            self._trial.report(value, epoch + 1)
            self.has_stopped = epoch + 1 < self._epochs and bool(self._trial.should_prune())
        return Verdict.STOP if self.has_stopped else Verdict.CONTINUE

    def state(self) -> dict[str, Any]:
        """The notes of the pruner about this trial, for the trials after it."""
        return {} if self._study is None else dict(self._study.trials[self._number].system_attrs)


def pruner_of(definition: Definition, epochs: int) -> Any:
    """The pruner of Optuna that a sweep file names.

    Raises:
        ValueError: Optuna does not take its options.
    """
    assert definition.prune is not None
    pruners, given = import_optuna().pruners, definition.prune
    options = {**PRUNERS[given["name"]], **given}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of experimental classes
        if options["name"] == "median":
            return pruners.MedianPruner(
                n_startup_trials=int(options["startup_trials"]),
                n_warmup_steps=int(options["warmup_epochs"]),
            )
        if options["name"] == "wilcoxon":
            return pruners.WilcoxonPruner(
                p_threshold=options["p_threshold"], n_startup_steps=int(options["startup_epochs"])
            )
        least, reduction = int(options["min_epochs"]), int(options["reduction"])
        if options["name"] == "hyperband":
            return pruners.HyperbandPruner(
                min_resource=least, max_resource=max(epochs, least), reduction_factor=reduction
            )
        return pruners.SuccessiveHalvingPruner(min_resource=least, reduction_factor=reduction)
