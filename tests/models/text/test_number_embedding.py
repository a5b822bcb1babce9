"""The values of numbers, added to their tokens."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.packed_texts import pack, random_texts
from helpers.small_bert import FAST, LENGTHS, SETTINGS, features_and_gradients

from clac_jax.models import ModelError
from clac_jax.models.text.numbers import NumberEmbedding

NONE = np.nan


def texts(values=None, tiles=((20, 2),), **options):
    """Three texts, the tokens 2 to 4 of the second one with these values."""
    views = []
    for row, ids in enumerate(random_texts(3, LENGTHS)):
        numbers = np.full(len(ids), NONE, np.float32)
        if row == 1 and values is not None:
            numbers[2:5] = values
        views.append((ids, None, numbers))
    return pack(views, tiles, **options)


@pytest.fixture(scope="module")
def embed():
    """Values -> the vectors of tokens with these values."""
    batch = texts()
    module = NumberEmbedding(SETTINGS)
    others = jnp.zeros((len(batch.numbers), SETTINGS.hidden_size))
    params = module.init(jax.random.key(0), others, batch)

    @functools.partial(jax.jit, compiler_options=FAST)
    def apply(numbers):
        return module.apply(params, others, batch.replace(numbers=numbers))

    def embed(*values):
        numbers = np.full(batch.numbers.shape, NONE, np.float32)
        numbers[: len(values)] = values
        found = np.asarray(apply(numbers))
        assert np.all(found[len(values) :] == 0)
        return found[: len(values)]

    return embed


@pytest.mark.parametrize("where", ["first", "spread", "last"])
def test_few_numbers_get_the_vectors_and_gradients_that_many_get(where):
    # Of 40 tokens, at most 8 may be of numbers for the faster way.
    values = np.float32([0, 1, -2, 0.5, 2.08, 2.09, 225, 1e6])
    places = {"first": np.arange(8), "spread": 4 * np.arange(8) + 3, "last": np.arange(32, 40)}[
        where
    ]
    few = np.full(40, NONE, np.float32)
    few[places] = values
    many = few.copy()
    many[np.flatnonzero(np.isnan(few))[:20]] = 7.5
    batch, module = texts(), NumberEmbedding(SETTINGS)
    rng = np.random.default_rng(0)
    hidden, weights = rng.normal(size=(2, 40, SETTINGS.hidden_size)).astype(np.float32)
    weights[np.isnan(few)] = 0
    params = module.init(jax.random.key(0), jnp.asarray(hidden), batch)

    @functools.partial(jax.jit, compiler_options=FAST)
    def run(numbers):
        def weighted(params, hidden):
            found = module.apply(params, hidden, batch.replace(numbers=numbers))
            return jnp.vdot(found, weights), found

        grad = jax.value_and_grad(weighted, (0, 1), has_aux=True)
        (_, found), gradients = grad(params, jnp.asarray(hidden))
        return found, gradients

    (found, gradients), (expected, expected_gradients) = run(few), run(many)
    np.testing.assert_allclose(found[places], expected[places], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(found[np.isnan(few)], hidden[np.isnan(few)])
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        gradients,
        expected_gradients,
    )
    assert np.abs(found[places] - hidden[places]).min(axis=1).max() > 0


def test_values_have_vectors_of_their_own_and_other_tokens_none(embed):
    values = [0, 1, -1, 0.5, -0.5, 2.08, 2.09, 224, 225, 225.5, 255, 256, 1e9, -3e38, 1e-30]
    found = embed(*values)
    assert np.isfinite(found).all()
    distances = np.linalg.norm(found[:, None] - found, axis=-1)
    assert distances[~np.eye(len(values), dtype=bool)].min() > 1e-4
    # Neighbouring space groups are as different as any two.
    assert np.linalg.norm(found[7] - found[8]) > 0.1


def test_a_batch_without_numbers_is_refused():
    with pytest.raises(ModelError, match="reads the values of numbers, and the batch has none"):
        NumberEmbedding(SETTINGS).init(
            jax.random.key(0), jnp.zeros((40, 8)), texts().replace(numbers=None)
        )


# --- in BERT


@pytest.fixture(scope="module")
def bert():
    """(params, texts) -> features and the gradient of their squares; and the parameters."""
    model = dataclasses.replace(SETTINGS, numbers_at=(0,)).build()
    return features_and_gradients(model, texts())


def test_numbers_change_the_vector_of_their_text_only(bert):
    run, params = bert
    words, _ = run(params, texts())
    numbered, gradients = run(params, texts(2.08))
    assert np.abs(numbered[1] - words[1]).max() > 1e-3
    np.testing.assert_array_equal(numbered[0], words[0])
    np.testing.assert_array_equal(numbered[2], words[2])
    assert np.abs(run(params, texts(2.09))[0][1] - numbered[1]).max() > 1e-5
    for path, leaf in jax.tree.leaves_with_path(gradients):
        assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)


def test_texts_without_numbers_are_only_words(bert):
    run, params = bert
    words, gradients = run(params, texts())
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(gradients["numbers_0"]))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    plain = {name: value for name, value in params.items() if name != "numbers_0"}
    expected = jax.jit(SETTINGS.build().apply)({"params": plain}, texts()).features
    np.testing.assert_allclose(words, expected[:3], rtol=1e-5, atol=1e-6)


def test_padding_changes_nothing(bert):
    run, params = bert
    tight, loose = texts(2.08), texts(2.08, ((24, 1), (30, 1)), num_examples=5)
    for one, other in zip(
        jax.tree.leaves(run(params, tight)), jax.tree.leaves(run(params, loose)), strict=True
    ):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)
