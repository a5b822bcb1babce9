"""Saves and restores states on eight devices, and compares them bit for bit.

    python sharded_states.py WORK

For a process of its own: the number of devices is set when JAX starts. Prints one JSON object.
"""

import functools
import json
import os
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh

from clac_jax.checkpoint import resume
from clac_jax.checkpoint.arrays import read_arrays
from clac_jax.checkpoint.changes import Present
from clac_jax.checkpoint.layout import read_all
from clac_jax.checkpoint.manager import Checkpoints
from clac_jax.checkpoint.saving import Saver
from clac_jax.checkpoint.tree import from_arrays, to_arrays
from clac_jax.digests.host import state_digests
from clac_jax.reporting.run_log import SilentLog
from clac_jax.training.parallel import Pmap, ShardMap
from clac_jax.training.progress import RunProgress
from clac_jax.training.state import create_train_state
from clac_jax.training.state_digests import StateDigests
from helpers.states import COUNTERS, make_config, make_state

DIVISIONS = [(8, "everything"), (2, "everything"), (4, "optimizer"), (1, "nothing")]


def on(devices, what="everything"):
    """A `ShardMap` over the first devices."""
    parallel = ShardMap(what, min_elements=8)
    parallel._mesh = Mesh(np.array(jax.devices()[:devices]), parallel._mesh.axis_names)
    return parallel


def params(seed, width=2400):
    """Arrays that are divided along the first axis, the second, or not at all, by devices."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    return {
        "graph": {"kernel": normal(16, width), "bias": normal(7)},
        "text": {"kernel": normal(3, 64, 2), "half": normal(4, 8).astype(jax.numpy.bfloat16)},
    }


@functools.cache
def state_of(seed, width=2400):
    return make_state(params=params(seed, width))


def flat(state):
    return {path: np.asarray(leaf) for path, leaf in to_arrays(state).items()}


def same(left, right):
    return left.keys() == right.keys() and all(
        (np.asarray(left[path]).dtype, np.asarray(left[path]).tobytes())
        == (np.asarray(right[path]).dtype, np.asarray(right[path]).tobytes())
        for path in left
    )


def save(workdir, parallel, steps, config=None):
    """Saves `state_of(step)` at each step."""
    shapes = to_arrays(parallel.describe(state_of(0)))
    checkpoints = Checkpoints(workdir, config or make_config(save_top_k=-1), shapes, 100)
    for step in steps:
        placed = parallel.put(state_of(step))
        progress = RunProgress(step=step, epoch=step)
        checkpoints.save(to_arrays(parallel.local(placed)), progress, {"val_loss": float(step)})
    return checkpoints


def begin(workdir, parallel, template, config=None):
    """The start in a workdir, its state on the devices, and the fresh state."""
    config = config or make_config(save_top_k=-1)
    shapes = to_arrays(parallel.describe(template))
    fresh = template.replace(params=jax.tree.map(lambda leaf: leaf + 1, template.params))
    start = resume.begin(
        resume.find_origin(config, workdir),
        workdir,
        Present(config, 100, {}),
        shapes,
        lambda: to_arrays(parallel.put(fresh)),
    )
    arrays = start.arrays
    wrong = [
        path
        for path, leaf in shapes.items()
        if leaf.sharding is not None and arrays[path].sharding != leaf.sharding
    ]
    assert not wrong, wrong
    return start, parallel.put(from_arrays(template, arrays))


def restored_everywhere(work):
    """Saved on some devices, restored on others, and read by stock Orbax."""
    result = {}
    for saved_on in (8, 2):
        workdir = work / f"on{saved_on}"
        save(workdir, on(saved_on), [1]).close()
        expected = flat(state_of(1))
        expected |= {path: np.int32(1) for path in COUNTERS}
        info = read_all(epath.Path(workdir) / "checkpoints")[0][1]
        counts = {path: len(leaf.checksums) for path, leaf in info.leaves.items()}
        result[f"shards on {saved_on}"] = counts["params/graph/kernel"], counts["params/graph/bias"]
        result[f"{saved_on} to the host"] = same(
            read_arrays(info, expected), {**expected, **{p: flat(state_of(1))[p] for p in COUNTERS}}
        )
        with ocp.StandardCheckpointer() as stock:
            tree = stock.restore(workdir / "checkpoints" / "1" / "state")
        read = {"/".join(path): leaf for path, leaf in ocp.utils.to_flat_dict(tree).items()}
        result[f"{saved_on} to stock Orbax"] = same(read, flat(state_of(1)))
        for restored_on in (1, 2, 4, 8):
            parallel = on(restored_on)
            _, state = begin(workdir, parallel, state_of(2))
            back = to_arrays(parallel.to_host(state))
            result[f"{saved_on} to {restored_on}"] = same(back, expected)
    return result


def partly(work):
    """The arrays that fit a different model: the same numbers, by shards and complete."""
    result = {}
    for mode in ("skip", "overlap"):
        config = make_config(save_top_k=-1)
        config.restore.on_shape_mismatch = mode
        config.restore.strict = False
        config.restore.rules = (("text/half", "text/renamed"),)
        other = params(5, width=3200)
        other["text"]["renamed"] = other["text"].pop("half").astype(np.float32)
        other["text"]["new"] = np.full((8, 8), 3.0, np.float32)
        template = make_state(params=other)
        both = []
        for parallel in (on(8), on(8, "nothing")):
            _, state = begin(work / "on2", parallel, template, config)
            both.append(to_arrays(parallel.to_host(state)))
        result[mode] = same(*both)
        saved = flat(state_of(1))
        kernel = both[0]["params/graph/kernel"]
        overlaps = mode == "overlap"
        result[f"{mode} copies"] = bool((kernel[:, :2400] == saved["params/graph/kernel"]).all())
        result[f"{mode} copies"] = result[f"{mode} copies"] == overlaps
        result[f"{mode} renames"] = same(
            {"": both[0]["params/text/renamed"]},
            {"": saved["params/text/half"].astype(np.float32)},
        )
    return result


def fresh():
    """A fresh state is the same, sharded or not."""
    tx = optax.adamw(1e-3)
    variables = {
        "params": params(3),
        "batch_stats": {"norm": {"mean": np.full(3, 0.5, np.float32)}},
    }

    def create(values):
        return create_train_state(None, values, tx, seed=4)

    template = jax.eval_shape(create, variables)
    parallel = on(8)
    made = parallel.initialize(lambda: variables, create, template)
    described = to_arrays(parallel.describe(template))
    return {
        "same": same(to_arrays(parallel.to_host(made)), flat(create(variables))),
        "sharded": all(
            leaf.sharding == described[path].sharding
            for path, leaf in to_arrays(made).items()
            if described[path].sharding is not None
        ),
        "no weak types": not any(leaf.weak_type for leaf in jax.tree.leaves(made)),
    }


def damaged(work):
    """A damaged shard is named, and the checkpoint before it is used, or tested."""
    workdir, parallel, config = work / "damaged", on(8), make_config(save_top_k=-1, mode="max")
    checkpoints = save(workdir, parallel, [1, 2, 3], config)
    checkpoints.wait()
    saver = Saver(parallel, checkpoints, SilentLog(), config.checkpoint)
    last = parallel.put(state_of(7).replace(step=np.int32(4)))
    before, tested_before = saver.best_state(state_of(0), last)
    values = max(
        (workdir / "checkpoints" / "3" / "state" / "ocdbt.process_0" / "shards").iterdir(),
        key=lambda file: file.stat().st_size,
    )
    content = bytearray(values.read_bytes())
    content[len(content) // 2] ^= 1
    values.write_bytes(content)
    after, tested_after = saver.best_state(state_of(0), last)
    checkpoints.close()
    start, state = begin(workdir, parallel, state_of(0), config)
    return {
        "tested": [tested_before, tested_after],
        "same": [
            same(to_arrays(parallel.to_host({"": state.params})), to_arrays({"": wanted.params}))
            for state, wanted in ((before, state_of(3)), (after, state_of(2)), (state, state_of(2)))
        ],
        "step": start.progress.step,
        "named": any(values.name in note and "does not hold" in note for note in start.notes),
    }


def digests():
    """Digests on devices are those of NumPy, however the state is divided among how many."""
    template = state_of(1)
    expected = state_digests(flat(template))
    placements = {f"{what} on {count}": on(count, what) for count, what in DIVISIONS}
    result = {}
    for name, parallel in (placements | {"pmap on 8": Pmap()}).items():
        digests = StateDigests(parallel, template)
        copies = digests.fetch(digests.queue(parallel.put(template)))
        result[name] = [copy == expected for copy in copies]
    return result | {"flipped on device 5": flipped_copy(template, expected)}


def flipped_copy(template, expected):
    """The devices whose copy has the right digests, of 8 copies with a wrong bit in one."""
    parallel = Pmap()
    state = parallel.put(template)
    kernel = state.params["graph"]["kernel"]
    pieces = [np.array(shard.data) for shard in kernel.addressable_shards]
    pieces[5].view(np.uint32)[0, 3, 77] ^= 1 << 13
    pieces = list(map(jax.device_put, pieces, [s.device for s in kernel.addressable_shards]))
    state.params["graph"]["kernel"] = jax.make_array_from_single_device_arrays(
        kernel.shape, kernel.sharding, pieces
    )
    digests = StateDigests(parallel, template)
    copies = digests.fetch(digests.queue(state))
    wrong = {
        number: sorted(part for part in expected if copy[part] != expected[part])
        for number, copy in enumerate(copies)
    }
    return {number: parts for number, parts in wrong.items() if parts}


def main(work):
    result = {
        "digests": digests(),
        "restored": restored_everywhere(work),
        "partly": partly(work),
        "fresh": fresh(),
        "damaged": damaged(work),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
