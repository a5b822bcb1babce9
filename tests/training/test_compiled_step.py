"""The compiled step of two devices: what it moves between them, and what it never does."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys
import jax, numpy as np
from clac_jax.distributed.share import share_of_process
from clac_jax.input_pipeline.run_data import RunData
from clac_jax.models import build_model, init_variables
from clac_jax.models.encoders import encoder_needs
from clac_jax.training import optim
from clac_jax.training.losses import loss_options, make_loss
from clac_jax.training.parallel import Pmap
from clac_jax.training.schedules import Timeline, make_schedule
from clac_jax.training.state import create_train_state
from configs import smoke

config = smoke.get_config()
config.dataset.data_dir, config.dataset.max_examples = sys.argv[1], 8
config.graph_encoder.name = "composition"  # compiles fastest
config.use_visual_intramodal_loss = config.use_textual_intramodal_loss = False
config.frozen = ("text_encoder/word_embedding/.*",)
data = RunData(config, encoder_needs(config), share_of_process())
model = build_model(config, data.vocab_size)
variables = init_variables(model, config, data.example_batch())
params = variables["params"]
schedule = make_schedule(config, Timeline(10, 5))
trainable = optim.trainable_mask(params, config.frozen)
tx = optim.make_optimizer(config, params, schedule)
parallel = Pmap()
state = parallel.put(create_train_state(model.apply, variables, tx, config.seed))
step = parallel.train(trainable, schedule, make_loss(loss_options(config)))
batch = next(data.train_batches(0, 0))
program = step.lower(state, batch).compile().as_text()
flat = zip(jax.tree.leaves(params), jax.tree.leaves(trainable), strict=True)
print(json.dumps({
    "program": program,
    "leaves": len(jax.tree.leaves(state)),
    "trained": sum(leaf.size for leaf, train in flat if train),
    "params": sum(leaf.size for leaf in jax.tree.leaves(params)),
    "stats": sum(leaf.size for leaf in jax.tree.leaves(variables["batch_stats"])),
    "projections": 2 * config.batch_size * config.projection_dim,
}))
"""


@pytest.fixture(scope="module")
def compiled(environment, data_dir):
    """The optimized HLO of the step, with sizes to compare with."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(data_dir)],
        env=environment(2), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def moved(program, kind):
    """The number of elements in the results of all operations of a kind."""
    total = 0
    for shapes in re.findall(rf"= (\(.*?\)|\S+) {kind}(?:-start)?\(", program):
        for size in re.findall(r"\w+\[([\d,]*)\]", shapes):
            total += math.prod(int(n) for n in size.split(",") if n)
    return total


def test_nothing_goes_to_the_host_inside_a_step(compiled):
    program = compiled["program"]
    assert "all-reduce" in program
    for word in ("infeed", "outfeed", " send(", " recv(", "python_cpu_callback", "ffi_python"):
        assert word not in program, word
    assert not re.search(r"[a-z]\d+\[[\d,]*<=\d", program)  # f32[<=8,16]: a dynamic size


def test_the_memory_of_every_array_of_the_state_is_reused(compiled):
    (header,) = re.findall(r"input_output_alias=\{(.*)\}, entry_computation", compiled["program"])
    reused = re.findall(r"\((\d+), \{\}, (?:may|must)-alias\)", header)
    assert len(set(reused)) == len(reused) == compiled["leaves"]


def test_only_gradients_statistics_and_projections_move_between_devices(compiled):
    reduced = moved(compiled["program"], "all-reduce")
    assert compiled["trained"] < compiled["params"] / 2  # the frozen word vectors are most of it
    # Each gradient once, batch statistics with their gradients, and scalars.
    assert compiled["trained"] <= reduced <= compiled["trained"] + 3 * compiled["stats"]
    gathered = moved(compiled["program"], "all-gather")
    assert 0 < gathered <= 6 * compiled["projections"]
