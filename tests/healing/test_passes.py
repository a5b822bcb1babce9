"""Two passes that differ need a third, which shows the wrong one."""

import math

import pytest

from clac_jax.healing.passes import Observed, Verdict, compare, differences


def passes(*losses):
    """Passes over step 5 only, with these losses."""
    return [{5: Observed(5, loss, 1.0, {"params": f"{loss}"})} for loss in losses]


def test_equal_passes_need_nothing():
    assert compare(passes(1.0), 5) == Verdict()
    assert compare(passes(1.0, 1.0), 5) == Verdict()
    assert compare(passes(math.nan, math.nan), 5) == Verdict(), "NaN again is the same again"


def test_a_second_pass_that_differs_needs_a_third():
    assert compare(passes(1.0, 2.0), 5) == Verdict(again=True)


@pytest.mark.parametrize(
    "losses, wrong", [((1.0, 2.0, 2.0), "the first time"), ((1.0, 2.0, 1.0), "the second time")]
)
def test_the_third_shows_which_one_was_wrong(losses, wrong):
    fault = compare(passes(*losses), 5).fault
    assert f"Step 5 was computed three times from the same checkpoint, and {wrong}" in fault
    assert "loss and parameters differed" in fault


def test_three_different_results_blame_no_pass():
    assert "three different results" in compare(passes(1.0, 2.0, 3.0), 5).fault


def test_a_step_that_an_earlier_pass_has_not_reached_is_not_compared():
    assert compare([{4: Observed(4, 1.0, 1.0)}, *passes(2.0)], 5) == Verdict()


def test_only_digests_that_both_have_are_compared():
    a, b = Observed(1, 1.0, 1.0, {"params": "a", "loss": "b"}), Observed(1, 1.0, 1.0, {"loss": "c"})
    assert differences(a, b) == ["loss"]
