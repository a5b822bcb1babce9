"""What saving costs a running step and how soon a resumed run takes its first one.

The model and the batch of `benchmarks/step.py`: PaiNN 512 x 5 and MiniLM, 42.3 million parameters,
AdamW, so about half a gigabyte of state. Saves in the middle of training, then starts over: once
afresh and once from the checkpoint, both with the step compiled before.

    python -m benchmarks.checkpoint [--saves=5] [--output=benchmarks/results/checkpoint.json]
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.step import (
    HERE,
    NUM_EXAMPLES,
    comparison_config,
    load_examples,
    machine_facts,
    plan_for,
)
from clac_jax.checkpoint import resume
from clac_jax.checkpoint.changes import Present
from clac_jax.checkpoint.manager import Checkpoints
from clac_jax.checkpoint.tree import from_arrays, to_arrays
from clac_jax.input_pipeline.batch import collate
from clac_jax.input_pipeline.packing import stacked
from clac_jax.models import abstract_variables, build_model, init_variables
from clac_jax.training.losses import make_loss
from clac_jax.training.optim import make_optimizer, trainable_mask
from clac_jax.training.parallel import Pmap
from clac_jax.training.progress import RunProgress
from clac_jax.training.schedules import Timeline, make_schedule
from clac_jax.training.state import create_train_state


def timed(call: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--steps_between", type=int, default=3)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "checkpoint.json")
    options = parser.parse_args()

    config = comparison_config()
    config.checkpoint.save_top_k = 0
    examples = load_examples()
    plan = plan_for(examples, NUM_EXAMPLES, config.text_encoder.max_length)
    one = collate(examples, plan.choose([examples]))
    batch = stacked([stacked([one])])
    parallel = Pmap()
    model = build_model(config)
    abstract = abstract_variables(model, one)
    schedule = make_schedule(config, Timeline(1000, 1000))
    create = functools.partial(
        create_train_state,
        model.apply,
        tx=make_optimizer(config, abstract["params"], schedule),
        seed=config.seed,
    )
    template = jax.eval_shape(create, abstract)
    shapes = to_arrays(template)
    trainable = trainable_mask(abstract["params"], config.frozen)
    step = parallel.train(trainable, schedule, make_loss())

    def initialise() -> dict[str, Any]:
        return to_arrays(create(init_variables(model, config, one)))

    def first_step(arrays: dict[str, Any]) -> Any:
        state, metrics = step(parallel.put(from_arrays(template, arrays)), batch)
        jax.block_until_ready((state, metrics))
        return state

    def one_step(state: Any) -> tuple[float, Any]:
        begun = time.perf_counter()
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))
        return time.perf_counter() - begun, state

    state = first_step(initialise())  # compiles
    workdir = Path(tempfile.mkdtemp())
    steps, after, blocked, committed = [], [], [], []
    try:
        checkpoints = Checkpoints(workdir, config, shapes)
        checkpoints._buffers.result()  # found in the background while a run compiles
        for number in range(options.saves):
            for _ in range(options.steps_between):
                seconds, state = one_step(state)
                steps.append(seconds)
            arrays = to_arrays(parallel.gather(state))
            begun = time.perf_counter()
            checkpoints.save(arrays, RunProgress(step=number + 1), None)
            blocked.append(time.perf_counter() - begun)
            del arrays
            seconds, state = one_step(state)
            after.append(seconds)
            checkpoints.wait()
            committed.append(time.perf_counter() - begun)
        checkpoints.close()
        del state

        fresh, restored, resumed = [], [], []
        for _ in range(5):
            fresh.append(timed(lambda: first_step(initialise()))[0])

            begun = time.perf_counter()
            origin = resume.find_origin(config, workdir)
            start = resume.begin(origin, workdir, Present(config, 0, {}), shapes, initialise)
            state = parallel.put(from_arrays(template, start.arrays))
            jax.block_until_ready(state)
            restored.append(time.perf_counter() - begun)
            one_step(state)
            resumed.append(time.perf_counter() - begun)
            del start, state
        num_bytes = sum(f.stat().st_size for f in workdir.rglob("*") if f.is_file())
    finally:
        shutil.rmtree(workdir)

    result = {
        "machine": machine_facts(),
        "parameters": sum(int(np.prod(a.shape)) for p, a in shapes.items() if p[:7] == "params/"),
        "state_bytes": sum(int(np.prod(a.shape)) * a.dtype.itemsize for a in shapes.values()),
        "checkpoint_bytes": num_bytes,
        "step_s": {"min": min(steps), "median": float(np.median(steps))},
        "blocked_by_save_s": {"min": min(blocked), "median": float(np.median(blocked))},
        "step_while_saving_s": {"min": min(after), "median": float(np.median(after))},
        "save_until_committed_s": float(np.median(committed)),
        "start_to_first_step_fresh_s": min(fresh),
        "restored_on_the_device_s": {"min": min(restored), "median": float(np.median(restored))},
        "start_to_first_step_resumed_s": min(resumed),
    }
    for name, value in result.items():
        print(f"{name:32}{value}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
