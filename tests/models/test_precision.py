"""Mixed precision: bfloat16 in the encoders, float32 everywhere else."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.parity_fixtures import relative_error
from helpers.small_models import batch_of, examples, random_variables, small_config

from clac_jax.models import build_model, init_variables
from clac_jax.training.losses import loss_options, make_loss

SMALL_ORB = {"graph_encoder.hidden_features": 24}


def loss_and_gradients(config, variables, batch):
    model = build_model(config, vocab_size=100)
    loss_function = make_loss(loss_options(config))

    def loss(params):
        output, _ = model.apply(
            {**variables, "params": params}, batch, train=True, mutable=["batch_stats"]
        )
        return loss_function(output, batch)[0], output

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, output), gradients = step(variables["params"])
    return value, output, gradients


@pytest.mark.slow
@pytest.mark.parametrize(
    ("graphs", "texts"),
    [("painn", "bert"), ("cgcnn", "gpt2"), ("orb", "gemma3_text")],
)
def test_close_to_float32_and_parameters_stay_float32(graphs, texts):
    config = small_config(
        **{
            "graph_encoder.name": graphs,
            "text_encoder.config.model_type": texts,
            "text_encoder.dropout": 0.0,
            "lm_weight": 0.1,
        }
        | SMALL_ORB
    )
    batch = batch_of(examples(with_labels=True))
    variables = init_variables(build_model(config, vocab_size=100), config, batch)
    exact = loss_and_gradients(config, variables, batch)
    config.precision = "bfloat16"
    rounded = loss_and_gradients(config, variables, batch)
    assert rounded[0].dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(rounded[2])} == {jnp.dtype(jnp.float32)}
    assert {leaf.dtype for leaf in jax.tree.leaves(rounded[1].cross)} == {jnp.dtype(jnp.float32)}
    assert abs(float(rounded[0] - exact[0])) < 0.03 * abs(float(exact[0]))
    flat = [
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(run[2])]) for run in (rounded, exact)
    ]
    # Rounded, but not by much.
    assert 1e-4 < relative_error(*flat) < 0.1


def test_the_towers_multiply_in_bfloat16():
    config = small_config(precision="bfloat16")
    batch = batch_of(examples())
    model = build_model(config, vocab_size=100)
    variables = random_variables(model, batch)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    text = str(jax.make_jaxpr(lambda v: model.apply(v, batch))(variables))
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert sum("bf16[" in line.split("=")[0] for line in products) > 10
