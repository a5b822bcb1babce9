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
