"""The validation of a run, computed for any arrays of its model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from clac_jax.checkpoint.layout import CheckpointInfo
from clac_jax.checkpoint.tree import from_arrays, to_arrays
from clac_jax.errors import shown
from clac_jax.evaluation.pool import EvaluationError
from clac_jax.replay.setting import Setting, config_of, open_setting


class Validation:
    """The validation split of a run's data and the programs that evaluate a model on it.

    It computes what the run itself writes into a validation row of `metrics.jsonl`.
    """

    def __init__(self, info: CheckpointInfo, data_dir: str | None = None):
        """Opens the data and builds the model.

        Args:
            info: the checkpoint whose config and data are used.
            data_dir: folder of the prepared data; None: that of the config.

        Raises:
            EvaluationError: the validation split has changed since the checkpoint was saved.
            UserError: the data or a file of the config cannot be used.
        """
        config = config_of(info.config, shown(info.folder))
        if data_dir is not None:
            config.dataset.data_dir = data_dir
        self._setting: Setting = open_setting(config)
        now, then = self._setting.fingerprints["validation"], info.data.get("validation")
        if then not in (None, now):
            raise EvaluationError(
                f"The validation split of {config.dataset.name} has changed since "
                f"{shown(info.folder)} was saved: its fingerprint was {then[:12]}, and now is "
                f"{now[:12]}. Restore the data."
            )
        self._model = self._setting.parts.template.model_only()

    @property
    def size(self) -> int:
        """Number of examples of the split."""
        return self._setting.data.split_sizes["validation"]

    def measure(self, arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The measures of a model.

        Args:
            arrays: slash path -> array of its parameters and batch statistics.
        """
        parts, data = self._setting.parts, self._setting.data
        wanted = {path: arrays[path] for path in to_arrays(self._model)}
        state = parts.parallel.put(from_arrays(self._model, wanted))
        measures: dict[str, Any] = parts.task.validate(state, data.eval_batches("validation"))
        return {name: float(value) for name, value in measures.items()}
