"""The compositions of formulas, added to their first tokens."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.packed_texts import pack, random_texts

from clac_jax.crystals.elements import MAX_ATOMIC_NUMBER
from clac_jax.input_pipeline.facts import FormulaView
from clac_jax.models import ModelError
from clac_jax.models.text.bert import BertSettings
from clac_jax.models.text.formulas import CompositionEmbedding
from clac_jax.text.compositions import fractions

SETTINGS = BertSettings(
    vocab_size=200,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=32,
    initializer_range=0.2,
)
FAST = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
LENGTHS = (9, 5, 7)


def view(*formulas):
    """Each formula at two tokens, from the second token on."""
    spans = [(1 + 2 * k, 3 + 2 * k) for k in range(len(formulas))]
    values = [fractions(each) for each in formulas]
    return FormulaView(
        np.array(spans, np.int32).reshape(-1, 2),
        np.array(values, np.float32).reshape(-1, MAX_ATOMIC_NUMBER + 1),
    )


def texts(*formulas, tiles=((20, 2),), **options):
    """Three texts; the second one has the formulas."""
    views = [
        (ids, None, None, view(*formulas) if row == 1 else view())
        for row, ids in enumerate(random_texts(3, LENGTHS))
    ]
    return pack(views, tiles, **options)


def test_first_tokens_get_the_vectors_of_their_formulas():
    module = CompositionEmbedding(SETTINGS)
    none = texts()
    hidden = jnp.asarray(np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32))
    params = module.init(jax.random.key(0), hidden, none)
    apply = jax.jit(module.apply, compiler_options=FAST)
    np.testing.assert_array_equal(apply(params, hidden, none), hidden)
    batch = texts("TiO2", "NaCl")
    added = np.asarray(apply(params, hidden, batch) - hidden)
    first = int(batch.first_token[1])
    assert np.flatnonzero(np.abs(added).sum(axis=1)).tolist() == [first + 1, first + 3]
    other = np.asarray(apply(params, hidden, texts("Ti2O4", "TiO2")) - hidden)
    np.testing.assert_allclose(other[[first + 1, first + 3]], added[[first + 1] * 2], atol=1e-6)
    assert np.abs(added[first + 1] - added[first + 3]).max() > 1e-3


def test_a_batch_without_compositions_is_refused():
    batch = texts().replace(formulas=None)
    with pytest.raises(ModelError, match="reads compositions, and the batch has none"):
        CompositionEmbedding(SETTINGS).init(jax.random.key(0), jnp.zeros((40, 8)), batch)


@pytest.fixture(scope="module")
def bert():
    """(params, texts) -> features and the gradient of their squares; and the parameters."""
    model = dataclasses.replace(SETTINGS, add_compositions=True).build()
    params = jax.jit(model.init, compiler_options=FAST)(jax.random.key(0), texts())["params"]

    @functools.partial(jax.jit, compiler_options=FAST)
    def run(params, batch):
        def loss(params):
            features = model.apply({"params": params}, batch).features
            return jnp.sum(jnp.square(features[:3])), features[:3]

        (_, features), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        return features, gradients

    return run, params


def test_a_formula_changes_the_vector_of_its_text_only(bert):
    run, params = bert
    words, gradients = run(params, texts())
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(gradients["compositions"]))
    composed, gradients = run(params, texts("TiO2"))
    assert np.abs(composed[1] - words[1]).max() > 1e-3
    np.testing.assert_array_equal(composed[0], words[0])
    np.testing.assert_array_equal(composed[2], words[2])
    for path, leaf in jax.tree.leaves_with_path(gradients):
        assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)
    assert np.abs(gradients["compositions"]["hidden"]["kernel"]).max() > 0


@pytest.mark.parametrize("tiles", [((12, 4),), ((9, 1), (32, 2))])
def test_packing_and_padding_change_nothing(bert, tiles):
    run, params = bert
    expected, expected_gradients = run(params, texts("TiO2", "NaCl"))
    found, gradients = run(params, texts("TiO2", "NaCl", tiles=tiles, num_examples=5))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
        gradients,
        expected_gradients,
    )
