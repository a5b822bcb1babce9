"""A model of one property."""

import dataclasses

import jax
import numpy as np
from helpers.small_models import batch_of, examples, small_config

from clac_jax.models.encoders import build_graph_encoder
from clac_jax.models.property_model import PropertyModel


def test_a_fresh_model_says_the_mean_and_all_of_it_learns():
    batch = batch_of(examples(num_views=1), num_views=1)
    batch = dataclasses.replace(batch, labels=np.ones(3, np.float32))
    encoder = build_graph_encoder(small_config(**{"graph_encoder.name": "composition"}))
    model = PropertyModel(encoder, num_outputs=1)
    variables = model.init(jax.random.key(0), batch)
    variables["batch_stats"] |= {"label_mean": np.float32(3.0), "label_std": np.float32(2.0)}
    output = model.apply(variables, batch)
    np.testing.assert_array_equal(output.outputs, 0)
    np.testing.assert_array_equal(output.values, 3.0)

    def gradient(params):
        def loss(params):
            outputs = model.apply(variables | {"params": params}, batch).outputs
            return ((outputs - 1.0) ** 2).mean()

        return jax.grad(loss)(params)

    # The first step moves only the head; from then on, the encoder learns as well.
    params = variables["params"]
    first = gradient(params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(first["graph_encoder"]))
    params = jax.tree.map(lambda leaf, grad: leaf - 0.1 * grad, params, first)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient(params)["property_head"]))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient(params)["graph_encoder"]))
