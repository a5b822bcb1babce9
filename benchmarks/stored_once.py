"""Disk space and time of a save with arrays that do not change stored once, and with all written.

The states are those of a run that `make train` has left: its checkpoints, saved in turn, so that
what changes between two saves is what changes in training. Two runs save alternately, one with
`checkpoint.share` and one without, so that both see the same load of the machine.

    python -m benchmarks.stored_once [--run=outputs/base] [--saves=9]
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from benchmarks.common import RESULTS, write_results
from clac_jax.checkpoint.arrays import read_arrays
from clac_jax.checkpoint.layout import CHECKPOINTS, read_all
from clac_jax.checkpoint.manager import Checkpoints
from clac_jax.checkpoint.usage import usage_of
from clac_jax.config.schema import from_plain
from clac_jax.training.progress import RunProgress


def measure(run: Path, saves: int) -> dict[str, Any]:
    """Saves the states of a run in turn, with shared files and without.

    Args:
        run: workdir of the run, with at least two checkpoints.
        saves: number of saves of each kind, after a first one that is not measured.
    """
    intact, _ = read_all(epath.Path(run) / CHECKPOINTS)
    states = [jax.device_put(read_arrays(info, info.leaves)) for info in intact.values()]
    shapes = {path: jax.ShapeDtypeStruct(a.shape, a.dtype) for path, a in states[0].items()}
    times: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        runs = {}
        for share in (False, True):
            config = from_plain(intact[max(intact)].config)
            config.checkpoint.share, config.checkpoint.save_top_k = share, -1
            runs[share] = Checkpoints(Path(folder, f"share_{share}"), config, shapes)
            runs[share]._allocated.result()  # allocated in the background while a run compiles
        for step, state in zip(range(saves + 1), itertools.cycle(states), strict=False):
            for share, checkpoints in runs.items():
                started, cpu = time.perf_counter(), time.process_time()
                checkpoints.save(state, RunProgress(step=step), None)
                blocked = time.perf_counter() - started
                checkpoints.wait()
                row = {"blocked": blocked, "committed": time.perf_counter() - started}
                times[share].append({**row, "cpu": time.process_time() - cpu})
        result: dict[str, Any] = {
            "state_bytes": sum(a.nbytes for a in states[0].values()),
            "saves": saves,
        }
        for share, checkpoints in runs.items():
            checkpoints.close()
            folders = [checkpoints.directory / str(step) for step in range(saves + 1)]
            together = usage_of(folders)
            later = [usage_of(folders[: k + 1]).num_bytes for k in range(saves + 1)]
            measured = times[share][1:]
            result["stored once" if share else "all written"] = {
                "first_checkpoint_bytes": later[0],
                "each_later_checkpoint_bytes": int(np.median(np.diff(later))),
                "all_checkpoints_bytes": together.num_bytes,
                **{
                    f"{name}_s": {
                        "min": min(row[name] for row in measured),
                        "median": float(np.median([row[name] for row in measured])),
                    }
                    for name in ("blocked", "committed", "cpu")
                },
            }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("outputs/base"), help="its workdir")
    parser.add_argument("--saves", type=int, default=9)
    parser.add_argument("--output", type=Path, default=RESULTS / "stored_once.json")
    options = parser.parse_args()
    result = measure(options.run, options.saves)
    for name, value in result.items():
        print(f"{name:20}{value}")
    write_results(options.output, result)


if __name__ == "__main__":
    main()
