import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clac_jax import optim, parallel
from clac_jax.checkpoint.manager import CheckpointError, Checkpoints
from clac_jax.checkpoint.tree import TreeMismatchError, from_tree, to_tree
from clac_jax.config import default_config
from clac_jax.progress import RunProgress
from clac_jax.train_state import create_train_state


def make_state(seed=0, width=3, frozen=()):
    config = default_config()
    config.frozen = frozen
    config.weight_decay = 0.1
    key = jax.random.PRNGKey(seed)
    params = {
        "graph": {"kernel": jax.random.normal(key, (2, width)), "bias": jnp.zeros(width)},
        "text": {"kernel": jnp.ones((4, 4))},
    }
    variables = {"params": params, "batch_stats": {"norm": {"mean": jnp.full(3, 0.5)}}}
    tx = optim.make_optimizer(config, params, optim.make_schedule(config, 10))
    state = create_train_state(None, variables, tx, seed)
    return state.apply_gradients(grads=jax.tree.map(jnp.ones_like, params))


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.mark.parametrize("frozen", [(), ("text/.*",)])
@pytest.mark.parametrize("async_save", [True, False])
def test_what_is_saved_comes_back(tmp_path, frozen, async_save):
    config = default_config()
    config.checkpoint.async_save = async_save
    state = make_state(seed=1, frozen=frozen)
    progress = RunProgress(step=7, epoch=2, examples_in_epoch=40, examples_seen=300)
    checkpoints = Checkpoints(tmp_path, config)
    checkpoints.save(to_tree(state), progress, {"val_loss": 0.25})
    checkpoints.close()

    checkpoints = Checkpoints(tmp_path, config)
    assert checkpoints.latest_step() == 7
    checkpoint = checkpoints.restore(7)
    # The template has other numbers: all must come from the checkpoint.
    template = make_state(seed=2, frozen=frozen)
    restored = from_tree(template, checkpoint.state)
    assert jax.tree.structure(restored) == jax.tree.structure(template)
    assert_same(to_tree(restored), to_tree(state))
    assert checkpoint.progress == progress
    assert checkpoint.config == json.loads(json.dumps(config.to_dict()))
    assert checkpoint.versions["jax"] == jax.__version__
    checkpoints.close()


def test_a_saved_tree_does_not_change_with_the_state():
    state = parallel.replicate(make_state())
    tree = to_tree(parallel.first(state))
    before = jax.tree.map(np.copy, tree)
    bump = jax.pmap(lambda s: jax.tree.map(lambda leaf: leaf + 1, s), donate_argnums=(0,))
    jax.block_until_ready(bump(state))
    assert_same(tree, before)


def test_keeps_the_best_and_the_last(tmp_path):
    config = default_config()
    config.checkpoint.save_top_k = 2
    checkpoints = Checkpoints(tmp_path, config)
    tree = to_tree(make_state())
    for step, loss in enumerate([3.0, 1.0, float("nan"), 2.0, 5.0], start=1):
        checkpoints.save(tree, RunProgress(step=step), {"val_loss": loss})
    checkpoints.save(tree, RunProgress(step=6), None)
    checkpoints.close()
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {"2", "4", "6"}


def test_what_a_killed_save_left_is_removed_and_not_taken(tmp_path):
    config = default_config()
    checkpoints = Checkpoints(tmp_path, config)
    checkpoints.save(to_tree(make_state()), RunProgress(step=1), None)
    checkpoints.close()
    leftover = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    leftover.mkdir()
    (leftover / "half").write_bytes(b"written")
    checkpoints = Checkpoints(tmp_path, config)
    assert checkpoints.latest_step() == 1
    checkpoints.restore(1)
    checkpoints.close()
    assert not leftover.exists()


def test_a_missing_file_is_told(tmp_path):
    config = default_config()
    checkpoints = Checkpoints(tmp_path, config)
    checkpoints.save(to_tree(make_state()), RunProgress(step=1), None)
    checkpoints.close()
    (tmp_path / "checkpoints" / "1" / "run" / "metadata").unlink()
    checkpoints = Checkpoints(tmp_path, config)
    with pytest.raises(CheckpointError, match="restore step 1"):
        checkpoints.restore(1)


def test_a_save_that_cannot_be_written_is_told(tmp_path):
    config = default_config()
    config.checkpoint.async_save = False
    checkpoints = Checkpoints(tmp_path, config)
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    (tmp_path / "checkpoints").rmdir()
    (tmp_path / "checkpoints").write_text("a file where the folder was")
    with pytest.raises(CheckpointError, match="save to"):
        checkpoints.save(to_tree(make_state()), RunProgress(step=1), None)


def test_every_leaf_that_does_not_fit_is_named():
    tree = to_tree(make_state(width=3))
    del tree["params"]["text"]
    tree["params"]["new"] = np.ones(2)
    with pytest.raises(TreeMismatchError) as error:
        from_tree(make_state(width=5), tree)
    message = str(error.value)
    assert "params/graph/kernel: (2, 3) in the checkpoint, (2, 5) in the model" in message
    assert "params/text/kernel: not in the checkpoint" in message
    assert "params/new: not in the model" in message


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3)), min_size=1, max_size=4))
def test_trees_of_any_shape_survive_the_round_trip(shapes):
    params = {f"p{k}": {"leaf": jnp.full(shape, float(k))} for k, shape in enumerate(shapes)}
    config = default_config()
    tx = optim.make_optimizer(config, params, lambda _: 0.1)
    state = create_train_state(None, {"params": params}, tx, 0)
    assert_same(from_tree(state, to_tree(state)), state)
