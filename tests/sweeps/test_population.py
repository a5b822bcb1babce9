"""Who exploits whom, with which keys changed: a function of the results, and of nothing else."""

import dataclasses
import json

import pytest

from clac_jax.sweeps import choice, integer, log
from clac_jax.sweeps.population import (
    Done,
    Plan,
    Population,
    PopulationError,
    active,
    first_plans,
    needed,
    next_plans,
    wrong_rule,
)

SPACE = {
    "learning_rate": log(1e-5, 1e-2),
    "batch_size": integer(2, 64),
    "schedule": choice("constant", "cosine"),
    "cosine.epochs": integer(1, 9, when={"schedule": "cosine"}),
}
EXPLORE = {"learning_rate": (0.8, 1.25), "batch_size": (0.5, 2.0), "schedule": "resample"}


def population(**changes):
    settings = {
        "members": 8,
        "generations": 5,
        "epochs": 1,
        "exploit": 0.25,
        "explore": EXPLORE,
        "space": SPACE,
        "mode": "min",
        "seed": 3,
    }
    return Population(**(settings | changes))


def done(settings, values, generation=0):
    plans = [dataclasses.replace(plan, generation=generation) for plan in first_plans(settings)]
    return [Done(plan, value) for plan, value in zip(plans, values, strict=True)]


def test_the_first_generation_covers_the_range_of_each_key():
    plans = first_plans(population())
    rates = sorted(plan.values["learning_rate"] for plan in plans)
    parts = [1e-5 * 10 ** (3 * k / 8) for k in range(9)]
    assert all(
        low <= rate <= high for low, rate, high in zip(parts, rates, parts[1:], strict=False)
    )
    assert [plan.values["schedule"] for plan in plans].count("cosine") == 4
    assert first_plans(population()) == plans
    assert first_plans(population(seed=4)) != plans
    assert all(plan.parent is None for plan in plans)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_worst_quarter_exploits_the_best_quarter(mode):
    settings = population(mode=mode)
    values = [5.0, 1.0, 7.0, 2.0, 4.0, 3.0, 8.0, 6.0]
    if mode == "max":
        values = [-value for value in values]
    before = done(settings, values)
    plans = next_plans(settings, before)
    assert [plan.member for plan in plans if plan.exploits] == [2, 6]
    for plan in plans:
        assert plan.generation == 1
        if plan.exploits:
            assert plan.parent in (1, 3)
            donor = before[plan.parent].plan.values
            assert {
                **donor,
                **{name: now for name, (_, now) in plan.changed.items()},
            } == plan.values
            assert all(donor[name] == then != now for name, (then, now) in plan.changed.items())
            assert set(plan.changed) <= set(EXPLORE)
        else:
            assert (plan.parent, plan.values) == (plan.member, before[plan.member].plan.values)


def test_a_decision_depends_only_on_the_generation_before():
    settings = population()
    before = done(settings, [5.0, 1.0, 7.0, 2.0, 4.0, 3.0, 8.0, 6.0])
    plans = next_plans(settings, before)
    assert next_plans(settings, before) == plans
    stored = [Plan.from_json(json.loads(json.dumps(plan.to_json()))) for plan in plans]
    assert stored == plans
    # The draws of a member do not move when the result of another changes.
    others = done(settings, [5.0, 1.0, 7.5, 2.0, 4.0, 3.0, 8.0, 6.0])
    again = next_plans(settings, others)
    assert [(p.parent, p.values) for p in again] == [(p.parent, p.values) for p in plans]
    later = done(settings, [5.0, 1.0, 7.0, 2.0, 4.0, 3.0, 8.0, 6.0], generation=1)
    assert [p.values for p in next_plans(settings, later)] != [p.values for p in plans]


def test_all_that_failed_exploit_and_none_is_exploited():
    settings = population()
    before = done(settings, [None, 1.0, None, 2.0, None, None, 8.0, 6.0])
    plans = next_plans(settings, before)
    exploiting = {plan.member: plan.parent for plan in plans if plan.exploits}
    assert set(exploiting) == {0, 2, 4, 5}
    assert set(exploiting.values()) <= {1, 3}
    only = next_plans(settings, done(settings, [None] * 7 + [9.0]))
    assert [plan.parent for plan in only] == [7] * 8
    assert not only[7].exploits


def test_a_generation_without_results_names_the_outputs():
    settings = population()
    with pytest.raises(
        PopulationError, match=r"No member of generation 0 has a result.*output\.txt"
    ):
        next_plans(settings, done(settings, [None] * 8))


def test_equal_members_do_not_exploit_each_other():
    settings = population()
    plans = next_plans(settings, done(settings, [2.0] * 8))
    assert not any(plan.exploits for plan in plans)


def test_new_values_stay_within_the_space_and_whole_numbers_move():
    space = {"learning_rate": log(1e-3, 1.1e-3), "batch_size": integer(1, 64)}
    explore = {"learning_rate": (0.5, 2.0), "batch_size": (0.9, 1.1)}
    settings = population(space=space, explore=explore, members=30, exploit=0.5)
    plans = next_plans(settings, done(settings, [float(k) for k in range(30)]))
    exploiting = [plan for plan in plans if plan.exploits]
    assert len(exploiting) == 15
    for plan in exploiting:
        assert space["learning_rate"].contains(plan.values["learning_rate"])
        assert space["batch_size"].contains(plan.values["batch_size"])
        then, now = plan.changed["batch_size"]
        assert now != then
    assert {now > then for then, now in (plan.changed["batch_size"] for plan in exploiting)} == {
        True,
        False,
    }


def test_a_key_without_effect_keeps_its_value_for_later_and_is_not_set():
    values = {"learning_rate": 1e-3, "batch_size": 8, "schedule": "constant", "cosine.epochs": 4}
    assert list(active(SPACE, values)) == ["learning_rate", "batch_size", "schedule"]
    assert active(SPACE, values | {"schedule": "cosine"})["cosine.epochs"] == 4


def test_parents_of_living_members_are_needed_and_others_of_their_generation_are_not():
    settings = population(members=3, exploit=0.34)
    first = first_plans(settings)
    assert needed(settings, first, [True, True, False]) == {0, 1, 2}
    later = next_plans(settings, done(settings, [2.0, 9.0, 1.0]))
    assert [plan.parent for plan in later] == [0, 2, 2]
    plans = [*first, *later]
    # Until all of generation 1 are stored, any of generation 0 may be started from.
    assert needed(settings, plans[:4], [True] * 3 + [False]) == {0, 1, 2, 3}
    assert needed(settings, plans[:5], [True] * 5) == {0, 1, 2, 3, 4}
    assert needed(settings, plans, [True] * 3 + [False] * 3) == {0, 2, 3, 4, 5}
    assert needed(settings, plans, [True] * 3 + [False, False, True]) == {0, 2, 3, 4, 5}
    assert needed(settings, plans, [True] * 3 + [False, True, True]) == {0, 3, 4, 5}
    assert needed(settings, plans, [True] * 6) == {3, 4, 5}
    assert needed(settings, [], []) == set()


@pytest.mark.parametrize(
    "rule, words",
    [
        ((0.8, 1.25), ""),
        ("resample", ""),
        ((), "Write factors"),
        ((0.8, 0), "Write factors"),
        ("perturb", "Write factors"),
        (True, "Write factors"),
    ],
)
def test_a_wrong_rule_is_explained(rule, words):
    said = wrong_rule("learning_rate", rule, SPACE["learning_rate"])
    assert words in said
    assert bool(words) == bool(said)


def test_a_choice_has_no_factors_and_a_key_must_be_in_the_space():
    assert 'Write "resample"' in wrong_rule("schedule", (0.5, 2), SPACE["schedule"])
    assert "not in the space" in wrong_rule("seed", (0.5, 2), None)
