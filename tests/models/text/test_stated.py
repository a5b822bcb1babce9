"""The compositions that texts state, added to their features."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest
from helpers.packed_texts import pack, random_texts
from helpers.small_bert import LENGTHS, SETTINGS, features_and_gradients

from clac_jax.crystals.elements import MAX_ATOMIC_NUMBER, atomic_number
from clac_jax.models import ModelError
from clac_jax.models.text.stated import StatedComposition


def stated(*symbols):
    """A text's composition: equal shares of these elements, which it also names."""
    values = np.zeros((2, MAX_ATOMIC_NUMBER + 1), np.float32)
    for symbol in symbols:
        values[:, atomic_number(symbol)] = 1 / len(symbols), 1
    return values


def texts(*symbols, tiles=((20, 2),), **options):
    """Three texts; the second one states the elements."""
    views = [
        (ids, None, None, stated(*symbols) if row == 1 else stated())
        for row, ids in enumerate(random_texts(3, LENGTHS))
    ]
    return pack(views, tiles, **options)


def test_a_batch_without_compositions_is_refused():
    with pytest.raises(ModelError, match="reads compositions, and the batch has none"):
        StatedComposition(8).init(jax.random.key(0), texts().replace(compositions=None))


@pytest.fixture(scope="module", params=["mean", "attention"])
def bert(request):
    """(params, texts) -> features and the gradient of their squares; and the parameters."""
    model = dataclasses.replace(SETTINGS, add_compositions=True).build(feature=request.param)
    return features_and_gradients(model, texts())


def test_a_composition_changes_the_vector_of_its_text_only(bert):
    run, params = bert
    words, gradients = run(params, texts())
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(gradients["compositions"]))
    composed, gradients = run(params, texts("Ti", "O"))
    assert np.abs(composed[1] - words[1]).max() > 1e-2
    np.testing.assert_array_equal(composed[0], words[0])
    np.testing.assert_array_equal(composed[2], words[2])
    assert np.abs(run(params, texts("Ti", "O", "Sr"))[0][1] - composed[1]).max() > 1e-3
    for path, leaf in jax.tree.leaves_with_path(gradients):
        assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)
    assert np.abs(gradients["compositions"]["hidden"]["kernel"]).max() > 0


@pytest.mark.parametrize("tiles", [((12, 4),), ((9, 1), (32, 2))])
def test_packing_and_padding_change_nothing(bert, tiles):
    run, params = bert
    expected, expected_gradients = run(params, texts("Ti", "O"))
    found, gradients = run(params, texts("Ti", "O", tiles=tiles, num_examples=5))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
        gradients,
        expected_gradients,
    )
