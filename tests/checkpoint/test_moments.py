"""Adam's bias correction follows the moments through every change of the model."""

import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath
from helpers.formats import FORMATS
from helpers.states import epochs, make_config, make_params, make_state, save_run, shapes_of

from clac_jax.checkpoint import resume
from clac_jax.checkpoint.changes import Present
from clac_jax.checkpoint.layout import read_info
from clac_jax.checkpoint.matching import RestoreOptions, problems
from clac_jax.checkpoint.restore import restore
from clac_jax.checkpoint.tree import from_arrays, to_arrays
from clac_jax.training import optim

FORMAT_1 = FORMATS / "1" / "run"
RATE = 1e-2
ADAM = "opt_state/inner_state/adam"


def config(**changes):
    result = make_config(save_top_k=-1)
    result.learning_rate, result.weight_decay, result.gradient_clip = RATE, 0.0, 0.0
    result.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return result


def gradients(params, number):
    return jax.tree.map(lambda leaf: jnp.cos(leaf + number), params)


def steps(state, count, frozen=()):
    """The state after some more updates."""
    trainable = optim.trainable_mask(state.params, frozen)
    for number in range(count):
        found = gradients(state.params, number)
        state = state.apply_gradients(grads=jax.tree.map(lambda g, t: g * t, found, trainable))
    return state


@functools.cache
def saved_run(folder, frozen, count):
    """The state after `count` updates, and the description of its checkpoint."""
    state = steps(make_state(step=False, config=config(frozen=frozen)), count, frozen)
    save_run(folder, {10: epochs(0.5)[10]}, state=lambda seed: state)
    return state, read_info(epath.Path(folder) / "checkpoints" / "10")


def resumed(info, **options):
    """The state restored from a checkpoint for a model in which everything is trained."""
    params = options.pop("params", None)
    fresh = make_state(step=False, config=config(), params=params)
    arrays = restore(
        info, shapes_of(to_arrays(fresh)), RestoreOptions(**options), lambda: to_arrays(fresh)
    ).arrays
    return from_arrays(fresh, arrays)


def moved(before, after):
    """|change| divided by the learning rate, by parameter path."""
    change = jax.tree.map(lambda a, b: np.abs(b - a) / RATE, before.params, after.params)
    return {path.removeprefix("params/"): leaf for path, leaf in flat(change).items()}


def flat(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_with_equal_counts_every_bit_is_that_of_optax(compiled):
    params = make_params() | {"scale": jnp.float32(2.0)}
    ours, theirs = optim.scale_by_adam(0.9, 0.999, 1e-8), optax.scale_by_adam(0.9, 0.999, 1e-8)
    states = ours.init(params), theirs.init(params)
    update = [jax.jit(tx.update) if compiled else tx.update for tx in (ours, theirs)]
    for number in range(6):
        grads = gradients(params, number)
        (left, ours_next), (right, theirs_next) = (
            function(grads, state) for function, state in zip(update, states, strict=True)
        )
        states = ours_next, theirs_next
        for pair in (
            (left, right),
            *((getattr(ours_next, k), getattr(theirs_next, k)) for k in ("mu", "nu")),
        ):
            jax.tree.map(np.testing.assert_array_equal, *pair)
    assert set(map(int, jax.tree.leaves(states[0].count))) == {int(states[1].count)} == {6}


def test_unfrozen_parameters_take_the_first_step_of_a_fresh_adam(tmp_path):
    frozen = ("text/.*",)
    state, info = saved_run(tmp_path, frozen, 200)
    before = resumed(info)
    after = steps(before, 1)
    # With the count of the other parameters it would be 3 times the learning rate.
    np.testing.assert_allclose(moved(before, after)["text/kernel"], 1.0, rtol=1e-3)
    still_frozen = steps(state, 1, frozen)
    for path in ("kernel", "bias"):
        np.testing.assert_array_equal(
            after.params["graph"][path], still_frozen.params["graph"][path]
        )


@pytest.mark.parametrize("rules", [(("graph/.*", None),), (("graph/kernel", None),)])
def test_a_module_trained_from_scratch_takes_the_first_step_of_a_fresh_adam(tmp_path, rules):
    state, info = saved_run(tmp_path, (), 200)
    before = resumed(info, rules=rules)
    after, undisturbed = steps(before, 1), steps(state, 1)
    for path, size in moved(before, after).items():
        if path == "graph/kernel" or (path == "graph/bias" and rules[0][0] == "graph/.*"):
            np.testing.assert_allclose(size, 1.0, rtol=1e-3, err_msg=path)
        else:
            np.testing.assert_array_equal(
                flat(after.params)[path], flat(undisturbed.params)[path], err_msg=path
            )


@pytest.mark.parametrize("on_mismatch", ["skip", "overlap"])
def test_moments_of_a_different_shape_start_over_with_their_count(tmp_path, on_mismatch):
    _, info = saved_run(tmp_path, (), 200)
    before = resumed(info, on_shape_mismatch=on_mismatch, params=make_params(seed=9, width=5))
    sizes = moved(before, steps(before, 1))
    for path in ("graph/kernel", "graph/bias"):
        np.testing.assert_allclose(sizes[path], 1.0, rtol=1e-3)
    assert int(before.opt_state.inner_state["adam"].count["text"]["kernel"]) == 200


def test_a_checkpoint_with_one_count_for_all_restores_without_complaint(tmp_path):
    """A stored checkpoint of format 1, after five updates."""
    shutil.copytree(FORMAT_1, tmp_path / "run")
    fresh = to_arrays(make_state(step=False))
    origin = resume.find_origin(make_config(), tmp_path / "run")
    now = Present(make_config(), 100, {})
    start = resume.begin(origin, tmp_path / "run", now, shapes_of(fresh), lambda: fresh)
    assert start.progress.step == 5
    assert not [line for line in start.notes if "initialized" in line or "dropped" in line]
    counts = {path: int(leaf) for path, leaf in start.arrays.items() if "/adam/count/" in path}
    assert len(counts) == 3 and set(counts.values()) == {5}
    matches = restore(origin.own[5], shapes_of(fresh), RestoreOptions(), lambda: fresh).matches
    assert {m.outcome for m in matches} == {"restored"}
    assert problems(matches, RestoreOptions()) == []


def test_a_run_with_one_count_for_all_continues_to_the_same_bits(tmp_path):
    """Compared with optax's Adam, whose state is in the old checkpoints."""
    options, params = config(), make_params(seed=3)
    theirs = optax.named_chain(
        ("adam", optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)),
        ("learning_rate", optax.scale_by_learning_rate(lambda _: RATE)),
    )
    theirs = optax.masked(theirs, jax.tree.map(lambda _: True, params))
    old = steps(
        make_state(params=params, config=options, step=False).replace(
            tx=theirs, opt_state=theirs.init(params)
        ),
        7,
    )
    save_run(tmp_path, {10: epochs(0.5)[10]}, state=lambda seed: old)
    info = read_info(epath.Path(tmp_path) / "checkpoints" / "10")
    assert info.leaves[f"{ADAM}/count"].shape == ()
    new = steps(resumed(info), 5)
    jax.tree.map(np.testing.assert_array_equal, new.params, steps(old, 5).params)


def test_one_count_for_all_is_not_that_of_parameters_trained_from_scratch(tmp_path):
    shutil.copytree(FORMAT_1, tmp_path / "run")
    info = read_info(epath.Path(tmp_path) / "run" / "checkpoints" / "5")
    state = resumed(info, rules=(("graph/.*", None),))
    counts = flat(state.opt_state.inner_state["adam"].count)
    assert {path: int(count) for path, count in counts.items()} == {
        "graph/kernel": 0, "graph/bias": 0, "text/kernel": 5,
    }  # fmt: skip
