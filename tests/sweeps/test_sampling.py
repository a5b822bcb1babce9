"""The values of trials and the verdicts on them: pure functions of earlier results."""

import dataclasses
import json
import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clac_jax.sweeps import choice, integer, log, uniform
from clac_jax.sweeps.definition import (
    BOUNDS,
    PRUNERS,
    SAMPLER_OPTIONS,
    SAMPLERS,
    Definition,
)
from clac_jax.sweeps.pruning import Judge
from clac_jax.sweeps.sampling import propose, trials_at_most
from clac_jax.sweeps.space import is_active
from clac_jax.sweeps.storage import State
from clac_jax.sweeps.study_view import PRUNER_STATE, first_end, revived
from clac_jax.sweeps.trial_run import Verdict

EPOCHS = 6
SWEEP = Definition(
    config="smoke",
    space={
        "x": log(1e-4, 1.0),
        "kind": choice("a", ("b", 1), None),
        "y": uniform(-1.0, 1.0, when={"kind": "a"}),
        "n": integer(1, 5),
    },
    monitor="val_loss",
    mode="min",
    budget={"trials": 14},
    parallel=3,
)


def loss(params, epoch):
    return abs(math.log10(params["x"]) + 2) + 0.1 * params["n"] + 1 / (epoch + 1)


def ran(definition, trial, trials):
    """The trial with its result, stored and read again."""
    judge, state = Judge(definition, trials, trial.number, EPOCHS), State.COMPLETE
    for epoch in range(EPOCHS):
        row = {"step": epoch + 1, "epoch": epoch, "val_loss": loss(trial.params, epoch)}
        if judge(row) is Verdict.STOP:
            state = State.PRUNED
            break
    best = definition.best([value for _, _, value in judge.values])
    result = {"value": best, "values": judge.values, PRUNER_STATE: judge.state()}
    plain = json.loads(json.dumps({"result": result, "extra": trial.extra}))
    return dataclasses.replace(trial, state=state, **plain)


def swept(definition, number=14):
    trials = []
    for n in range(number):
        trials.append(ran(definition, propose(definition, trials, n), trials))
    return trials


@pytest.mark.parametrize(
    "name",
    [pytest.param(each, marks=pytest.mark.slow) if each == "cmaes" else each for each in SAMPLERS],
)
@given(seed=st.integers(0, 2**40), data=st.data())
@settings(max_examples=8)
def test_proposals_are_in_range_and_repeatable(name, seed, data):
    low = data.draw(st.floats(1e-6, 1e3))
    first = data.draw(st.integers(-5, 5))
    space = {
        **SWEEP.space,
        "x": log(low, low * data.draw(st.floats(1.001, 1e6))),
        "n": integer(first, first + data.draw(st.integers(1, 9))),
    }
    sweep = dataclasses.replace(SWEEP, space=space, seed=seed, sampler={"name": name})
    trials = []
    for n in range(4):
        trial = propose(sweep, trials, n)
        assert trial == propose(sweep, trials, n)
        for key, domain in space.items():
            assert (key in trial.params) == is_active(domain, trial.params)
            assert key not in trial.params or domain.contains(trial.params[key])
        values = [[1, 0, float(n)]]
        result = {"value": float(n), "values": values}
        trials.append(dataclasses.replace(trial, state=State.COMPLETE, result=result))


@pytest.mark.parametrize("name", ["tpe", pytest.param("cmaes", marks=pytest.mark.slow)])
def test_a_sampler_learns_from_results_up_to_n_minus_parallel_only(name):
    sweep = dataclasses.replace(SWEEP, sampler={"name": name})
    trials = swept(sweep, 13)

    def proposal(changed):
        other = [dataclasses.replace(t, result={"value": 9.0, "values": [[1, 0, 9.0]]})
                 if t.number == changed else t for t in trials]  # fmt: skip
        return propose(sweep, other, 13).params

    known = 13 - sweep.parallel
    expected = propose(sweep, trials, 13).params
    assert all(proposal(number) == expected for number in range(known + 1, 13))
    assert any(proposal(number) != expected for number in range(known + 1))


def test_tpe_finds_better_values_than_chance():
    def later(name, **options):
        """The mean value of the second half of the trials, over three seeds."""
        sampler = {"name": name, **options}
        sweeps = [dataclasses.replace(SWEEP, sampler=sampler, seed=seed) for seed in range(3)]
        return statistics.mean(trial.value for sweep in sweeps for trial in swept(sweep, 30)[15:])

    assert later("tpe", startup_trials=8) < 0.9 * later("random")


def test_a_grid_has_each_point_once_and_ends_the_sweep():
    sweep = dataclasses.replace(SWEEP, sampler={"name": "grid", "points": 2}, budget={})
    number = trials_at_most(sweep)
    assert number == 2 * 2 * (2 + 1 + 1)  # y only has an effect with one of three kinds
    points = {repr(propose(sweep, [], n).params) for n in range(number)}
    assert len(points) == number
    other = dataclasses.replace(sweep, seed=1)
    assert {repr(propose(other, [], n).params) for n in range(number)} == points
    assert propose(other, [], 0) != propose(sweep, [], 0), "in another order"
    assert trials_at_most(dataclasses.replace(sweep, budget={"trials": 5})) == 5
    assert trials_at_most(dataclasses.replace(SWEEP, budget={"hours": 1})) is None


def test_quasi_random_points_are_spread_evenly():
    sweep = dataclasses.replace(SWEEP, sampler={"name": "qmc"}, space={"x": uniform(0.0, 1.0)})
    points = sorted(propose(sweep, [], n).params["x"] for n in range(8))
    assert [int(point * 8) for point in points] == list(range(8))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(each, marks=pytest.mark.slow) if each == "wilcoxon" else each
        for each in PRUNERS
    ],
)
def test_pruners_end_bad_trials_and_are_repeatable(name):
    sweep = dataclasses.replace(
        SWEEP, space={"x": log(1e-4, 1.0), "n": integer(1, 5)},
        sampler={"name": "random"}, prune={"name": name}, budget={"trials": 24},
    )  # fmt: skip
    trials = swept(sweep, 24)
    assert trials == swept(sweep, 24)
    pruned = [trial for trial in trials if trial.state is State.PRUNED]
    complete = [trial for trial in trials if trial.state is State.COMPLETE]
    assert pruned and complete
    assert min(t.value for t in complete) == min(loss(t.params, EPOCHS - 1) for t in trials)
    assert all(len(trial.values) < EPOCHS for trial in pruned), "not at the last epoch"


@pytest.mark.parametrize("end", [0, 1], ids=["least", "largest"])
@pytest.mark.parametrize(
    ("part", "name", "option"),
    [
        (part, name, option)
        for part, table in (("prune", PRUNERS), ("sampler", SAMPLER_OPTIONS))
        for name, options in table.items()
        for option in options
    ],
)
def test_both_ends_of_the_range_of_an_option_can_be_used(part, name, option, end):
    setting = {"name": name, option: BOUNDS[option][end]}
    space = {"x": log(1e-4, 1.0)} if name == "grid" else SWEEP.space
    sweep = dataclasses.replace(SWEEP, space=space, **{part: setting})
    assert BOUNDS[option][0] <= {**PRUNERS, **SAMPLER_OPTIONS}[name][option] <= BOUNDS[option][1]
    trials = []
    for n in range(3):
        if n < (trials_at_most(sweep) or 0):
            proposed = propose(sweep, trials, n)
            params = proposed.params
            # A grid of one key has no value for the other one of the loss.
            complete = dataclasses.replace(proposed, params={"n": 1, **params})
            trials.append(dataclasses.replace(ran(sweep, complete, trials), params=params))
    assert trials


def test_a_verdict_is_the_same_if_rows_are_shown_again():
    sweep = dataclasses.replace(SWEEP, sampler={"name": "random"}, prune={"name": "hyperband"})
    trials = swept(sweep)
    for trial in trials[6:]:
        again = ran(sweep, dataclasses.replace(trial, state=State.RUNNING, result={}), trials)
        assert again == trial


def test_other_trials_do_not_depend_on_a_revived_one():
    sweep = dataclasses.replace(SWEEP, prune={"name": "median", "startup_trials": 2})
    trials = swept(sweep)
    pruned = next(trial for trial in trials if trial.state is State.PRUNED)
    again = dataclasses.replace(pruned, state=State.WAITING, extra=revived(pruned), result={})
    complete = dataclasses.replace(again, state=State.COMPLETE, result={"value": -9.0})
    for other in (again, complete):
        assert first_end(other).result == pruned.result
        shown = [other if trial is pruned else trial for trial in trials]
        assert propose(sweep, shown, 14).params == propose(sweep, trials, 14).params


def test_nan_is_neither_judged_nor_learned_from():
    sweep = dataclasses.replace(SWEEP, prune={"name": "median", "startup_trials": 0})
    trials = swept(sweep, 6)
    judge = Judge(sweep, trials, 6, EPOCHS)
    row = {"step": 1, "epoch": 0, "val_loss": math.nan}
    assert judge(row) is Verdict.CONTINUE
    failed = dataclasses.replace(trials[0], result={"value": None, "values": judge.values})
    assert propose(sweep, [failed, *trials[1:]], 6).params
