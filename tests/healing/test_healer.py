"""The decisions of a healer, without a model: the steps are made up."""

import math
from typing import NamedTuple

import numpy as np
import pytest
from helpers.crystals import rock_salt

from clac_jax.config.schema import default_config
from clac_jax.crystals.graph import build_graph
from clac_jax.healing.actions import Action
from clac_jax.healing.errors import FaultyMachineError, GoBack, TrainingDivergedError
from clac_jax.healing.guard import Guard
from clac_jax.healing.healer import WENT_BACK, Healer, Setting
from clac_jax.healing.passes import Observed
from clac_jax.input_pipeline.example import ExampleViews
from clac_jax.journal.journal_file import HEALED, Journal
from clac_jax.journal.record import DTYPE
from clac_jax.training.progress import RunProgress

GRAPH = build_graph(rock_salt(), 3.0)
BAD = 5


class Data:
    """Four examples per step; `BAD` is in the fourth step of every epoch of 16."""

    gaps = ()
    on_eval_batch = staticmethod(lambda: None)

    def left_out(self, epoch):
        return frozenset().union(*(gap.examples for gap in self.gaps))

    def step_examples(self, epoch, start):
        row = [BAD if start == 12 and k == 2 else 100 + start + k for k in range(4)]
        return np.array([row])

    def parts_of_step(self, epoch, start):
        return lambda kept: kept

    def train_example(self, epoch, index):
        return f"mp-{index}", ExampleViews(index, (GRAPH,), ())


class Host:
    """A placement that leaves everything on the host."""

    def to_host(self, tree):
        return tree

    put = to_host


class State(NamedTuple):
    learning_rate_scale: np.ndarray

    def replace(self, **changes):
        changes.pop("ema", None)
        return self._replace(**changes)


class Run:
    """A run that a healer watches; it goes back to its step 0."""

    def __init__(self, wrong=None, **options):
        config = default_config().healing
        config.enabled = True
        config.spike_window = 8
        for name, value in options.items():
            config[name] = value
        self.healer = Healer(config)
        self.unlike = lambda number, step: ""
        self.events = []
        self.wrong = wrong or (lambda number, step: math.nan if step == 4 else 1.0)
        self.number = 0

    def probe(self, state, kept):
        loss = math.nan if BAD in kept else 1.0
        return {"loss": np.float32(loss), "grad_norm": np.float32(1.0)}

    def again(self, events=None):
        """The next pass over the steps: 6 of them, or fewer; returns the last one's number."""
        self.number += 1
        self.data = Data()
        setting = Setting(RunProgress(), self.data, "data", Host(), self.probe)
        journal = Journal(np.zeros(0, DTYPE), self.events if events is None else events)
        self.healer.begin(setting, journal, self.record)
        step = lambda state, batch: (state, {})  # noqa: E731
        self.guard = self.healer.guard(Guard(step, Host(), 0), lambda: pytest.fail("no spot check"))
        state, progress = State(self.healer.scale(1.0, 0)), RunProgress()
        for number in range(1, 7):
            state, _ = self.guard(state, None)
            progress = progress.after_step(4)
            loss = self.wrong(self.number, number)
            if BAD in self.data.left_out(0) and number == 4:
                loss = 1.0
            unlike = self.unlike(self.number, number)
            observed = Observed(number, loss, 1.0, {"loss": str(loss)}, unlike)
            self.healer.observe(observed, progress, 4)
        return state

    def record(self, event, facts):
        self.events.append({"event": event, "step": 0, "start": self.number, **facts})


def test_a_replay_with_the_same_bits_leaves_out_the_example(capsys):
    run = Run()
    with pytest.raises(GoBack, match="at step 4 the loss was nan"):
        run.again()
    with pytest.raises(GoBack, match=r"example 5 .mp-5. is left out"):
        run.again()
    run.again()
    assert [event["event"] for event in run.events] == [WENT_BACK, HEALED]
    (gap,) = run.data.gaps
    assert (gap.epoch, gap.start, gap.examples) == (0, 12, {BAD})


@pytest.mark.parametrize("action", ["skip", "lower_rate", "stop"])
@pytest.mark.parametrize("last, often", [(1, "the first time that"), (2, "each time that")])
def test_copies_of_the_state_that_differed_are_the_fault_of_the_machine(action, last, often):
    """Also if the step is right when it is computed again: no example is to blame for that."""
    run, reason = Run(lambda number, step: 1.0, action=action), "devices 0 and 1 had two states"
    run.unlike = lambda number, step: reason if step == 4 and number <= last else ""
    with pytest.raises(GoBack, match=reason):
        run.again()
    with pytest.raises(FaultyMachineError, match=f"{reason}, {often}"):
        run.again()
    assert run.healer.actions == []


@pytest.mark.parametrize("factor", [0.5, 0.3])
def test_rates_lowered_twice_at_one_checkpoint_count_twice_after_an_older_one(factor):
    action = {"reason": "x", "resumed_at": 3, "epoch": 0, "start": 12, "data": "data"}
    both = [Action("lower_rate", step, factor=factor, **action) for step in (4, 5)]
    events = [{"event": HEALED, "step": 3, "start": 1, **each.to_json()} for each in both]
    run = Run(lambda number, step: 1.0)
    assert run.again(events).learning_rate_scale == run.healer.scale(1.0, 6)
    assert run.healer.scale(1.0, 6) == np.float32(np.float32(factor) * np.float32(factor))


def test_a_later_start_follows_what_is_recorded():
    run = Run()
    for _ in range(2):
        with pytest.raises(GoBack):
            run.again()
    run.again()
    after_a_kill = Run()
    after_a_kill.again(events=run.events)
    assert after_a_kill.healer.actions == run.healer.actions
    assert after_a_kill.events == [], "it is recorded already"


def test_actions_are_not_followed_with_other_data(capsys):
    run = Run()
    for _ in range(2):
        with pytest.raises(GoBack):
            run.again()
    run.again()
    for event in run.events:
        event["data"] = "other data"
    with pytest.raises(GoBack):
        Run().again(events=run.events)
    assert "The data have changed" in capsys.readouterr().err


def test_a_kill_before_the_decision_leads_to_the_same_decision():
    decided = []
    for kills in (0, 1):
        run = Run()
        for _ in range(kills):
            with pytest.raises(GoBack):
                run.again()
            run = Run()
        for _ in range(2):
            with pytest.raises(GoBack):
                run.again()
        decided.append(run.healer.actions)
    assert decided[0] == decided[1]


@pytest.mark.parametrize("first", [2, 4])
def test_a_replay_with_other_bits_blames_the_machine_after_a_third(first):
    """A bit was wrong in the first pass, and seen at its step 4 by everyone."""
    run = Run(lambda number, step: (math.nan if step == 4 else 9.0) if number == 1 and step >= first
              else 1.0)  # fmt: skip
    for match in ("the loss was nan", "other values"):
        with pytest.raises(GoBack, match=match):
            run.again()
    with pytest.raises(FaultyMachineError, match=f"Step {first} was computed three times.*first"):
        run.again()
    assert FaultyMachineError.exit_code == 77


def test_parameters_that_are_to_blame_cannot_be_skipped():
    run = Run(lambda number, step: math.nan if step == 3 else 1.0)
    run.probe = lambda state, kept: {"loss": np.float32(np.nan), "grad_norm": np.float32(np.nan)}
    with pytest.raises(GoBack):
        run.again()
    with pytest.raises(TrainingDivergedError, match="No few examples are to blame"):
        run.again()


def test_the_learning_rate_is_lowered_from_the_checkpoint_on():
    run = Run(action="lower_rate", rate_factor=0.25)
    for _ in range(2):
        with pytest.raises(GoBack):
            run.again()
    run.wrong = lambda number, step: 1.0
    assert run.again().learning_rate_scale == np.float32(0.25)
    assert run.data.gaps == ()


def test_a_resume_from_before_lowers_it_at_the_recorded_step():
    run = Run(action="lower_rate", rate_factor=0.25)
    for _ in range(2):
        with pytest.raises(GoBack):
            run.again()
    run.wrong = lambda number, step: 1.0
    run.again()
    for event in run.events:
        event["resumed_at"] = 3  # as if that checkpoint were gone
    later = Run(lambda number, step: 1.0)
    assert later.again(events=run.events).learning_rate_scale == np.float32(0.25)
    assert later.healer.scale(1.0, 2) == 1.0


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"action": "stop"}, r"set config\.healing\.action=skip"),
        ({"max_times": 0}, r"same command again with --config\.healing\.max_times=1\.$"),
    ],
)
def test_stops_and_names_the_example_and_the_key(options, advice):
    run = Run(**options)
    with pytest.raises(GoBack):
        run.again()
    with pytest.raises(TrainingDivergedError, match=rf"example 5 .mp-5; 8 atoms.*{advice}"):
        run.again()


def test_does_nothing_unless_enabled():
    Run(enabled=False).again()
