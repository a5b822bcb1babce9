"""Vectors in place of crystals, in arrays of any library or in lists."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.crystals import NACL

from clac_jax.inference.errors import InputError

FORMS = {
    "jax": jnp.asarray,
    "rows": list,
    "lists": np.ndarray.tolist,
    "rows of jax": lambda vectors: tuple(map(jnp.asarray, vectors)),
    "float64": lambda vectors: vectors.astype(np.float64),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_vectors_in_any_form_give_the_same_ranks_and_labels(model, crystals, form):
    vectors = model.embed_crystals(crystals)
    expected, found = (model.rank("salt", given) for given in (vectors, form(vectors)))
    np.testing.assert_array_equal(found, expected)
    labels = ["a salt", "a metal"]
    classes = model.classify(vectors, labels)
    np.testing.assert_array_equal(model.classify(form(vectors), labels), classes)
    np.testing.assert_array_equal(model.classify(vectors, iter(labels)), classes)


def test_crystals_in_an_array_are_embedded(model, crystals, tmp_path):
    (tmp_path / "a.cif").write_text(NACL)
    paths = [str(tmp_path / "a.cif")] * 2
    for given in (np.array(paths), np.array(paths, object), np.array(crystals[:2])):
        expected = model.rank("salt", list(given))
        np.testing.assert_array_equal(model.rank("salt", given), expected)
        assert model.classify(given, ["a salt", "a metal"]).shape == (2, 2)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.ones((2, 16)) + 1j, "not real numbers"),
        ([[1.0] * 16, [1.0] * 15], "not real numbers"),
        (np.ones(16), r"the shape \(16,\)"),
        ([[1.0, 2.0]], r"the shape \(1, 2\)"),
    ],
)
def test_arrays_that_are_not_vectors_of_the_model_are_refused(model, values, words):
    with pytest.raises(InputError, match=f"crystal vectors .*{words}"):
        model.rank("salt", values)
    with pytest.raises(InputError, match="text vectors"):
        model.scores(np.full((2, 16), "1"), model.embed_texts(["salt"]))
