"""The cost of digests: the training step with them and without, in turns, and the journal's size.

The step of `benchmarks/step.py`, whose parameters are all trained, and that of configs/base.py on
the same crystals and texts, most of whose state is frozen. Each as training runs it, by pmap.

    python -m benchmarks.digest [--repeats=10] [--output=benchmarks/results/digest.json]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from benchmarks.common import RESULTS, SHARED_CORES, timed, write_results
from benchmarks.comparison import NUM_EXAMPLES, comparison_config, load_examples, plan_for
from clac_jax.digests.host import state_digests
from clac_jax.input_pipeline.batch import collate
from clac_jax.input_pipeline.example import ExampleViews
from clac_jax.input_pipeline.example_digest import digested
from clac_jax.input_pipeline.packing import stacked
from clac_jax.journal.journal_file import JournalFile
from clac_jax.journal.record import DIGESTS, DTYPE, StepRecord
from clac_jax.models import build_model, init_variables
from clac_jax.training.losses import make_loss
from clac_jax.training.optim import make_optimizer, trainable_mask
from clac_jax.training.parallel import Pmap
from clac_jax.training.schedules import Timeline, make_schedule
from clac_jax.training.state import create_train_state
from configs import base

MILLION = 1_000_000


class Steps:
    """A step without digests and one with them, each with its own state."""

    def __init__(self, config: ml_collections.ConfigDict, examples: list[ExampleViews]):
        """Compiles both."""
        parallel = Pmap()
        shape = plan_for(examples, NUM_EXAMPLES, config.text_encoder.max_length).choose([examples])
        recorded = [digested(example, number) for number, example in enumerate(examples)]
        self._batches = [
            stacked([stacked([collate(some, shape)])]) for some in (examples, recorded)
        ]
        one = collate(examples, shape)
        model = build_model(config)
        variables = init_variables(model, config, one)
        schedule = make_schedule(config, Timeline(1000, 1000))
        params = variables["params"]
        host = create_train_state(
            model.apply, variables, make_optimizer(config, params, schedule), config.seed
        )
        host = jax.tree.map(np.asarray, host)
        self.megabytes = sum(leaf.nbytes for leaf in jax.tree.leaves(host)) / 1e6
        trainable = trainable_mask(params, config.frozen)
        self._steps = [
            parallel.train(trainable, schedule, make_loss(), digests=flag) for flag in (False, True)
        ]
        self._digest = parallel.digest(host)
        self._parallel = parallel
        self.states = [parallel.put(host) for _ in range(2)]
        started = time.perf_counter(), time.process_time()
        self.digest()
        self.compile_s = time.perf_counter() - started[0]
        self.compile_cpu_s = time.process_time() - started[1]

    def run(self, number: int) -> None:
        """One more step, with digests if `number` is 1; waits for everything."""
        state, metrics = self._steps[number](self.states[number], self._batches[number])
        digests = self._digest(state) if number else {}
        jax.block_until_ready((state, metrics, digests))
        self.states[number] = state

    def digest(self) -> Any:
        """Digests the state."""
        return jax.block_until_ready(self._digest(self.states[1]))

    def check(self) -> None:
        """Both states are equal bit for bit, and the digest is that of NumPy."""
        plain, recorded = (self._parallel.to_host(state) for state in self.states)
        for left, right in zip(jax.tree.leaves(plain), jax.tree.leaves(recorded), strict=True):
            assert left.tobytes() == right.tobytes(), "digests have changed the training"
        names = jax.tree.leaves_with_path(recorded)
        arrays = {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in names}
        expected = state_digests(arrays)["total"]
        found = np.asarray(self.digest()["total"])[0]
        assert (expected.first, expected.second) == tuple(found), "not the digest of NumPy"


def measure(config: ml_collections.ConfigDict, repeats: int) -> dict[str, Any]:
    """Steps with digests and without, in turns, so that other work on the machine hits both."""
    steps = Steps(config, load_examples())
    for number in (0, 1):
        steps.run(number)
    wall: list[list[float]] = [[], []]
    cpu: list[list[float]] = [[], []]
    for _ in range(repeats):
        for number in (0, 1):
            before = time.perf_counter(), time.process_time()
            steps.run(number)
            wall[number].append(time.perf_counter() - before[0])
            cpu[number].append(time.process_time() - before[1])
    steps.check()
    digest = timed(steps.digest, repeats=repeats)
    return {
        "state_mb": steps.megabytes,
        "step_s": [min(times) for times in wall],
        "step_median_s": [float(np.median(times)) for times in wall],
        "step_cpu_s": [min(times) for times in cpu],
        "cost_of_medians": float(np.median(wall[1]) / np.median(wall[0]) - 1),
        "cost_of_minima": min(wall[1]) / min(wall[0]) - 1,
        "cost_of_cpu": min(cpu[1]) / min(cpu[0]) - 1,
        "state_digest": digest,
        "state_digest_of_step": digest["min_s"] / min(wall[0]),
        "compile_s": steps.compile_s,
        "compile_cpu_s": steps.compile_cpu_s,
    }


def per_call(call: Callable[[], Any], count: int) -> float:
    """Seconds of one call, on average."""
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def measure_host(folder: Path) -> dict[str, float]:
    """Times of what is done on the host for each step, and the size of the journal."""
    examples = load_examples()
    digests = dict.fromkeys(DIGESTS, next(iter(state_digests({"x": np.ones(3)}).values())))
    record = StepRecord(1, 0, 1, 1.0, 1.0, 1e-3, digests)
    file = JournalFile(folder, 0)
    seconds = per_call(lambda: file.write(record), 1000)
    file.close()
    return {
        "digest_of_one_example_s": per_call(lambda: digested(examples[0], 0), 200),
        "record_s": seconds,
        "journal_bytes_per_step": DTYPE.itemsize,
        "journal_mb_per_million_steps": DTYPE.itemsize * MILLION / 1e6,
    }


def main() -> None:
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--output", type=Path, default=RESULTS / "digest.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result: dict[str, Any] = {"note": SHARED_CORES, "host": measure_host(Path(folder))}
    reduced = base.get_config()
    reduced.graph_encoder.add_descriptors = False  # the stored examples have none
    reduced.text_encoder.numbers_at = ()
    reduced.text_encoder.add_compositions = False
    reduced.structure_weight = 0.0
    for name, config in (("base", reduced), ("all trained", comparison_config())):
        result[name] = found = measure(config, options.repeats)
        print(
            f"{name}: state {found['state_mb']:.0f} MB, step {found['step_s'][0]:.3f} s, with "
            f"digests {found['step_s'][1]:.3f} s (medians {found['cost_of_medians']:+.1%}, minima "
            f"{found['cost_of_minima']:+.1%}, CPU {found['cost_of_cpu']:+.1%}); digest of the "
            f"state {found['state_digest']['min_s'] * 1e3:.1f} ms = "
            f"{found['state_digest_of_step']:.1%}, compilation {found['compile_cpu_s']:.1f} CPU s"
        )
        jax.clear_caches()
    print({name: f"{value:.3g}" for name, value in result["host"].items()})
    write_results(options.output, result)


if __name__ == "__main__":
    main()
