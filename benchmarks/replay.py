"""Random steps of a run computed again: how many have the recorded bits, and the time they take.

python -m benchmarks.replay --run=outputs/base --steps=100
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.common import RESULTS, ROOT, SHARED_CORES, write_results
from clac_jax.replay.devices import lawful_difference, prepare_devices
from clac_jax.replay.history import read_history
from clac_jax.replay.replayer import Replayer
from clac_jax.replay.verdict import parting


def main() -> None:
    """Replays the steps in ascending order, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default=str(ROOT / "outputs/base"), help="a run with a journal")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "replay.json")
    options = parser.parse_args()
    history = read_history(options.run)
    known = [step for step in history.journal.steps["step"].tolist() if history.digests(step)]
    count = min(options.steps, len(known))
    rng = np.random.default_rng(options.seed)
    chosen = sorted(rng.choice(known, count, replace=False).tolist())
    prepare_devices(history.start_of(chosen[-1]))
    wrong, seconds = {}, []
    with tempfile.TemporaryDirectory() as scratch:
        replayer = Replayer(history, Path(scratch), print)
        for step in chosen:
            began = time.monotonic()
            replayer.go_to(step)
            if different := parting(replayer.do().digests, history.digests(step)):
                wrong[step] = different
            seconds.append(time.monotonic() - began)
            print(f"step {step}: {'differs' if step in wrong else 'equal'}", flush=True)
    results = {
        "timing": SHARED_CORES,
        "steps": count,
        "equal": count - len(wrong),
        "wrong": {str(step): names for step, names in wrong.items()},
        "lawful": lawful_difference(history.start_of(chosen[-1])),
        "median_s": float(np.median(seconds)),
        "total_s": float(np.sum(seconds)),
    }
    print(f"{results['equal']} of {count} steps equal, {results['total_s']:.0f} s")
    write_results(options.output, results)


if __name__ == "__main__":
    main()
