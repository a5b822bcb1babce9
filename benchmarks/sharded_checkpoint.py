"""Seconds that a save and a restore of a state take, compared with plain Orbax.

Each of several processes of JAX holds its shards of a state of large arrays on two CPU devices; 0
processes stand for one process with all of the state on one device, as in most runs. The state is
saved and restored by `Checkpoints`, which writes and compares checksums of every byte, and by
Orbax's own `Checkpointer`, which does not, in turn. What is read was written a moment ago, so it
comes from memory unless that is short. Older checkpoints are removed between the measurements.

    python -m benchmarks.sharded_checkpoint [--gigabytes 0.05 0.5 2] [--processes 0 1 2 4]
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ARRAYS, COLUMNS, DEVICES = 24, 1024, 2


def main() -> None:
    """Starts the processes of each case, and collects what they have measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.05, 0.5, 2.0])
    parser.add_argument("--processes", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, help="for the checkpoints; by default a temporary one"
    )
    parser.add_argument("--output", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(_measure(**json.loads(options.worker))))
        return
    from benchmarks.common import RESULTS, write_results

    rows = []
    for gigabytes in options.gigabytes:
        for processes in options.processes:
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                row = _case(Path(folder), gigabytes, processes, options.repeats)
            rows.append(row)
            print(json.dumps(row), flush=True)
    write_results(options.output or RESULTS / "sharded_checkpoint.json", {"rows": rows})


def _case(folder: Path, gigabytes: float, processes: int, repeats: int) -> dict[str, Any]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    flags = f"--xla_force_host_platform_device_count={DEVICES if processes else 1}"
    running = []
    for index in range(max(processes, 1)):
        task = {
            "folder": str(folder),
            "index": index,
            "processes": processes,
            "port": port,
            "gigabytes": gigabytes,
            "repeats": repeats,
        }
        command = [sys.executable, "-m", "benchmarks.sharded_checkpoint", "--worker"]
        running.append(
            subprocess.Popen(
                [*command, json.dumps(task)],
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            )
        )
    outputs = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit("a process has failed; its error is above")
    found = [json.loads(output.splitlines()[-1]) for output in outputs]
    # The slowest process decides; of the repeats, the fastest shows what is possible.
    slowest = {
        name: min(max(times) for times in zip(*(one[name] for one in found), strict=True))
        for name in found[0]
    }
    ratios = {
        f"{what}_ratio": slowest[f"clac_jax_{what}"] / slowest[f"orbax_{what}"]
        for what in ("save_s", "save_cpu_s", "restore_s", "restore_cpu_s")
    }
    case = {"gigabytes": gigabytes, "processes": max(processes, 1), "is_sharded": processes > 0}
    return {**case, **ratios, **slowest}


def _measure(
    folder: str, index: int, processes: int, port: int, gigabytes: float, repeats: int
) -> dict[str, list[float]]:
    """Seconds of each repeat in this process."""
    import jax

    if processes > 1:
        address = f"127.0.0.1:{port}"
        jax.distributed.initialize(address, num_processes=processes, process_id=index)
    import numpy as np

    from clac_jax.checkpoint.tree import to_arrays
    from clac_jax.training.parallel import ShardMap

    parallel = ShardMap("everything" if processes else "nothing", min_elements=64)
    rows = int(gigabytes * 1e9 / ARRAYS / COLUMNS / 4) // 64 * 64
    names = [f"kernel{k}" for k in range(ARRAYS)]
    template = _template(dict.fromkeys(names, jax.ShapeDtypeStruct((rows, COLUMNS), np.float32)))
    rng = np.random.default_rng(index)

    def fill(leaf: Any, sharding: Any) -> Any:
        part = sharding.shard_shape(leaf.shape)
        if not part or len(part) == 1:
            return jax.make_array_from_callback(
                leaf.shape, sharding, lambda _: np.zeros(part, leaf.dtype)
            )
        return jax.make_array_from_callback(
            leaf.shape, sharding, lambda _: rng.random(part, np.float32)
        )

    state = jax.tree.map(fill, template, parallel._shardings(template))
    shapes = to_arrays(parallel.describe(template))
    wait = _barrier(processes)
    result: dict[str, list[float]] = {}
    ours = _Ours(Path(folder), index, parallel, shapes)
    stock = _Stock(Path(folder), parallel, template)
    for number in range(1, repeats + 1):
        for name, kind in (("clac_jax", ours), ("orbax", stock)):
            for what in ("save", "restore"):
                call = functools.partial(kind.save, state) if what == "save" else kind.restore
                wait()
                seconds, cpu_seconds, returned = _timed(call, number)
                wait()
                result.setdefault(f"{name}_{what}_s", []).append(seconds)
                result.setdefault(f"{name}_{what}_cpu_s", []).append(cpu_seconds)
                if what == "save" and returned is not None:
                    result.setdefault("clac_jax_blocked_s", []).append(returned)
                del returned
        if index == 0:
            ours.remove(number)
            stock.remove(number)
    ours.checkpoints.close()
    return result


def _template(params: dict[str, Any]) -> Any:
    import jax
    import numpy as np

    from clac_jax.training.state import TrainState

    fields: dict[str, Any] = {
        "step": jax.ShapeDtypeStruct((), np.int32),
        "apply_fn": None,
        "params": params,
        "tx": None,
        "opt_state": {},
        "batch_stats": {},
        "key": jax.ShapeDtypeStruct((2,), np.uint32),
        "learning_rate_scale": jax.ShapeDtypeStruct((), np.float32),
    }
    return TrainState(**fields)


class _Ours:
    """Checkpoints of a run, in each of its processes."""

    def __init__(self, folder: Path, index: int, parallel: Any, shapes: Any):
        from clac_jax.checkpoint.manager import Checkpoints
        from clac_jax.checkpoint.part_writer import PartCheckpoints
        from clac_jax.checkpoint.parts import SharedFolder
        from clac_jax.config.schema import default_config

        config = default_config()
        config.checkpoint.save_top_k = -1  # `remove` removes them
        self.workdir, self._parallel, self._shapes = folder / "run", parallel, shapes
        self.checkpoints: Any = (
            PartCheckpoints(self.workdir, config, shapes, index)
            if index
            else Checkpoints(self.workdir, config, shapes)
        )
        self.checkpoints.share_saves("run", SharedFolder())
        self.checkpoints._allocated.result()  # while a run compiles

    def save(self, state: Any, number: int) -> float:
        """Saves and waits for the commit; returns the seconds that a run would have waited."""
        from clac_jax.checkpoint.tree import to_arrays
        from clac_jax.training.progress import RunProgress

        started = time.perf_counter()
        arrays = to_arrays(self._parallel.local(state))
        self.checkpoints.save(arrays, RunProgress(step=number), None)
        blocked = time.perf_counter() - started
        self.checkpoints.wait()
        return blocked

    def restore(self, number: int) -> Any:
        """The arrays of the checkpoint on the devices."""
        import jax
        from etils import epath

        from clac_jax.checkpoint.arrays import read_targets
        from clac_jax.checkpoint.layout import read_info
        from clac_jax.checkpoint.shard_handler import Target

        info = read_info(epath.Path(self.workdir) / "checkpoints" / str(number))
        targets = {path: Target(path, leaf) for path, leaf in self._shapes.items()}
        read = read_targets(info, targets)
        replicated = {path: leaf for path, leaf in read.items() if not isinstance(leaf, jax.Array)}
        return jax.block_until_ready(read | self._parallel.put(replicated))

    def remove(self, number: int) -> None:
        """Removes the checkpoint."""
        shutil.rmtree(self.workdir / "checkpoints" / str(number))


class _Stock:
    """Plain Orbax."""

    def __init__(self, folder: Path, parallel: Any, template: Any):
        import jax
        import orbax.checkpoint as ocp

        self._folder = folder
        shardings = parallel._shardings(template)
        self._item = jax.tree.map(lambda leaf: leaf, template.params)
        self._args = jax.tree.map(
            lambda leaf, sharding: ocp.ArrayRestoreArgs(
                sharding=sharding, global_shape=leaf.shape, dtype=leaf.dtype
            ),
            template.params,
            shardings.params,
        )
        self._checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_compression=False))

    def save(self, state: Any, number: int) -> None:
        """Saves the arrays, and waits for the commit."""
        import orbax.checkpoint as ocp

        self._checkpointer.save(
            self._folder / f"orbax{number}", args=ocp.args.PyTreeSave(state.params)
        )

    def restore(self, number: int) -> Any:
        """The arrays of the checkpoint on the devices."""
        import jax
        import orbax.checkpoint as ocp

        return jax.block_until_ready(
            self._checkpointer.restore(
                self._folder / f"orbax{number}",
                args=ocp.args.PyTreeRestore(item=self._item, restore_args=self._args),
            )
        )

    def remove(self, number: int) -> None:
        """Removes the checkpoint."""
        shutil.rmtree(self._folder / f"orbax{number}")


def _barrier(processes: int) -> Callable[[], None]:
    from jax.experimental import multihost_utils

    def wait() -> None:
        if processes > 1:
            multihost_utils.sync_global_devices("benchmark")

    return wait


def _timed(call: Callable[[int], Any], number: int) -> tuple[float, float, Any]:
    started, cpu_started = time.perf_counter(), time.process_time()
    result = call(number)
    return time.perf_counter() - started, time.process_time() - cpu_started, result


if __name__ == "__main__":
    main()
