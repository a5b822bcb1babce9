"""Which checkpoint is tested at the end of a run."""

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from helpers.states import epochs, make_params, make_state, save_run, shapes_of

from clac_jax.checkpoint.arrays import MissingArraysError, read_arrays
from clac_jax.checkpoint.best import read_best
from clac_jax.checkpoint.layout import read_all
from clac_jax.checkpoint.tree import to_arrays

BEST_FIRST = [20, 30, 10]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """({step: description}, {step: arrays}) of a run whose best checkpoint is at step 20."""
    workdir = tmp_path_factory.mktemp("run")
    arrays = save_run(workdir, epochs(0.5, 0.2, 0.4))
    return read_all(epath.Path(workdir) / "checkpoints")[0], arrays


def shapes(params=None, **options):
    return shapes_of(to_arrays(make_state(params=params, **options).model_only()))


def test_only_parameters_and_statistics_are_read(saved):
    step, arrays = read_best(saved[0], BEST_FIRST, shapes(), 40)
    assert step == 20
    assert {path.split("/")[0] for path in arrays} == {"params", "batch_stats"}
    for path, leaf in arrays.items():
        np.testing.assert_array_equal(leaf, saved[1][20][path], err_msg=path)


def test_the_state_at_hand_needs_no_reading(saved):
    assert read_best(saved[0], BEST_FIRST, shapes(), 20) == (20, {})
    assert read_best(saved[0], [], shapes(), 40) == (40, {})


MISFITS = {
    "a wider model": (
        lambda: make_params(width=5),
        "params/graph/bias and 1 more have another shape",
    ),
    "a new module": (
        lambda: make_params() | {"new": {"kernel": jnp.ones(2)}},
        "it lacks params/new/kernel",
    ),
    "a module less": (
        lambda: {"graph": make_params()["graph"]},
        "the model has no params/text/kernel",
    ),
}


@pytest.mark.parametrize("make, why", MISFITS.values(), ids=MISFITS)
def test_a_checkpoint_of_a_different_model_is_skipped_and_named(saved, make, why, capsys):
    intact = dict(saved[0])
    assert read_best(intact, BEST_FIRST, shapes(make()), 40) == (40, {})
    said = capsys.readouterr().err
    for step in BEST_FIRST:
        assert f"checkpoints/{step} is not tested: its parameters are not the model's" in said
    assert why in said


def test_the_next_best_that_fits_is_taken(saved, tmp_path, capsys):
    wide = make_state(seed=1, width=5)
    save_run(tmp_path, {30: epochs(0.5, 0.2, 0.4)[30]}, state=lambda seed: wide)
    intact = saved[0] | read_all(epath.Path(tmp_path) / "checkpoints")[0]
    step, arrays = read_best(intact, BEST_FIRST, shapes(make_params(width=5)), 40)
    assert step == 30
    np.testing.assert_array_equal(arrays["params/graph/kernel"], wide.params["graph"]["kernel"])
    assert "20 is not tested" in capsys.readouterr().err


def test_arrays_come_in_the_dtype_of_the_model(saved):
    params = make_params()
    params["text"]["kernel"] = params["text"]["kernel"].astype(jnp.bfloat16)
    _, arrays = read_best(saved[0], BEST_FIRST, shapes(params), 40)
    assert arrays["params/text/kernel"].dtype == jnp.bfloat16


def test_a_name_that_a_checkpoint_lacks_is_not_a_failing_disk(saved):
    with pytest.raises(MissingArraysError, match=r"20 does not hold params/none"):
        read_arrays(saved[0][20], ["params/none", "step"])
