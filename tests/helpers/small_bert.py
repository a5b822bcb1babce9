"""A small BERT, for the tests of what is added to it."""

import functools

import jax
import jax.numpy as jnp

from clac_jax.models.text.bert import BertSettings

SETTINGS = BertSettings(
    vocab_size=200,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=32,
    initializer_range=0.2,
)
# Reduced optimization: everything runs once.
FAST = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
LENGTHS = (9, 5, 7)


def features_and_gradients(model, texts):
    """(params, texts) -> features of three texts, gradient of their squares; and the parameters."""
    params = jax.jit(model.init, compiler_options=FAST)(jax.random.key(0), texts)["params"]

    @functools.partial(jax.jit, compiler_options=FAST)
    def run(params, batch):
        def loss(params):
            features = model.apply({"params": params}, batch).features
            return jnp.sum(jnp.square(features[:3])), features[:3]

        (_, features), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        return features, gradients

    return run, params
