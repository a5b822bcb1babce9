"""Small training states, and checkpoints of runs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from clac_jax.checkpoint import resume
from clac_jax.checkpoint.changes import Present
from clac_jax.checkpoint.manager import Checkpoints
from clac_jax.checkpoint.tree import to_arrays
from clac_jax.config.schema import default_config
from clac_jax.training import optim
from clac_jax.training.progress import RunProgress
from clac_jax.training.schedules import Timeline, make_schedule
from clac_jax.training.state import create_train_state

COUNTERS = ("step", "opt_state/inner_state/learning_rate/count")


def make_config(**checkpoint_options):
    config = default_config()
    config.weight_decay = 0.1
    config.checkpoint.retry_seconds = 0.0
    for name, value in checkpoint_options.items():
        config.checkpoint[name] = value
    return config


def make_params(seed=0, width=3):
    key = jax.random.key(seed)
    return {
        "graph": {"kernel": jax.random.normal(key, (2, width)), "bias": jnp.zeros(width)},
        "text": {"kernel": jnp.full((4, 4), float(seed))},
    }


def make_state(seed=0, width=3, params=None, config=None, step=True):
    """A training state with statistics and, by default after one step, optimizer moments."""
    config = config or make_config()
    params = make_params(seed, width) if params is None else params
    variables = {"params": params, "batch_stats": {"norm": {"mean": jnp.full(3, seed + 0.5)}}}
    tx = optim.make_optimizer(config, params, make_schedule(config, Timeline(10, 5)))
    state = create_train_state(None, variables, tx, seed)
    return state.apply_gradients(grads=jax.tree.map(jnp.ones_like, params)) if step else state


def shapes_of(arrays):
    return {path: jax.ShapeDtypeStruct(np.shape(a), a.dtype) for path, a in arrays.items()}


def save_run(workdir, steps, config=None, num_train_examples=100, state=make_state, data=None):
    """Saves checkpoints {step: (progress, metrics)}; returns {step: what was saved}."""
    config = config or make_config(save_top_k=-1)
    saved, checkpoints = {}, None
    for step, (progress, metrics) in steps.items():
        arrays = to_arrays(state(seed=step))
        arrays |= {path: np.int32(progress.step) for path in COUNTERS}
        if checkpoints is None:
            checkpoints = Checkpoints(
                workdir, config, shapes_of(arrays), num_train_examples, data=data
            )
        checkpoints.save(arrays, progress, metrics)
        saved[step] = {path: np.array(leaf) for path, leaf in arrays.items()}
    checkpoints.close()
    return saved


def epochs(*losses, steps_per_epoch=10):
    """{step: (progress, metrics)} of a run with these validation losses at the ends of epochs."""
    return {
        steps_per_epoch * number: (
            RunProgress(step=steps_per_epoch * number, epoch=number, examples_seen=100 * number),
            None if loss is None else {"val_loss": loss},
        )
        for number, loss in enumerate(losses, start=1)
    }


def assert_same(left, right):
    assert set(left) == set(right)
    for path, leaf in left.items():
        np.testing.assert_array_equal(leaf, right[path], err_msg=path)


@functools.cache
def small_arrays():
    """The cached arrays of `make_state()`; not to be modified."""
    return to_arrays(make_state())


@functools.cache
def small_shapes():
    return shapes_of(small_arrays())


@functools.cache
def fresh_arrays():
    """The cached arrays of a state before its first step; not to be modified."""
    return to_arrays(make_state(seed=77, step=False))


def begin(workdir, config=None, num_train_examples=100, arrays=None, data=None):
    config, arrays = config or changed(), fresh_arrays() if arrays is None else arrays
    origin = resume.find_origin(config, workdir)
    now = Present(config, num_train_examples, data or {})
    return resume.begin(origin, workdir, now, shapes_of(arrays), lambda: arrays)


def changed(**values):
    config = make_config(save_top_k=-1)  # as in `save_run`
    for name, value in values.items():
        config.update_from_flattened_dict({name.replace("__", "."): value})
    return config
