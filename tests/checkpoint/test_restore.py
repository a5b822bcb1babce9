"""A checkpoint restored into a changed model, compared array by array with expectations."""

import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from helpers.states import (
    assert_same,
    epochs,
    make_config,
    make_params,
    make_state,
    save_run,
    shapes_of,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clac_jax.checkpoint.layout import read_info
from clac_jax.checkpoint.matching import RestoreOptions
from clac_jax.checkpoint.restore import TreeMismatchError, restore, write_report
from clac_jax.checkpoint.tree import to_arrays


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(info, arrays) of a checkpoint of `make_state(seed=10)`."""
    workdir = tmp_path_factory.mktemp("run")
    arrays = save_run(workdir, epochs(0.5))[10]
    return read_info(epath.Path(workdir) / "checkpoints" / "10"), arrays


def fresh(params=None, **options):
    return to_arrays(make_state(seed=77, params=params, step=False, **options))


def into(saved, arrays, options=None, initialize=True):
    def make():
        assert initialize, "nothing had to be initialized"
        return arrays

    return restore(saved[0], shapes_of(arrays), options or RestoreOptions(), make)


def test_the_same_model_takes_everything_and_initializes_nothing(saved):
    restored = into(saved, fresh(), initialize=False)
    assert_same(restored.arrays, saved[1])


def test_an_added_layer(saved):
    params = make_params(seed=77) | {"head": {"kernel": jnp.full((3, 2), 9.0)}}
    arrays = fresh(params)
    restored = into(saved, arrays, RestoreOptions(strict=False)).arrays
    for path, leaf in arrays.items():
        expected = leaf if "head" in path else saved[1][path]
        np.testing.assert_array_equal(restored[path], expected, err_msg=path)


def test_a_removed_layer(saved):
    params = make_params()
    del params["text"]
    restored = into(saved, fresh(params), RestoreOptions(strict=False), initialize=False)
    assert_same(restored.arrays, {p: a for p, a in saved[1].items() if "/text/" not in p})
    assert {m.source for m in restored.matches if m.outcome == "dropped"} == {
        path for path in saved[1] if "/text/" in path
    }


def test_a_renamed_layer_with_its_moments(saved):
    params = make_params()
    params["language"] = params.pop("text")
    options = RestoreOptions(rules=(("text/(.*)", r"language/\1"),))
    restored = into(saved, fresh(params), options, initialize=False).arrays
    assert_same(restored, {p.replace("/text/", "/language/"): leaf for p, leaf in saved[1].items()})
    assert np.any(restored["opt_state/inner_state/adam/mu/language/kernel"])


@pytest.mark.parametrize("width", [2, 5])
def test_another_width_by_overlap(saved, width):
    arrays = fresh(make_params(seed=77, width=width))
    options = RestoreOptions(on_shape_mismatch="overlap")
    restored = into(saved, arrays, options).arrays
    for path, leaf in arrays.items():
        expected = np.array(leaf)
        if not ("/adam/" in path and "/graph/" in path):  # moments of a resized array restart
            common = tuple(
                slice(min(a, b)) for a, b in zip(expected.shape, saved[1][path].shape, strict=True)
            )
            expected[common] = saved[1][path][common]
        np.testing.assert_array_equal(restored[path], expected, err_msg=path)


def test_another_width_by_skipping(saved):
    arrays = fresh(make_params(seed=77, width=5))
    restored = into(saved, arrays, RestoreOptions(on_shape_mismatch="skip")).arrays
    for path, leaf in arrays.items():
        expected = leaf if "/graph/" in path else saved[1][path]
        np.testing.assert_array_equal(restored[path], expected, err_msg=path)


def test_only_the_parameters(saved):
    arrays = fresh()
    restored = into(saved, arrays, RestoreOptions(parts=("params",))).arrays
    for path, leaf in arrays.items():
        expected = saved[1][path] if path.startswith("params/") else leaf
        np.testing.assert_array_equal(restored[path], expected, err_msg=path)


@pytest.mark.parametrize("name, kept", [("adam", {"mu", "nu", "count"}), ("lion", set())])
def test_another_optimizer_keeps_what_both_have(saved, name, kept):
    config = make_config()
    config.optimizer.name = name
    arrays = fresh(config=config)
    restored = into(saved, arrays).arrays
    for path, leaf in arrays.items():
        counterpart = saved[1].get(path)
        expected = leaf if counterpart is None else counterpart
        np.testing.assert_array_equal(restored[path], expected, err_msg=path)
    moments = {p.split("/")[3] for p in arrays if f"inner_state/{name}/" in p and p in saved[1]}
    assert moments == kept


def test_every_array_that_does_not_fit_is_named_with_the_flags_that_accept_it(saved):
    params = make_params(width=5) | {"new": {"kernel": jnp.ones(2)}}
    params["language"] = params.pop("text")
    with pytest.raises(TreeMismatchError) as error:
        into(saved, fresh(params))
    message = str(error.value)
    assert "params/graph/kernel: (2, 3) in the checkpoint, (2, 5) in the model" in message
    assert "params/graph/bias: (3,) in the checkpoint, (5,) in the model" in message
    assert "params/new/kernel: (2,)" in message
    assert "params/text/kernel: (4, 4)" in message
    # Following the advice works.
    (rules,) = re.findall(r'--config.restore.rules="(.*)"', message)
    options = RestoreOptions(rules=eval(rules), strict=False, on_shape_mismatch="skip")
    assert "--config.restore.strict=False --config.restore.on_shape_mismatch=skip" in message
    restored = into(saved, fresh(params), options).arrays
    np.testing.assert_array_equal(
        restored["params/language/kernel"], saved[1]["params/text/kernel"]
    )


def test_the_report_accounts_for_every_array(saved, tmp_path):
    params = make_params() | {"head": {"kernel": jnp.ones((3, 2))}}
    del params["text"]
    restored = into(saved, fresh(params), RestoreOptions(strict=False))
    write_report(tmp_path / "report.json", restored.plan)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["step"] == 10
    assert sum(report["counts"].values()) == len(report["arrays"])
    by_outcome = {}
    for array in report["arrays"]:
        by_outcome.setdefault(array["outcome"], []).append(array["path"] or array["source"])
    assert "params/head/kernel" in by_outcome["initialized"]
    assert "params/text/kernel" in by_outcome["dropped"]
    table = restored.plan.describe()
    assert "params/head" in table and "params/text" in table


SHAPE = st.lists(st.integers(1, 3), max_size=3).map(tuple)
SIDE = st.dictionaries(st.sampled_from("abcde"), SHAPE, min_size=1)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SIDE, SIDE, st.sampled_from(["skip", "overlap"]))
def test_any_trees_give_what_a_plain_copy_gives(tmp_path_factory, left, right, on_mismatch):
    """The definition, on random trees: names in common are copied, the rest is initialized."""
    params = {n: {"w": jnp.full(s, 1.0 + k)} for k, (n, s) in enumerate(sorted(left.items()))}
    workdir = tmp_path_factory.mktemp("any")
    arrays = save_run(
        workdir, epochs(0.5), state=lambda seed: make_state(params=params, step=False)
    )[10]
    target = fresh({n: {"w": jnp.full(s, -1.0)} for n, s in sorted(right.items())})
    options = RestoreOptions(strict=False, on_shape_mismatch=on_mismatch)
    info = read_info(epath.Path(workdir) / "checkpoints" / "10")
    restored = restore(info, shapes_of(target), options, lambda: target).arrays
    for path, leaf in target.items():
        expected = np.array(leaf)
        parameter = f"params/{path.partition('/adam/')[2].partition('/')[2]}"
        resized = parameter in arrays and arrays[parameter].shape != target[parameter].shape
        if path in arrays and arrays[path].shape == expected.shape and not resized:
            expected = arrays[path]
        elif "/adam/" in path:  # moments of a resized array restart
            pass
        elif path in arrays and on_mismatch == "overlap" and arrays[path].ndim == expected.ndim:
            for index in np.ndindex(*map(min, expected.shape, arrays[path].shape)):
                expected[index] = arrays[path][index]
        np.testing.assert_array_equal(restored[path], expected, err_msg=path)
