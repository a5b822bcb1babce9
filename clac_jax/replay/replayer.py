"""Steps of a run, computed again from the nearest checkpoint before them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from etils import epath

from clac_jax.checkpoint import resume
from clac_jax.checkpoint.arrays import read_arrays
from clac_jax.checkpoint.damage import DamagedCheckpointError, RemovedCheckpointError
from clac_jax.checkpoint.layout import CHECKPOINTS, CheckpointInfo, read_all
from clac_jax.checkpoint.manager import Checkpoints
from clac_jax.checkpoint.tree import to_arrays
from clac_jax.config import schema as config_lib
from clac_jax.digests.digest import Digest, until_saved
from clac_jax.digests.host import state_digests
from clac_jax.errors import shown
from clac_jax.files.atomic import check_writable, write_atomically
from clac_jax.healing.actions import Action, actions_in, gaps_of, scaled
from clac_jax.input_pipeline.batch import Batch
from clac_jax.replay.devices import lawful_difference
from clac_jax.replay.errors import ReplayError
from clac_jax.replay.history import History
from clac_jax.replay.parent_run import origin_of
from clac_jax.replay.setting import Setting, Stepping, open_setting
from clac_jax.run import fetch
from clac_jax.training.progress import RunProgress
from clac_jax.training.schedules import after_plateau
from clac_jax.training.state import TrainState

Say = Callable[[str], None]


@dataclass(frozen=True)
class Done:
    """A step that was computed again.

    Attributes:
        step: its number, from 1.
        before: position of the run before it.
        metrics: its loss, terms, gradient norm and learning rate.
        digests: name -> digest, as in a record of the journal.
    """

    step: int
    before: RunProgress
    metrics: dict[str, float]
    digests: Mapping[str, Digest]


class Replayer:
    """Moves through the steps of a run; nothing in its workdir is changed.

    The state before a step comes from the nearest checkpoint before it, or is initialized as it
    was; what follows is computed by the program that trained. Where the run was started again with
    another config, the state passes through a checkpoint in a folder of its own, as it did then.

    Attributes:
        history: what the run has recorded.
        setting: the data, model and step at the present position.
        state: the state at the present position, on the devices.
        progress: the present position.
        restored: number of steps of the state that was restored last.
        unlike: step -> checkpoint that does not hold the state that the run has recorded.
    """

    setting: Setting
    state: TrainState
    progress: RunProgress
    restored: int

    def __init__(self, history: History, scratch: Path, say: Say = lambda line: None):
        """Computes nothing yet.

        Args:
            history: what the run has recorded.
            scratch: an empty folder for checkpoints on the way.
            say: receives a line on what is restored, and what cannot be used.
        """
        self.history = history
        self._scratch = scratch
        self._say = say
        self.unlike: dict[int, CheckpointInfo] = {}
        self._bad: set[int] = set()  # steps whose checkpoints cannot be used
        self._lawful: dict[str, None] = {}  # in order
        self._settings: dict[str, Setting] = {}
        self._stepping: Stepping | None = None
        self._batches: Iterator[Batch] | None = None

    def go_to(self, step: int, again: bool = False) -> None:
        """Moves to the position before a step, so that it is the next one.

        Args:
            step: the step.
            again: whether the present state must not be used, even if it is the nearest.

        Raises:
            ReplayError: the step cannot be reached.
            UserError: the data or a checkpoint cannot be used.
        """
        self.history.start_of(step)
        usable = [each.step for each in self.history.before(step) if each.step not in self._bad]
        nearest = max(usable, default=0)
        if again or not (self._stepping and nearest <= self.progress.step < step):
            self._restore(step)
        while self.progress.step < step - 1:
            self.do()
        self.next_batch()

    @property
    def lawful(self) -> str:
        """Why the steps since the last restored state may have other bits; "" if they must not."""
        return "; ".join(self._lawful)

    def next_batch(self) -> None:
        """Passes the end of an epoch and a new start of the run, if the next step comes after."""
        start = self.history.start_of(self.progress.step + 1)
        if reason := lawful_difference(start):
            self._lawful[f"from step {start.step + 1:,} on, {reason}" if start.step else reason] = (
                None
            )
        setting = self._open(self.progress.step + 1)
        if setting is self.setting or not self._continues_epoch():
            self._end_epoch_if_due()
        if setting is not self.setting:
            self._change(setting)
            self._end_epoch_if_due()
        if self._batches is None:
            place = self.progress.epoch, self.progress.examples_in_epoch
            self._batches = self.setting.data.train_batches(*place)

    def take_batch(self) -> Batch:
        """The batch of the next step, which is to be passed to `do`."""
        self.next_batch()
        assert self._batches is not None
        return next(self._batches)

    def do(self, batch: Batch | None = None) -> Done:
        """Computes the next step.

        Args:
            batch: its batch, if `take_batch` was called for it.
        """
        batch = self.take_batch() if batch is None else batch
        assert self._stepping is not None
        config, before = self.setting.config, self.progress
        self.state, metrics = self._stepping.step(self.state, batch)
        self.progress = before.after_step(config.batch_size * config.accumulate_steps)
        has_digests = config.journal.digest_every > 0
        copies = [self._stepping.digests.of(self.state)] if has_digests else []
        values, digests = fetch(self.setting.parts.parallel, metrics, copies)
        if any(each.resumed_at == self.progress.step for each in self._followed(self.setting)):
            self._rescale()
        return Done(self.progress.step, before, values, digests if has_digests else {})

    def arrays(self) -> dict[str, np.ndarray]:
        """Slash path -> array of the present state, on the host."""
        return to_arrays(self.setting.parts.parallel.to_host(self.state))

    def save(self, folder: Path) -> Path:
        """Saves the present state as the only checkpoint of a new workdir; returns its folder.

        Raises:
            ReplayError, WorkdirError: see `check_new`.
        """
        check_new(folder)
        setting, parallel = self.setting, self.setting.parts.parallel
        checkpoints = Checkpoints(
            folder,
            setting.config,
            setting.parts.shapes,
            setting.data.split_sizes["train"],
            data=setting.fingerprints,
        )
        assert self._stepping is not None
        digests = self._stepping.digests.of(self.state)
        arrays = to_arrays(parallel.local(self.state))
        checkpoints.save(arrays, self.progress, None, digests=digests)
        checkpoints.close()
        write_atomically(folder / "config.json", config_lib.to_json(setting.config))
        return folder / CHECKPOINTS / str(self.progress.step)

    def _open(self, step: int) -> Setting:
        """The setting of a step; starts with one config share it."""
        key = json.dumps(self.history.start_of(step).config, sort_keys=True)
        if key not in self._settings:
            setting = open_setting(self.history.config_of(step))
            start = self.history.start_of(step)
            self.history.check_data(start, setting.fingerprints["train"])
            setting.data.gaps = gaps_of(self._followed(setting))
            self._settings[key] = setting
        return self._settings[key]

    def _restore(self, step: int) -> None:
        """The state of the nearest intact checkpoint before a step, or that of the beginning."""
        self._lawful = {}
        for info in self.history.before(step):
            if info.step in self._bad:
                continue
            try:
                if not self._is_unlike(info):
                    self._begin(info.step, resume.Origin(own={info.step: info}))
                    self._say(f"restored  {shown(info.folder)}")
                    return
            except (DamagedCheckpointError, RemovedCheckpointError) as error:
                self._say(f"unusable  {error}")
            self._bad.add(info.step)
        first, origin = self.history.starts[0], origin_of(self.history)
        if origin is None:
            raise ReplayError(
                f"The journal of {self.history.name} begins at step {first.step + 1:,}, and no "
                f"intact checkpoint of step {first.step:,} to {step - 1:,} is left to reach step "
                f"{step:,} from. Name a step after one of {self._kept()}."
            )
        self._begin(first.step, origin)
        names = [each.arrays.name for each in origin.sources]
        if origin.other is not None:
            names = [str(origin.other.folder)]
        self._say(
            f"restored  {shown(', '.join(names)) or 'nothing: a fresh state, as at the start'}"
        )

    def _is_unlike(self, info: CheckpointInfo) -> bool:
        """Whether a checkpoint does not hold the state that the run has recorded."""
        own = {part: Digest.of_text(text) for part, text in info.digests.items()}
        recorded = {**own, **until_saved(self.history.digests(info.step))}
        found = state_digests(read_arrays(info, info.leaves)) if recorded else {}
        parts = [part for part in found if recorded.get(part, found[part]) != found[part]]
        if not parts:
            return False
        self.unlike[info.step] = info
        self._say(
            f"unlike    {shown(info.folder)} does not hold the state that the run has recorded "
            f"at step {info.step:,} ({', '.join(parts)}), and is not used"
        )
        return True

    def _kept(self) -> str:
        steps = sorted(self.history.checkpoints)
        return f"the checkpoints ({', '.join(map(str, steps))})" if steps else "no checkpoint"

    def _begin(self, done: int, origin: resume.Origin) -> None:
        """The state from which a start of the run began, or would have."""
        self._place(self._open(done + 1), origin)
        self.restored = self.progress.step

    def _place(self, setting: Setting, origin: resume.Origin) -> None:
        parts = setting.parts
        self._scratch.mkdir(parents=True, exist_ok=True)
        start = resume.begin(origin, self._scratch, setting.present, parts.shapes, parts.initialize)
        self._stepping = setting.step_from(start.progress)
        self.setting, self.progress = setting, start.progress
        self.state = parts.placed(self._stepping.template, start.arrays)
        if self._followed(setting):
            self._rescale()
        self._batches = None

    def _change(self, setting: Setting) -> None:
        """Starts the run again with another config, from a checkpoint of the present state."""
        folder = self._scratch / f"before_step_{self.progress.step + 1}"
        shutil.rmtree(folder, ignore_errors=True)
        self.save(folder)
        own: dict[int, CheckpointInfo] = read_all(epath.Path(folder) / CHECKPOINTS)[0]
        self._place(setting, resume.Origin(own=own))
        shutil.rmtree(folder, ignore_errors=True)

    def _continues_epoch(self) -> bool:
        """Whether the next step is of this epoch, though no full step of this setting may be left.

        The validation at its end was interrupted, and the next start has smaller steps.
        """
        record = self.history.journal.at(self.progress.step + 1)
        return record is not None and record.epoch == self.progress.epoch

    def _end_epoch_if_due(self) -> None:
        config, done = self.setting.config, self.progress.examples_in_epoch
        if not self.setting.data.ends_epoch(done):
            return
        row = self.history.validation(self.progress.step)
        value = None if row is None else row.get(config.checkpoint.monitor)
        self._batches = None
        progress = self.progress.after_epoch()
        if value is not None:
            progress = progress.after_validation(value, config.checkpoint.mode)
        if config.schedule == "plateau":
            if value is None:
                raise ReplayError(
                    f"metrics.jsonl of {self.history.name} has no {config.checkpoint.monitor} at "
                    f"step {self.progress.step:,}, on which the learning rate of the later steps "
                    "depends (schedule=plateau). Name a step of an earlier epoch, or put the row "
                    "back."
                )
            progress = after_plateau(config, progress, value)
        has_changed = progress.learning_rate_scale != self.progress.learning_rate_scale
        self.progress = progress
        if has_changed:
            self._rescale()

    def _followed(self, setting: Setting) -> list[Action]:
        """The actions by which the run has healed itself, with the data of a setting."""
        data = setting.fingerprints["train"]
        return [each for each in actions_in(self.history.journal.events) if each.data == data]

    def _rescale(self) -> None:
        """Sets the factor on the learning rate: by the plateau schedule and by healing."""
        factor, actions = self.progress.learning_rate_scale, self._followed(self.setting)
        scale = scaled(factor, actions, self.progress.step)
        placed: jax.Array = self.setting.parts.parallel.put(scale)
        self.state = self.state.replace(learning_rate_scale=placed)


def check_new(folder: Path) -> None:
    """Checks that a state can be saved as the only checkpoint of a workdir.

    Raises:
        ReplayError: the folder is not empty.
        WorkdirError: it cannot be made, or written to.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise ReplayError(f"{shown(folder)} is not empty. Name a new folder.")
    check_writable(folder)
