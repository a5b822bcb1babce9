"""Encoders that recompute their blocks in the backward pass give the same results."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.small_models import batch_of, examples, small_config

from clac_jax.models.dropout import DropoutStream
from clac_jax.models.encoders import build_graph_encoder, build_text_encoder
from clac_jax.models.remat import remat_block

GRAPH_ENCODERS = ("painn", "cgcnn", "orb")
TEXT_ENCODERS = ("bert", "opt", "gemma3_text")
# Reduced optimization: everything runs once.
FAST = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


def encoder_of(name, remat):
    """Functions key -> variables, and (params, batch_stats) -> (loss, new batch stats)."""
    changes = {"remat": remat, "text_encoder.config.num_hidden_layers": 2}
    batch = batch_of(examples(with_labels=True))
    if name in GRAPH_ENCODERS:
        changes |= {"graph_encoder.name": name, "graph_encoder.hidden_features": 32}
        if name == "painn":  # large enough that its basis, which is kept, is the smaller part
            changes |= {"graph_encoder.num_features": 128, "graph_encoder.num_interactions": 4}
        encoder = build_graph_encoder(small_config(**changes))
        inputs = {"graphs": batch.graphs, "train": True}
    else:
        # Dropout masks take long to compile.
        rate = None if name == "bert" else 0.0
        changes |= {"text_encoder.config.model_type": name, "text_encoder.dropout": rate}
        encoder = build_text_encoder(small_config(lm_weight=1.0, **changes), vocab_size=100)
        ids = jnp.arange(6, dtype=jnp.uint32)
        inputs = {"texts": batch.texts, "stream": DropoutStream(jax.random.key(3), ids)}

    def loss(params, batch_stats):
        variables = {"params": params, "batch_stats": batch_stats}
        output, updated = encoder.apply(variables, **inputs, mutable=["batch_stats"])
        features = output if name in GRAPH_ENCODERS else output.features
        total = jnp.sum(features * jnp.cos(jnp.arange(features.size)).reshape(features.shape))
        if name in TEXT_ENCODERS:
            total = total + jnp.sum(output.lm_loss_sum)
        return total, updated.get("batch_stats", {})

    return functools.partial(encoder.init, **inputs), loss


def kept_bytes(loss, params, batch_stats):
    """Bytes that are kept for the backward pass, without the parameters."""
    kept = jax.eval_shape(lambda p: jax.vjp(lambda q: loss(q, batch_stats)[0], p)[1], params)
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept)) - weights


# Slow where another encoder of the same kind shows it: crystals with batch statistics, and texts.
@pytest.mark.parametrize(
    "name",
    [
        "cgcnn",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("painn", "orb", "bert", "opt", "gemma3_text")
        ),
    ],
)
def test_rematerialization_changes_the_memory_and_nothing_else(name, monkeypatch):
    init, plain = encoder_of(name, ())
    init_again, again = encoder_of(name, ("graph_encoder", "text_encoder"))
    shapes = jax.eval_shape(init, jax.random.key(0))
    assert jax.eval_shape(init_again, jax.random.key(0)) == shapes
    rng = np.random.default_rng(0)

    def random(x):
        scale = x.shape[0] ** -0.5 if x.ndim == 2 else 0.1
        values = rng.normal(0, scale, x.shape).astype(x.dtype)
        return values if x.ndim == 2 else np.abs(values)  # some are variances

    variables = jax.tree.map(random, shapes)
    args = variables["params"], variables.get("batch_stats", {})

    def compiled(loss):
        gradient = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=FAST)
        return gradient.lower(*args).compile()

    steps = compiled(plain), compiled(again)
    ((value, stats), grads), ((value_again, stats_again), grads_again) = (
        step(*args) for step in steps
    )
    same = functools.partial(np.testing.assert_allclose, rtol=1e-5)
    jax.tree.map(same, (value_again, stats_again), (value, stats))
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), stats, args[1])
    assert all(jax.tree.leaves(moved)) and bool(moved) == (name == "cgcnn")
    assert np.isfinite(value)
    total = np.linalg.norm([np.linalg.norm(leaf) for leaf in jax.tree.leaves(grads)])
    for leaf, leaf_again in zip(*map(jax.tree.leaves, (grads, grads_again)), strict=True):
        error = np.linalg.norm(np.subtract(leaf_again, leaf))
        assert error < 1e-4 * max(np.linalg.norm(leaf), 1e-3 * total)

    memory, memory_again = (step.memory_analysis().temp_size_in_bytes for step in steps)
    assert memory_again < 0.9 * memory
    # Other backends keep the residuals that JAX chooses.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    kept, kept_again = (kept_bytes(loss, *args) for loss in (plain, again))
    assert kept_again < 0.5 * kept


class Blocks(nn.Module):
    remat: bool = False

    @nn.compact
    def __call__(self, x):
        def block(k, x):
            return x + nn.Dense(3, name=f"block_{k}")(x)

        for k in range(2):
            x = remat_block(self, functools.partial(block, k))(x)
        return x


def test_parameters_start_the_same():
    x = np.ones((2, 3), np.float32)
    plain, again = (Blocks(remat).init(jax.random.key(0), x) for remat in (False, True))
    assert set(plain["params"]) == {"block_0", "block_1"}
    jax.tree.map(np.testing.assert_array_equal, plain, again)
