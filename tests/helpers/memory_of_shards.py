"""Measures the memory and disk that a save and a restore of a sharded state take in each process.

    python memory_of_shards.py WORKDIR INDEX PROCESSES DEVICES PORT MEGABYTES

One process of a run of JAX, each with the same number of devices. Prints one JSON object, in
bytes: the state, this process's share of it, the largest shard, the growth of the resident memory
by buffers and save, and by a restore, and the most that a device has held at any time. If WORKDIR
is in a bucket, also the most that this process has had on its disk, which is $CLAC_JAX_CACHE and
is empty before the restore.
"""

import contextlib
import json
import os
import shutil
import sys
import threading
import time
from pathlib import Path

os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={sys.argv[4]}"
)

import jax
import numpy as np

from clac_jax.bucket.workdir import place_of
from clac_jax.checkpoint import resume
from clac_jax.checkpoint.changes import Present
from clac_jax.checkpoint.manager import Checkpoints
from clac_jax.checkpoint.part_writer import PartCheckpoints
from clac_jax.checkpoint.tree import from_arrays, to_arrays
from clac_jax.distributed import processes
from clac_jax.training.parallel import ShardMap
from clac_jax.training.progress import RunProgress
from clac_jax.training.state import TrainState
from helpers.states import make_config

WORKDIR, (INDEX, PROCESSES, DEVICES, PORT, MEGABYTES) = sys.argv[1], map(int, sys.argv[2:])
ARRAYS = 16
COLUMNS = 1024


class Peak:
    """The growth of the resident memory, and the most that a device holds, in a `with` block."""

    def __enter__(self):
        self.before = self._resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        self.on_a_device, self.on_disk, self._ends = 0, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *raised):
        self._ends.set()
        self._thread.join()
        self.growth = self._resident("VmHWM") - self.before

    def _watch(self):
        while not self._ends.is_set():
            held = {}  # (device, address) -> bytes: arrays may share memory
            for array in jax.live_arrays():
                with contextlib.suppress(RuntimeError):  # it was deleted in the meantime
                    for shard in array.addressable_shards:
                        where = shard.device, shard.data.unsafe_buffer_pointer()
                        held[where] = shard.data.nbytes
            devices = {device for device, _ in held}
            sums = [sum(n for (on, _), n in held.items() if on == device) for device in devices]
            self.on_a_device = max([self.on_a_device, *sums])
            self.on_disk = max(self.on_disk, self._disk())
            time.sleep(0.002)

    @staticmethod
    def _disk():
        files = {}  # inode -> bytes: files may be linked
        for folder, _, names in os.walk(os.environ.get("CLAC_JAX_CACHE", "/none")):
            for name in names:
                with contextlib.suppress(OSError):  # it was removed in the meantime
                    facts = os.stat(os.path.join(folder, name))
                    files[facts.st_ino] = facts.st_size
        return sum(files.values())

    @staticmethod
    def _resident(name):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def make_state(parallel, rows, value):
    """A state on the devices, which no process holds as a whole at any time."""
    names = [f"kernel{k}" for k in range(ARRAYS)]
    shape = jax.ShapeDtypeStruct((rows, COLUMNS), np.float32)
    small = jax.ShapeDtypeStruct((), np.int32)
    template = TrainState(
        step=small,
        apply_fn=None,
        params=dict.fromkeys(names, shape),
        tx=None,
        opt_state={},
        batch_stats={},
        key=jax.ShapeDtypeStruct((2,), np.uint32),
        learning_rate_scale=jax.ShapeDtypeStruct((), np.float32),
    )

    def fill(leaf, sharding):
        if not leaf.shape or leaf.shape == (2,):
            return jax.make_array_from_callback(
                leaf.shape, sharding, lambda index: np.zeros(leaf.shape, leaf.dtype)[index]
            )
        part = sharding.shard_shape(leaf.shape)
        return jax.make_array_from_callback(
            leaf.shape, sharding, lambda index: np.full(part, value, leaf.dtype)
        )

    return template, jax.tree.map(fill, template, parallel._shardings(template))


def main():
    if PROCESSES > 1:
        jax.distributed.initialize(f"127.0.0.1:{PORT}", num_processes=PROCESSES, process_id=INDEX)
    config = make_config()
    parallel = ShardMap("everything", min_elements=64)
    rows = (MEGABYTES << 20) // (ARRAYS * COLUMNS * 4)
    template, state = make_state(parallel, rows, 3.5)
    shapes = to_arrays(parallel.describe(template))
    place = place_of(WORKDIR, config.bucket)
    if INDEX == 0:
        place.__enter__()
    processes.maximum([0])()
    with Peak() as save:
        if INDEX:
            checkpoints = PartCheckpoints(place.folder_of(INDEX), config, shapes, INDEX)
        else:
            checkpoints = place.followed(Checkpoints(place.folder, config, shapes, 100))
        checkpoints.share_saves("run", place.exchange())
        processes.maximum([0])()
        checkpoints.save(to_arrays(parallel.local(state)), RunProgress(step=1), None)
        checkpoints.close()
        if INDEX == 0 and place.is_remote:
            place.__exit__(None, None, None)
    del checkpoints, state
    processes.maximum([0])()
    if place.is_remote:
        shutil.rmtree(os.environ["CLAC_JAX_CACHE"])
        place = place_of(WORKDIR, config.bucket)
        if INDEX == 0:
            place.__enter__()
    with Peak() as restore:
        origin = resume.find_origin(config, place.folder) if INDEX == 0 else resume.Origin()
        origin = resume.shared_origin(origin, config, place.see, shapes)
        now = Present(config, 100, {})
        start = resume.in_all_processes(
            lambda: resume.begin(origin, place.folder, now, shapes, dict), shapes
        )
        state = parallel.put(from_arrays(template, start.arrays))
    right = all(
        bool((np.asarray(shard.data) == 3.5).all())
        for leaf in state.params.values()
        for shard in leaf.addressable_shards
    )
    size = rows * COLUMNS * 4 * ARRAYS
    print(
        json.dumps(
            {
                "state": size,
                "share": size // PROCESSES,
                "share of a device": size // PROCESSES // DEVICES,
                "shard": size // ARRAYS // PROCESSES // DEVICES,
                "save": save.growth,
                "restore": restore.growth,
                "disk in save": save.on_disk,
                "disk in restore": restore.on_disk,
                "device in save": save.on_a_device,
                "device in restore": restore.on_a_device,
                "right": right,
                "step": start.progress.step,
            }
        )
    )
    if INDEX == 0:
        place.__exit__(None, None, None)


if __name__ == "__main__":
    main()
