"""Watches the steps of a run, and decides what happens when one goes wrong.

If a step goes wrong, the run goes back to its newest checkpoint and computes all steps up to that
one again. If they have the same bits, data or numerics are to blame: the examples are named, and
the configured action follows. If not, the machine is, once a third pass has agreed with one of the
others. Only an action is recorded: after a kill in the middle of this, the same step goes wrong
again, and leads to the same decision.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ml_collections
import numpy as np

from clac_jax.distributed import processes
from clac_jax.distributed.sending import any_text
from clac_jax.errors import warn
from clac_jax.healing import culprits as culprits_lib
from clac_jax.healing.actions import LOWER_RATE, SKIP, Action, actions_in, gaps_of, scaled, tell
from clac_jax.healing.culprits import Culprit
from clac_jax.healing.errors import FaultyMachineError, GoBack, TrainingDivergedError
from clac_jax.healing.guard import Guard, SpotCheck, Way, advice, local_devices
from clac_jax.healing.passes import Observed, Verdict, compare
from clac_jax.healing.spikes import describe_spike, spike_threshold
from clac_jax.input_pipeline.run_data import RunData
from clac_jax.journal.journal_file import HEALED, Journal
from clac_jax.training.parallel import Parallel
from clac_jax.training.progress import RunProgress
from clac_jax.training.state import TrainState

WENT_BACK = "went_back"
"""The event of the journal that records why a run went back to a checkpoint."""

WriteEvent = Callable[..., None]
"""Takes the name of an event, and its `facts`."""


@dataclass(frozen=True)
class Setting:
    """The parts of a run that a healer needs.

    Attributes:
        progress: where the run begins.
        data: its batches.
        data_name: fingerprint of its training split.
        parallel: placement on the devices.
        probe: (state, batch) -> loss and gradient norm, on all devices.
    """

    progress: RunProgress
    data: RunData
    data_name: str
    parallel: Parallel
    probe: Callable[[TrainState, Any], Mapping[str, Any]]


@dataclass(frozen=True)
class _Suspicion:
    """Something wrong at a step, before it has been replayed.

    Attributes:
        step: its number.
        reason: what is wrong, as a clause.
        is_in_copies: whether copies of the state differ, which neither data nor numerics can cause.
    """

    step: int
    reason: str
    is_in_copies: bool


class Healer:
    """Decides what happens when a step goes wrong; lives as long as the program.

    Attributes:
        actions: what has been done to the run, oldest first.
    """

    def __init__(self, options: ml_collections.ConfigDict):
        """Starts without a suspicion.

        Args:
            options: the group `config.healing`.
        """
        self._options = options
        self.actions: list[Action] = []
        self._unwritten: list[tuple[str, dict[str, Any]]] = []
        self._losses: dict[int, float] = {}
        self._passes: list[dict[int, Observed]] = []
        self._suspicion: _Suspicion | None = None
        self._saves = [0, 0]
        self._is_new = True
        self._setting: Setting
        self._guard: Guard

    def begin(self, setting: Setting, journal: Journal, write_event: WriteEvent) -> None:
        """Follows what is recorded, and records what has been decided since the last start.

        All processes call it, at the start of the run and each time that it has gone back.

        Args:
            setting: the run.
            journal: that of the run, up to `setting.progress`; empty except in the first process.
            write_event: adds an event to it.
        """
        recorded = actions_in(journal.events)
        losses = dict(
            zip(*(journal.steps[name].tolist() for name in ("step", "loss")), strict=True)
        )
        facts = json.dumps([[each.to_json() for each in recorded], self._latest(losses)])
        _, sent = processes.from_first(lambda: ({}, facts.encode()), {})
        known, latest = json.loads(sent)
        if self._is_new:  # later, they are known here, and perhaps not yet recorded
            self.actions = [Action.from_json(each) for each in known]
            for each in self.actions:
                if each.data != setting.data_name:
                    warn(f"The data have changed, so what was healed is undone: {each.describe()}")
        self._is_new, self._setting = False, setting
        self._losses = {int(number): float(loss) for number, loss in latest}
        self._passes.append({})
        setting.data.gaps = gaps_of(self._followed)
        for event, reason in self._unwritten:
            write_event(event, facts=reason)
        for each in self.actions:
            if each not in recorded:
                write_event(HEALED, facts=each.to_json())
        self._unwritten = []

    @property
    def _followed(self) -> list[Action]:
        """The actions that refer to the present data."""
        return [each for each in self.actions if each.data == self._setting.data_name]

    def guard(self, guard: Guard, ways: Callable[[], tuple[Way, Way]]) -> Guard:
        """Prepares the training step of the run.

        Args:
            guard: the step, unwatched.
            ways: makes the two ways in which a step is computed for a spot check.
        """
        self._guard = guard
        if self._options.verify_every:
            guard.spot_check, guard.check_every = SpotCheck(*ways()), self._options.verify_every
        if self._suspicion is not None:
            guard.keep_before = self._suspicion.step
        for each in self._followed:
            if each.action == LOWER_RATE and each.resumed_at > self._setting.progress.step:
                guard.rates.setdefault(each.resumed_at, []).append(each.factor)
        return guard

    def scale(self, scale: float, step: int) -> np.float32:
        """The factor on the learning rate after `step` steps; `scale` is that of the schedule."""
        return scaled(scale, self._followed, step)

    def tell(self) -> str:
        """The story of the run's healing, in a paragraph; "" if nothing was healed."""
        return tell(self.actions)

    def saved(self, step: int) -> None:
        """Notes a save: the one before it is on the disk, so no pass begins before that."""
        self._saves = [self._saves[1], step]
        for each in self._passes:
            for number in [number for number in each if number <= self._saves[0]]:
                del each[number]

    def observe(self, observed: Observed, progress: RunProgress, examples: int) -> None:
        """Looks at a finished step; in all processes, with the same values.

        Does nothing unless healing is enabled.

        Args:
            observed: its values.
            progress: position of the run after the step.
            examples: number of examples of a step.

        Raises:
            GoBack: the steps since the newest checkpoint must be computed again.
            TrainingDivergedError: the step cannot be healed.
            FaultyMachineError: the machine has computed a step wrongly.
        """
        if not self._options.enabled:
            return
        step = observed.step
        self._passes[-1][step] = observed
        verdict = compare(self._passes, step)
        if len(self._passes) > 1:
            verdict = _agreed(verdict)
        if verdict.fault:
            raise FaultyMachineError(f"{verdict.fault} {advice()}")
        if verdict.again:
            self._go_back(step, "it has other values than the first time")
        if self._suspicion is not None and step == self._suspicion.step:
            self._heal(self._suspicion, progress, examples)
        reason = self._trouble(observed)
        if not reason:
            self._losses[step] = observed.loss
            self._losses.pop(step - self._window, None)
        else:
            self._suspicion = _Suspicion(step, reason, reason == observed.unlike)
            self._go_back(step, reason)

    @property
    def _window(self) -> int:
        return int(self._options.spike_window)

    def _latest(self, losses: Mapping[int, float]) -> list[tuple[int, float]]:
        finite = {step: loss for step, loss in losses.items() if math.isfinite(loss)}
        return sorted(finite.items())[-self._window :]

    def _trouble(self, observed: Observed) -> str:
        """The trouble with a step, as a clause; "" if there is none."""
        if observed.unlike and not processes.are_several():  # which only one of them may notice
            return observed.unlike
        if not observed.is_finite:
            return f"the loss was {observed.loss:g} and the gradient norm {observed.grad_norm:g}"
        return describe_spike(
            observed.loss, self._recent(observed.step), self._window, self._options.spike_factor
        )

    def _recent(self, step: int) -> list[float]:
        """The losses of the steps before one."""
        before = {number: loss for number, loss in self._losses.items() if number < step}
        return [loss for _, loss in self._latest(before)]

    def _go_back(self, step: int, reason: str) -> None:
        self._unwritten.append((WENT_BACK, {"at_step": step, "reason": reason}))
        raise GoBack(f"at step {step:,} {reason}")

    def _heal(self, suspicion: _Suspicion, progress: RunProgress, examples: int) -> None:
        """Takes the configured action: the step has the same bits again.

        Raises:
            GoBack: the run continues from the checkpoint, with the action.
            TrainingDivergedError: it has to stop.
            FaultyMachineError: copies of the state differ, or differed the first time.
        """
        observed = self._passes[-1][suspicion.step]
        if observed.unlike or suspicion.is_in_copies:
            often = "each time that" if observed.unlike else "the first time that"
            raise FaultyMachineError(
                f"After step {suspicion.step:,}, {suspicion.reason}, {often} the step was "
                f"computed. {advice()}"
            )
        options, setting = self._options, self._setting
        epoch, start = progress.epoch, progress.examples_in_epoch - examples
        found = self._culprits(observed, epoch, start)
        named = [setting.data.train_example(epoch, each.index) for each in found]
        pairs = list(zip(found, named, strict=True))
        blamed = "; ".join(culprit.describe(*facts) for culprit, facts in pairs)
        action = options.action
        enough = len(self.actions) >= options.max_times
        if action not in (SKIP, LOWER_RATE) or enough or (action == SKIP and not found):
            raise TrainingDivergedError(self._why_stop(suspicion, blamed, enough))
        self.actions.append(
            Action(
                action=action,
                step=suspicion.step,
                reason=suspicion.reason + (f" because of {blamed}" if blamed else ""),
                resumed_at=setting.progress.step,
                epoch=epoch,
                start=start,
                examples=tuple(each.index for each in found) if action == SKIP else (),
                names=tuple(name for name, _ in named) if action == SKIP else (),
                factor=1.0 if action == SKIP else options.rate_factor,
                data=setting.data_name,
            )
        )
        self._suspicion, self._passes = None, []
        raise GoBack(self.actions[-1].describe())

    def _why_stop(self, suspicion: _Suspicion, blamed: str, enough: bool) -> str:
        who = f"To blame: {blamed}." if blamed else "No few examples are to blame."
        if enough:
            most = self._options.max_times
            then = (
                f"The run has healed itself as often as config.healing.max_times = {most} allows. "
                "Look at its data and learning rate; to let it heal itself further, start the same "
                f"command again with --config.healing.max_times={len(self.actions) + max(most, 1)}."
            )
        elif blamed:
            then = "Fix the data, or set config.healing.action=skip or config.dataset.skip."
        else:
            then = "Lower learning_rate or gradient_clip, or set config.healing.action=lower_rate."
        return (
            f"At step {suspicion.step:,} {suspicion.reason}, with the same bits when replayed from "
            f"step {self._setting.progress.step:,}. {who} {then}"
        )

    def _culprits(self, observed: Observed, epoch: int, start: int) -> list[Culprit]:
        """The examples to blame for a step, whose state before it has been kept."""
        setting, state, most = self._setting, self._guard.kept, self._options.max_examples
        assert state is not None
        state = state.replace(ema=None)
        left_out = setting.data.left_out(epoch)
        step = setting.data.step_examples(epoch, start).ravel().tolist()
        examples = [each for each in step if each not in left_out]
        with_only = setting.data.parts_of_step(epoch, start)

        def probe(kept: Iterable[int]) -> tuple[float, float]:
            setting.data.on_eval_batch()  # many batches are computed: a sign of life
            values = setting.parallel.to_host(setting.probe(state, with_only(list(kept))))
            return float(values["loss"]), float(values["grad_norm"])

        if observed.is_finite:
            losses = self._recent(observed.step)
            threshold = spike_threshold(losses, self._options.spike_factor)
            return culprits_lib.above(examples, probe, threshold, most)
        return culprits_lib.not_finite(examples, probe, most)


def _agreed(verdict: Verdict) -> Verdict:
    """The verdict of all processes: a fault that one of them has noticed is one; a collective."""
    where = f" That was on {local_devices()}." if verdict.fault else ""
    fault = any_text(verdict.fault + where)
    again = bool(processes.maximum([int(verdict.again)])()[0])
    return Verdict(again=again and not fault, fault=fault)
