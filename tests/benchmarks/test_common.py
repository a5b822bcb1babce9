"""The shared helpers of the benchmarks, and the benchmarks on stored data at their smallest."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.paths import ROOT

from benchmarks import common
from benchmarks.comparison import (
    NUM_EXAMPLES,
    comparison_config,
    load_examples,
    operations_of,
    packed,
)


def test_results_hold_the_machine_and_the_figures(tmp_path):
    common.write_results(tmp_path / "new" / "results.json", {"step": {"min_s": 1.0}})
    content = json.loads((tmp_path / "new" / "results.json").read_text())
    assert content["step"] == {"min_s": 1.0}
    facts = content["machine"]
    assert {"cpu", "cores", "vector_bits", "device", "jax", "load_average_1_min"} <= facts.keys()


@pytest.mark.parametrize(
    "cpuinfo, bits",
    [
        ("flags\t\t: fpu sse2 avx avx2 avx512f\n", 512),
        ("flags\t\t: fpu sse2 avx avx2\n", 256),
        ("Features\t: fp asimd\n", 128),
        ("model name\t: some\n", None),
    ],
)
def test_the_vector_width_is_that_of_the_widest_registers(monkeypatch, cpuinfo, bits):
    monkeypatch.setattr(common.Path, "exists", lambda self: True)
    monkeypatch.setattr(common.Path, "read_text", lambda self, **options: cpuinfo)
    assert common.vector_bits() == bits


def test_the_rate_of_a_product_counts_its_operations(monkeypatch):
    monkeypatch.setattr(common, "timed", lambda *args, repeats: {"min_s": 0.5})
    assert common.large_product_rate(rows=10) == 2 * 10**3 / 0.5


def test_operations_are_those_of_matrix_products_as_often_as_they_run():
    a, b = np.ones((4, 5), np.float32), np.ones((5, 5), np.float32)
    one = 2 * 4 * 5 * 5

    def count(function, *args):
        return operations_of(jax.make_jaxpr(function)(*args).jaxpr)

    def scanned(a, b):
        return jax.lax.scan(lambda x, _: (x @ b, None), a, None, length=3)[0]

    def chosen(a, b):
        return jax.lax.cond(a[0, 0] > 0, lambda: a @ b, lambda: jnp.sin(a))

    assert count(jnp.matmul, a, b) == one
    assert count(scanned, a, b) == 3 * one
    assert count(chosen, a, b) == one
    assert count(jax.jit(lambda a, b: jnp.sum(a @ b @ b)), a, b) == 2 * one


def test_the_stored_batch_is_repeated_to_larger_ones():
    config, examples = comparison_config("minilm_random"), load_examples()
    assert len(examples) == NUM_EXAMPLES
    batch, shape = packed(examples, 32, 1, config.text_encoder.max_length)
    assert batch.example_mask.sum() == shape.num_examples == 32
    chunks, shape = packed(examples, 32, 4, config.text_encoder.max_length)
    assert chunks.example_mask.shape == (4, shape.num_examples) == (4, 8)


@pytest.mark.slow
@pytest.mark.parametrize(
    "script, arguments",
    [
        ("step", ("--repeats=1", "--text=minilm_random")),
        ("edge_sums", ("--repeats=1",)),
        ("memory", ("--repeats=1", "--sizes", "16", "--timed=0")),
        ("checkpoint", ("--saves=1", "--steps_between=1", "--text=minilm_random")),
        (
            "throughput",
            ("--texts", "minilm_random", "--precisions", "float32", "--sizes", "16", "--repeats=1"),
        ),
    ],
)
def test_a_script_runs_at_its_smallest_size(tmp_path, script, arguments):
    output = tmp_path / "results.json"
    command = [sys.executable, "-m", f"benchmarks.{script}", *arguments, f"--output={output}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(output.read_text())) > 1
