"""Which checkpoints are kept: the best, the last and milestones."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clac_jax.checkpoint.retention import Retention

MIN = Retention(save_top_k=2, monitor="val_loss", mode="min")


def losses(**by_step):
    return {int(step[1:]): {"val_loss": value} for step, value in by_step.items()}


def test_best_two_and_the_last():
    assert MIN.kept(losses(s1=0.9, s2=0.1, s3=0.5, s4=0.8)) == {2, 3, 4}


def test_mode_max():
    best = Retention(save_top_k=1, monitor="val_loss", mode="max")
    assert best.kept(losses(s1=0.9, s2=0.1, s3=0.5)) == {1, 3}


def test_zero_keeps_only_the_last():
    assert Retention(0, "val_loss", "min").kept(losses(s1=0.1, s2=0.5)) == {2}


def test_minus_one_keeps_all():
    metrics = losses(s1=0.1, s2=math.nan, s3=0.3) | {4: None}
    assert Retention(-1, "val_loss", "min").kept(metrics) == {1, 2, 3, 4}


def test_a_tie_is_won_by_the_earlier():
    assert Retention(1, "val_loss", "min").kept(losses(s1=0.5, s2=0.5, s3=0.5)) == {1, 3}


def test_nan_and_missing_metrics_are_never_best():
    metrics = losses(s1=math.nan, s2=3.0) | {3: None, 4: {"other": 0.0}, 5: None}
    assert MIN.kept(metrics) == {2, 5}


def test_milestones_stay():
    rules = Retention(0, "val_loss", "min", keep_every_n_steps=100)
    assert rules.kept({step: None for step in range(50, 351, 50)}) == {100, 200, 300, 350}


def test_the_last_may_go_when_the_run_has_ended_and_not_before():
    rules = Retention(1, "val_loss", "min", save_last=False)
    metrics = losses(s1=0.1, s2=0.5)
    assert rules.kept(metrics) == {1, 2}
    assert rules.kept(metrics, ended=True) == {1}
    none_is_best = {1: None, 2: None}
    assert rules.kept(none_is_best, ended=True) == {2}, "never none at all"


def test_says_why():
    rules = Retention(2, "val_loss", "min", keep_every_n_steps=2)
    assert rules.reasons(losses(s1=0.2, s2=0.1, s3=0.3, s4=0.9, s5=0.8)) == {
        1: ["best 2"],
        2: ["best val_loss", "every 2 steps"],
        4: ["every 2 steps"],
        5: ["last"],
    }


@pytest.mark.parametrize("k", [0, 1, 3, 100])
@given(values=st.lists(st.none() | st.floats(allow_nan=True), min_size=1, max_size=10))
def test_keeps_the_last_and_at_most_k_more(k, values):
    metrics = {s: None if v is None else {"val_loss": v} for s, v in enumerate(values)}
    kept = Retention(k, "val_loss", "min").kept(metrics)
    assert max(metrics) in kept
    assert len(kept - {max(metrics)}) <= k
    real = {s: v for s, v in enumerate(values) if v is not None and not math.isnan(v)}
    for value in (v for s, v in real.items() if s not in kept):
        assert sum(other <= value for other in real.values()) - 1 >= k


def test_the_first_checkpoint_after_each_time_stays():
    hours = {10: 0.5, 20: 0.9, 30: 1.2, 40: 1.9, 50: 5.0, 60: 5.1, 70: 6.0}
    rules = Retention(0, "val_loss", "min", keep_every_hours=1.0, hours=hours)
    assert rules.reasons(dict.fromkeys(hours)) == {
        30: ["every 1 h"],
        50: ["every 1 h"],
        70: ["last", "every 1 h"],
    }


def test_a_checkpoint_of_an_earlier_version_has_no_time():
    rules = Retention(0, "val_loss", "min", keep_every_hours=1.0, hours={20: 1.5})
    assert rules.kept({10: None, 20: None, 30: None}) == {20, 30}


@given(
    pauses=st.lists(st.floats(0.01, 5.0), min_size=1, max_size=30),
    every=st.floats(0.05, 4.0),
    restarts=st.sets(st.integers(0, 30)),
)
def test_by_time_a_run_keeps_the_same_whether_or_not_it_is_resumed(pauses, every, restarts):
    """Each save removes what is not kept; a start knows only of the checkpoints that are left."""
    times = {step: sum(pauses[:step]) for step in range(1, len(pauses) + 1)}
    hours, there = {}, set()
    for step, time in times.items():
        hours[step] = time
        there.add(step)
        rules = Retention(0, "val_loss", "min", keep_every_hours=every, hours=hours)
        there = rules.kept(dict.fromkeys(sorted(there)))
        if step in restarts:
            hours = {left: hours[left] for left in there}
    all_at_once = Retention(0, "val_loss", "min", keep_every_hours=every, hours=times)
    assert there == all_at_once.kept(dict.fromkeys(times))
    marks = {math.floor(times[step] / every) for step in there - {max(times)}}
    assert marks | {math.floor(times[max(times)] / every)} >= {
        math.floor(time / every) for time in times.values()
    } - {0}, "one for each multiple that a checkpoint follows"
    assert 0 not in marks
