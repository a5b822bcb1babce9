"""Checkpoints with an average of the parameters: what is evaluated, and what is restored."""

import functools
import json

import numpy as np
import pytest
from etils import epath
from helpers.states import begin, changed, make_params, make_state, save_run

from clac_jax.checkpoint.averages import describe_weights, evaluated_path, read_evaluated
from clac_jax.checkpoint.export import export, read_export
from clac_jax.checkpoint.layout import read_info
from clac_jax.checkpoint.resume import REPORT_FILE
from clac_jax.checkpoint.tree import to_arrays
from clac_jax.training.ema import Averaging
from clac_jax.training.progress import RunProgress
from clac_jax.training.state import with_average

STEPS = {3: (RunProgress(step=3, epoch=0, examples_in_epoch=12), None)}
TRAINABLE = {"graph": {"kernel": True, "bias": True}, "text": {"kernel": False}}


def averaged(seed=0, step=True):
    """A state whose average is one more than its parameters."""
    state = with_average(make_state(seed=seed, step=step), Averaging(0.5), TRAINABLE)
    graph = {name: leaf + 1 for name, leaf in state.ema["graph"].items()}
    return state.replace(ema={**state.ema, "graph": graph})


@pytest.fixture
def run(tmp_path):
    """(evaluate, state) -> workdir of a run with one checkpoint."""

    def save(evaluate=True, state=averaged, decay=0.5):
        config = changed(ema__decay=decay, ema__evaluate=evaluate)
        save_run(tmp_path / "run", STEPS, config, state=state)
        return tmp_path / "run"

    return save


def info_of(workdir):
    return read_info(epath.Path(workdir) / "checkpoints" / "3")


def test_the_model_is_the_average_if_the_run_evaluated_it(run):
    info = info_of(run())
    assert evaluated_path(info, "params/graph/kernel") == "ema/graph/kernel"
    assert evaluated_path(info, "params/text/kernel") == "params/text/kernel", "frozen"
    model = read_evaluated(info, ["params/graph/kernel", "batch_stats/norm/mean"])
    expected = to_arrays(averaged(seed=3))
    np.testing.assert_array_equal(model["params/graph/kernel"], expected["ema/graph/kernel"])
    assert describe_weights(info) == "exponential moving average of the parameters (decay 0.5)"


@pytest.mark.parametrize("options", [{"evaluate": False}, {"state": make_state, "decay": 0.0}])
def test_otherwise_it_is_the_parameters(run, options):
    info = info_of(run(**options))
    assert evaluated_path(info, "params/graph/kernel") == "params/graph/kernel"
    assert describe_weights(info) == "parameters of step 3"


def test_an_exported_model_says_which_weights_it_has(run, tmp_path):
    info = info_of(run())
    export(info, tmp_path / "model")
    _, about, arrays = read_export(tmp_path / "model")
    assert about["weights"].startswith("exponential moving average")
    assert {path.split("/")[0] for path in arrays} == {"params", "batch_stats"}
    np.testing.assert_array_equal(
        arrays["params/graph/bias"], to_arrays(averaged(seed=3))["ema/graph/bias"]
    )


def test_an_average_is_resumed_bit_for_bit(run):
    start = begin(run(), changed(ema__decay=0.5), arrays=to_arrays(averaged(77, step=False)))
    expected = to_arrays(averaged(seed=3))
    for path in ("ema/graph/kernel", "ema/graph/bias", "params/graph/kernel"):
        np.testing.assert_array_equal(start.arrays[path], expected[path])


def test_a_run_without_one_continues_with_one_that_begins_at_its_parameters(run):
    workdir = run(state=make_state, decay=0.0)
    start = begin(workdir, changed(ema__decay=0.5), arrays=to_arrays(averaged(77, step=False)))
    saved = to_arrays(make_state(seed=3))
    np.testing.assert_array_equal(start.arrays["ema/graph/kernel"], saved["params/graph/kernel"])
    assert "the average begins at its parameter" in "\n".join(start.notes)
    report = json.loads((workdir / REPORT_FILE).read_text())
    assert report["counts"]["renamed"] == 2 and report["counts"]["initialized"] == 0


def test_a_run_with_one_continues_without(run):
    fresh = to_arrays(make_state(seed=77, step=False))
    start = begin(run(), changed(), arrays=fresh)
    assert not any(path.startswith("ema/") for path in start.arrays)
    assert "dropped" in "\n".join(start.notes)


def test_an_average_of_a_parameter_that_starts_from_scratch_starts_with_it(run):
    workdir = run(state=functools.partial(make_state, width=4), decay=0.0)
    fresh = to_arrays(with_average(
        make_state(77, params=make_params(77), step=False), Averaging(0.5), TRAINABLE
    ))  # fmt: skip
    config = changed(ema__decay=0.5, restore__on_shape_mismatch="skip")
    start = begin(workdir, config, arrays=fresh)
    np.testing.assert_array_equal(
        start.arrays["ema/graph/kernel"], start.arrays["params/graph/kernel"]
    )
    np.testing.assert_array_equal(start.arrays["ema/graph/kernel"], fresh["ema/graph/kernel"])
