"""The content of a map, from an index."""

import numpy as np
import pytest
from helpers.stub_index import StubIndex

from clac_jax.map import data as map_data
from clac_jax.map.data import own_ranks, read
from clac_jax.map.layout import MapError


@pytest.fixture(scope="module")
def index():
    return StubIndex(120)


@pytest.fixture(scope="module")
def small(index):
    return read(index, "pca", 0)


def test_own_ranks_of_a_small_example():
    crystals = np.array([[1, 0], [0, 1], [0.6, 0.8], [0, 1]], np.float32)
    texts = np.array([[1, 0], [0, 1], [0.8, 0.6]], np.float32)
    # Text 0: own crystal 0 is best. Text 1: own crystal 1 ties with 3: (1 + 2) / 2.
    # Text 2: scores 0.8, 0.6, 0.96, 0.6; own crystal 3 ties with 1: (3 + 4) / 2.
    ranks = own_ranks([texts[:2], texts[2:]], [crystals[:1], crystals[1:]], np.array([0, 1, 3]))
    assert ranks.tolist() == [1, 1.5, 3.5]


def test_texts_belong_to_their_crystals_where_some_have_none(index, small):
    without = np.arange(6, 120, 7)
    assert not set(without) & set(small.text_rows)
    assert len(small.text_rows) == 120 - len(without)
    assert [small.sentences[row] for row in without] == [None] * len(without)
    shown = " ".join(small.sentences[0])
    assert shown == index.items(["text"])["text"][0].as_py()
    np.testing.assert_array_equal(small.text_vectors, index.text_shards()[0][small.text_rows])
    ranks = small.column("own_rank").values
    assert np.isnan(ranks[without]).all()
    assert np.isfinite(ranks[small.text_rows]).all()
    assert len(small.layout.texts) == len(small.text_rows)


def test_the_map_says_what_it_was_made_of(small):
    assert small.provenance["model"] == "stub"
    assert small.provenance["step"] == 7
    assert small.provenance["data"] == "materials_project_mini"
    assert small.provenance["checksum"].startswith("0123456789ab")


def test_an_unknown_column_is_refused_with_those_there_are(small):
    with pytest.raises(MapError, match=r"'bandgap' is not a column .* family, .*band_gap"):
        small.column("bandgap")


def test_a_map_of_very_many_crystals_has_positions_and_colours_only(index, monkeypatch):
    monkeypatch.setattr(map_data, "MAX_DETAILED", 100)
    large = read(index, "pca", 0)
    assert large.vectors is large.text_vectors is large.sentences is large.structures is None
    assert len(large.layout.crystals) == 120
    assert "own_rank" not in [column.key for column in large.columns]
