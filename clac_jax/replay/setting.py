"""The data, model and step of one config of a run, opened to look rather than to train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ml_collections

from clac_jax.checkpoint.changes import Present
from clac_jax.config import check as config_check
from clac_jax.config import schema as config_lib
from clac_jax.distributed.share import share_of_process
from clac_jax.errors import one_line
from clac_jax.files.paths import local_path
from clac_jax.input_pipeline.run_data import RunData
from clac_jax.models.encoders import encoder_needs
from clac_jax.replay.errors import ReplayError
from clac_jax.run_parts import Parts, make_parts
from clac_jax.session import set_xla_flags
from clac_jax.tasks import make_task
from clac_jax.training.compilation_cache import use_compilation_cache
from clac_jax.training.parallel import make_parallel
from clac_jax.training.progress import RunProgress
from clac_jax.training.schedules import Timeline, make_schedule, timeline_of
from clac_jax.training.state import TrainState
from clac_jax.training.state_digests import StateDigests
from clac_jax.training.step import TrainStep


@dataclass(frozen=True)
class Stepping:
    """The programs of a step.

    Attributes:
        template: shapes and dtypes of the state on the host.
        step: the training step; reuses the memory of the state that it receives.
        digests: computes the digests of a state.
    """

    template: TrainState
    step: TrainStep
    digests: StateDigests


@dataclass(frozen=True)
class Setting:
    """Everything that one config of a run determines.

    Attributes:
        config: the config, complete and checked.
        data: its batches.
        parts: its model, optimizer and step.
        fingerprints: split name -> fingerprint of its data.
    """

    config: ml_collections.ConfigDict
    data: RunData
    parts: Parts
    fingerprints: Mapping[str, str]
    _steps: dict[Timeline, Stepping] = field(default_factory=dict)

    @property
    def present(self) -> Present:
        """Config and data, as a restore compares them with those of a checkpoint."""
        return Present(self.config, self.data.split_sizes["train"], self.fingerprints)

    def step_from(self, progress: RunProgress) -> Stepping:
        """The programs of a run that starts at a position."""
        timeline = timeline_of(self.config, self.data.split_sizes["train"], progress)
        if timeline not in self._steps:
            schedule = make_schedule(self.config, timeline)
            template = self.parts.scheduled(schedule)
            self._steps[timeline] = Stepping(
                template,
                self.parts.train_step(schedule),
                StateDigests(self.parts.parallel, template),
            )
        return self._steps[timeline]


def config_of(values: Mapping[str, Any], run: str) -> ml_collections.ConfigDict:
    """A config that a run has recorded, ready to be used.

    Args:
        values: the nested config.
        run: name of the run, for the message.

    Raises:
        ReplayError: this version cannot read it.
    """
    try:
        return config_check.ready(config_lib.from_plain(dict(values)))
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise ReplayError(
            f"The config that {run} has recorded is not one of this version of clac_jax: "
            f"{one_line(error)} Use the version that wrote it (`clac-jax ckpt show` names it)."
        ) from error


def open_setting(config: ml_collections.ConfigDict) -> Setting:
    """Opens the data and builds the model; nothing is written except to the user's caches.

    Raises:
        UserError: the data or a file of the config cannot be used.
    """
    set_xla_flags(config)
    if config.compilation_cache:
        cache = local_path(config.compilation_cache, "config.compilation_cache", "a local cache")
        use_compilation_cache(cache)
    parallel = make_parallel(config)
    data = RunData(config, encoder_needs(config), share_of_process())
    task = make_task(config, data, parallel)
    parts = make_parts(config, task, data.example_batch(), parallel)
    fingerprints = {split: data.splits.fingerprint(split) for split in data.split_sizes}
    return Setting(config, data, parts, fingerprints)
