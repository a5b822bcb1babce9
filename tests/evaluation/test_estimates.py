"""Estimates of parts of the pool, and plain JSON."""

import json
import math

import numpy as np

from clac_jax.evaluation.estimates import estimate, for_rows, plain
from clac_jax.evaluation.intervals import Estimate, Resampling, bootstrap


def test_the_groups_follow_the_rows():
    how = Resampling(100, 1, np.array(["a", "b", "a"]))
    assert for_rows(how, np.array([2, 1, 1])).groups.tolist() == ["a", "b", "b"]
    assert for_rows(Resampling(100), np.array([2])).groups is None


def test_the_mean_is_the_default_and_nothing_gives_no_figure():
    values, how = np.array([0.0, 1.0, 1.0]), Resampling(100, 1, np.array([0, 0, 1]))
    assert estimate(values, how) == bootstrap(values, None, how.groups, 100, 1)
    assert estimate(values, how, np.max).value == 1.0
    nothing = estimate(np.zeros(0), how)
    assert nothing.n == 0 and math.isnan(nothing.value)


def test_results_become_json():
    results = {
        "estimate": Estimate(0.5, 0.25, math.nan, 4),
        0.05: {"array": np.array([[1.0, np.nan]]), "number": np.float32(2), "text": "x"},
        "list": [math.inf, None, True],
    }
    assert json.loads(json.dumps(plain(results), allow_nan=False)) == {
        "estimate": {"value": 0.5, "low": 0.25, "high": None, "n": 4},
        "0.05": {"array": [[1.0, None]], "number": 2.0, "text": "x"},
        "list": [None, None, True],
    }
