"""Trains the config file argv[1] in the workdir argv[2]; argv[3] says what goes wrong.

With argv[4:7], flags of the processes: HOST:PORT, number of processes, number of this process. Data
are always wrong; a bit is flipped once, at step `STEP`, and never again if a marker exists.
"""

import contextlib
import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from clac_jax.cli.console import protect_output
from clac_jax.cli.train import _train
from clac_jax.distributed.preemption import StopSignals
from clac_jax.input_pipeline.run_data import RunData
from clac_jax.training import parallel, step
from configs import saved

STEP = 7
EXAMPLE = 5
SPIKE_EPOCH = 3
POISONS = ("infinite label", "no geometry", "large label")


def poison(what):
    """Makes one training example wrong, as the pipeline delivers it."""
    original = RunData._train_views

    def views(self, epoch, index):
        result = original(self, epoch, index)
        if index != EXAMPLE or (what == "large label" and epoch < SPIKE_EPOCH):
            return result
        if what == "infinite label":
            return dataclasses.replace(result, label=np.inf)
        if what == "large label":
            return dataclasses.replace(result, label=1e5)
        graphs = [
            dataclasses.replace(graph, edge_vectors=np.full_like(graph.edge_vectors, np.nan))
            for graph in result.graphs
        ]
        return dataclasses.replace(result, graphs=tuple(graphs))

    RunData._train_views = views


def flipped(array, bit):
    """The array with one bit flipped of an element that the highest bit of the exponent makes huge.

    That is one of less than 2, and not zero.
    """
    words = np.array(array)
    sizes = np.abs(words.reshape(-1))
    place = np.flatnonzero((sizes > 0) & (sizes < 2))[0]
    words.reshape(-1).view(np.uint32)[place] ^= np.uint32(1 << bit)
    return jax.device_put(words, array.sharding) if isinstance(array, jax.Array) else words


def with_last_leaf(tree, change):
    """The tree with its last matrix changed: that of the head, which every example uses."""
    leaves, structure = jax.tree.flatten(tree)
    place = max(k for k, leaf in enumerate(leaves) if leaf.ndim >= 2 and leaf.size > 8)
    leaves[place] = change(leaves[place])
    return jax.tree.unflatten(structure, leaves)


def wrong_gradients(original, bit):
    """`make_gradients` with a bit of the gradient flipped."""

    def make_gradients(*arguments, **options):
        gradients = original(*arguments, **options)

        def change(leaf):
            words = jax.lax.bitcast_convert_type(leaf, jnp.uint32)
            words = words.reshape(-1).at[0].set(words.reshape(-1)[0] ^ jnp.uint32(1 << bit))
            return jax.lax.bitcast_convert_type(words.reshape(leaf.shape), jnp.float32)

        def wrong(state, batch):
            result = gradients(state, batch)
            return result._replace(grads=with_last_leaf(result.grads, change))

        return wrong

    return make_gradients


def flip_once(what, marker):
    """Flips a bit at step `STEP`: of a parameter, of the gradient or of the batch."""
    original, make_gradients = parallel.Pmap.train, step.make_gradients
    bit = 2 if what.startswith("low") else 30  # of the fraction, or of the exponent

    def train(self, *arguments, **options):
        clean = original(self, *arguments, **options)
        step.make_gradients = wrong_gradients(make_gradients, bit)
        dirty = original(self, *arguments, **options)
        step.make_gradients = make_gradients

        def trained(state, batch):
            number = int(np.asarray(state.step.addressable_data(0)).reshape(-1)[0]) + 1
            if number != STEP or marker.exists():
                return clean(state, batch)
            marker.touch()
            if what.endswith("gradient"):
                return dirty(state, batch)
            if what.endswith("parameter"):
                params = with_last_leaf(state.params, lambda leaf: flipped(leaf, bit))
                return clean(state.replace(params=params), batch)
            return clean(state, dataclasses.replace(batch, labels=flipped(batch.labels, bit)))

        return trained

    parallel.Pmap.train = train


if __name__ == "__main__":
    protect_output()
    config, workdir, what, *where = sys.argv[1:]
    config = saved.get_config(config)
    if where:
        config.distributed.coordinator_address = where[0]
        config.distributed.num_processes = int(where[1])
        config.distributed.process_id = int(where[2])
    if what in POISONS:
        poison(what)
    elif what != "nothing":
        flip_once(what, Path(f"{config.compilation_cache}/{Path(workdir).name}.flipped"))
    with contextlib.ExitStack() as listening:
        _train(config, workdir, listening.enter_context(StopSignals()), listening)
