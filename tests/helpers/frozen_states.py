"""Plain states with a part that does not change and is large enough to be stored once."""

import os
from pathlib import Path

import numpy as np
from etils import epath

from clac_jax.checkpoint.arrays import read_arrays
from clac_jax.checkpoint.layout import read_all
from clac_jax.checkpoint.manager import Checkpoints
from clac_jax.training.progress import RunProgress
from helpers.states import make_config, shapes_of

FROZEN = {"params/text/word": (512, 400), "params/text/layer/kernel": (128, 600)}
MOVING = {"params/head/kernel": (40, 30), "opt_state/mu/head/kernel": (40, 30)}
OTHER = {"params/graph/table": (300, 1000)}


def state_at(step, frozen=0, other=None):
    """Arrays of which `params/text` and `params/graph` have the contents of these numbers."""
    seeds = dict.fromkeys(FROZEN, 1000 + frozen) | dict.fromkeys(MOVING, step)
    seeds |= dict.fromkeys(OTHER, step if other is None else 2000 + other)
    arrays = {
        path: np.random.default_rng([seed, number]).normal(size=shape).astype(np.float32)
        for number, (path, shape) in enumerate({**FROZEN, **MOVING, **OTHER}.items())
        for seed in [seeds[path]]
    }
    return arrays | {"step": np.asarray(step, np.int32)}


def frozen_config(**options):
    config = make_config(**{"save_top_k": -1, **options})
    config.frozen = ("text/.*",)
    return config


def open_run(workdir, **options):
    return Checkpoints(workdir, frozen_config(**options), shapes_of(state_at(0)), 100)


def save_states(workdir, states, **options):
    """Saves {step: arrays} in one start of a run."""
    checkpoints = open_run(workdir, **options)
    for step, arrays in states.items():
        checkpoints.save(arrays, RunProgress(step=step), None)
    checkpoints.close()


def groups_in(workdir, step):
    """Folders of the databases of a checkpoint that are shared, by name."""
    state = workdir / "checkpoints" / str(step) / "state"
    return {p.name: p for p in state.glob("ocdbt.process_*") if p.name != "ocdbt.process_0"}


def values_of(database):
    """The file with the values in a database."""
    return max((Path(database) / "d").iterdir(), key=lambda path: path.stat().st_size)


def are_linked(*files):
    return len({(os.stat(path).st_dev, os.stat(path).st_ino) for path in files}) == 1


def assert_run_is(workdir, states):
    """The run has exactly these checkpoints, bit for bit, and nothing else in its folder."""
    intact, damaged = read_all(epath.Path(workdir) / "checkpoints")
    assert not damaged and intact.keys() == states.keys()
    assert sorted(os.listdir(workdir / "checkpoints")) == sorted(map(str, states))
    for step, expected in states.items():
        found = read_arrays(intact[step], intact[step].leaves)
        assert found.keys() == expected.keys()
        for path, array in expected.items():
            assert (found[path].dtype, found[path].tobytes()) == (array.dtype, array.tobytes()), (
                path
            )
