"""Each text is embedded once per model."""

import numpy as np
import pytest
from helpers.pools import StubModel

from clac_jax.evaluation.text_vectors import vectors_of
from configs import smoke


class Counting(StubModel):
    def __init__(self):
        super().__init__(smoke.get_config())
        self.asked = []

    def embed_texts(self, texts, progress=True):
        self.asked += texts
        if not texts:
            raise ValueError("no texts")
        return super().embed_texts(texts)


def test_each_distinct_text_is_embedded_once():
    model, other = Counting(), Counting()
    first = vectors_of(model, ["b", "a", "b"])
    np.testing.assert_array_equal(first[0], first[2])
    np.testing.assert_array_equal(vectors_of(model, ["a", "c"])[0], first[1])
    assert sorted(model.asked) == ["a", "b", "c"]
    vectors_of(other, ["a"])
    assert other.asked == ["a"]


def test_no_texts_are_refused_as_by_the_model():
    with pytest.raises(ValueError, match="no texts"):
        vectors_of(Counting(), [])
