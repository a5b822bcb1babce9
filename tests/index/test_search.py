"""Searches of a small index with a model whose vectors are known."""

import numpy as np
import pytest
from helpers import user_tables
from helpers.stub_model import StubModel
from helpers.word_model import TABLE, WordModel, crystal_with, words_index

import clac_jax
from clac_jax.index import ann, details
from clac_jax.index.build import embed
from clac_jax.index.filters import FilterError
from clac_jax.index.layout import IndexMismatchError
from clac_jax.index.query import Query, QueryError, combined
from clac_jax.index.search import Options, Searcher, model_of, query_of


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return words_index(tmp_path_factory.mktemp("words"))


@pytest.fixture
def searcher(index):
    return Searcher(index, WordModel())


def ids(hits):
    return [hit.id for hit in hits]


def test_a_text_finds_the_crystal_it_names(searcher):
    for name, symbols, _, _ in TABLE:
        hits = searcher.search(Query((" ".join(symbols),)), Options(1))
        assert ids(hits) == [name] and hits[0].score == pytest.approx(1, abs=1e-3)


def test_scores_are_the_cosines_of_all_rows_in_order(searcher):
    model = WordModel()
    expected = model.embed_crystals([crystal_with(row[1]) for row in TABLE])
    expected = expected @ model.embed_texts(["Ti O"])[0]
    hits = searcher.search(Query(("Ti O",)), Options(50))
    assert [hit.row for hit in hits] == np.argsort(-expected).tolist()
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(expected)[::-1], atol=1e-3)
    assert [hit.percentile for hit in hits] == pytest.approx([100 * (6 - k) / 6 for k in range(6)])


def test_a_hit_has_the_facts_of_its_crystal(searcher):
    (hit,) = searcher.search(Query(("Mg O",)), Options(1))
    assert (hit.row, hit.id, hit.formula) == (2, "a-3", "MgO")
    assert hit.properties["band_gap"] == 4.5 and hit.properties["n_atoms"] == 2
    assert hit.properties["crystal_system"] == "cubic"
    assert not {"id", "text", "elements", "lattice", "frac_coords"} & set(hit.properties)


def test_a_missing_property_is_left_out(searcher):
    (hit,) = searcher.search(Query(("Pb O",)), Options(1))
    assert hit.id == "a-5" and "band_gap" not in hit.properties


def test_the_condition_is_applied_before_the_best_are_taken(searcher):
    hits = searcher.search(Query(("Ti O",)), Options(1, "band_gap > 4"))
    assert ids(hits) == ["a-3"]  # not "a-2", which is the best of all


def test_percentiles_are_among_all_crystals(searcher):
    everything = {h.id: h.percentile for h in searcher.search(Query(("Ti O",)), Options(6))}
    for hit in searcher.search(Query(("Ti O",)), Options(6, "band_gap > 0.1")):
        assert hit.percentile == pytest.approx(everything[hit.id])


def test_fewer_rows_than_k_and_none(searcher):
    assert len(searcher.search(Query(("O",)), Options(5, "has('Pb')"))) == 2
    assert searcher.search(Query(("O",)), Options(5, "has('Au')")) == []


def test_only_hits_above_the_smallest_score(searcher):
    hits = searcher.search(Query(("Pb O",)), Options(6, min_score=0.9))
    assert ids(hits) == ["a-5"]


def test_the_sentence_that_matches_best_is_shown(searcher):
    (hit,) = searcher.search(Query(("Mg O white",)), Options(1))
    assert hit.sentence == "Mg O ceramic."
    (hit,) = searcher.search(Query(("Mg O It is white It is white",)), Options(1))
    assert hit.sentence == "It is white."
    (hit,) = searcher.search(Query(("Cs I",)), Options(1))
    assert hit.sentence is None  # it has no text


def test_sentences_are_embedded_once_and_for_the_first_hits_only(searcher):
    calls = searcher.model.calls
    searcher.search(Query(("Ti O",)), Options(6, sentences=0))
    assert calls == [1]
    searcher.search(Query(("Ti O",)), Options(6, sentences=2))
    assert calls == [1, 1, 4]
    searcher.search(Query(("Ti O",)), Options(6, sentences=2))
    assert calls == [1, 1, 4, 1]


def test_a_busy_server_leaves_sentences_out_until_they_are_known(searcher):
    searcher.max_new_texts = 1
    found = [
        [hit.sentence is not None for hit in searcher.search(Query(("Ti O",)), Options(3))]
        for _ in range(3)
    ]
    assert found == [[True, False, False], [True, True, False], [True, True, True]]


def test_many_rows_are_forgotten_except_the_last(searcher, monkeypatch):
    monkeypatch.setattr(details, "MAX_ITEMS", 2)  # also too few to read all
    small = Searcher(searcher.index, searcher.model)
    for k in range(6):
        (hit,) = small.search(Query(rows=(k,)), Options(1))
        assert hit.row == k
    assert list(small._details._items) == [4, 5]


def test_a_crystal_finds_itself_by_row_object_and_file(searcher, tmp_path):
    (tmp_path / "a.cif").write_text(crystal_with(("Pb", "Te")).to_cif())
    file = str(tmp_path / "a.cif")
    for query in (
        Query(rows=(3,)),
        Query(crystals=(file,)),
        Query(crystals=(crystal_with(("Te", "Pb")),)),
    ):
        assert ids(searcher.search(query, Options(1))) == ["a-4"]


def test_negative_texts_push_crystals_down(searcher):
    plain = ids(searcher.search(Query(("O",)), Options(6)))
    without = ids(searcher.search(Query(("O",), not_texts=("Pb",), not_weights=(1.0,)), Options(6)))
    assert plain.index("a-5") < without.index("a-5")
    assert ids(searcher.search(Query(not_texts=("Pb Te",)), Options(6)))[-1] == "a-4"


def test_a_mixture_is_the_mean_minus_the_weighted_mean():
    a, b, c, d = np.eye(4, dtype=np.float32)
    vector = combined(np.stack([a, b]), np.stack([c, d]), (0.5, 1.0))
    expected = np.array([0.5, 0.5, -0.25, -0.5])
    np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-6)
    one_weight = combined(np.stack([a]), np.stack([b]), (0.5,))
    np.testing.assert_allclose(one_weight[:2], np.array([1, -0.5]) / np.hypot(1, 0.5), atol=1e-6)
    with pytest.raises(QueryError, match="cancel each other"):
        combined(np.stack([a]), np.stack([a]), (1.0,))


def test_several_searches_together_are_those_one_by_one(searcher):
    requests = [
        (Query(("Ti O",)), Options(3)),
        (Query(("Pb",), not_texts=("Te",)), Options(2, "has('Pb')")),
        (Query(rows=(5,)), Options(1)),
        (Query(("O",), rows=(0,)), Options(4, "band_gap > 1", 0.2)),
    ]
    together = Searcher(searcher.index, WordModel()).search_many(requests)
    for (query, options), hits in zip(requests, together, strict=True):
        assert hits == searcher.search(query, options)
    assert searcher.search_many([]) == []


def test_texts_for_a_crystal(searcher):
    found = searcher.texts(Query(rows=(2,)), 2)
    assert (found[0].id, found[0].text) == ("a-3", "Mg O ceramic. It is white.")
    assert len(searcher.texts(Query(rows=(2,)), 50)) == 5  # one row has no text
    found = searcher.texts(Query(rows=(1,)), 5, ["Na Cl", "O Ti"])
    assert [(hit.row, hit.text, hit.id) for hit in found] == [(1, "O Ti", None), (0, "Na Cl", None)]


def test_an_index_without_vectors_of_texts_says_so(tmp_path):
    searcher = Searcher(words_index(tmp_path, texts=False), WordModel())
    with pytest.raises(QueryError, match="has no vectors of texts"):
        searcher.texts(Query(rows=(2,)), 2)
    assert searcher.search(Query(("Mg O",)), Options(1))[0].sentence == "Mg O ceramic."


def test_an_approximate_index_is_used_without_a_condition(index, monkeypatch):
    class Backwards:
        """Finds the last rows first, with wrong scores, and too few of them."""

        def search(self, queries, k):
            rows = np.array([[5, 4, 3, -1, -1, -1]][:k] * len(queries))
            return np.zeros(rows.shape, np.float32), rows

    monkeypatch.setattr(ann, "open_ann", lambda opened: Backwards())
    approximate = Searcher(index, WordModel(), use_ann=True)
    exact = {hit.row: hit.score for hit in Searcher(index, WordModel()).search(Query(("O",)))}
    hits = approximate.search(Query(("O",)), Options(6))
    assert {hit.row for hit in hits} == {3, 4, 5}
    assert [hit.score for hit in hits] == sorted((exact[row] for row in (3, 4, 5)), reverse=True)
    assert len(approximate.search(Query(("O",)), Options(6, "n_atoms > 0"))) == 6


def test_another_models_index_is_refused(index):
    with pytest.raises(IndexMismatchError, match="was made by the model words"):
        Searcher(index, WordModel(seed=1))


def test_a_crystal_of_the_index_has_the_cosine_1_with_itself(tmp_path):
    rows = [user_tables.row(k) for k in range(40)]
    table = user_tables.write(tmp_path / "t.jsonl", rows)
    index = embed(StubModel(), [str(table)], tmp_path / "idx")
    searcher = Searcher(index, StubModel())
    for row in range(40):
        (hit,) = searcher.search(Query(rows=(row,)), Options(1))
        assert (hit.row, hit.percentile) == (row, 100.0)
        assert 1 - 2e-7 < hit.score <= 1


def test_a_model_that_is_gone_is_named(index):
    with pytest.raises(QueryError, match="made by the model words, which cannot be loaded"):
        model_of(index)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Query(), "The query is empty"),
        (lambda: Query(("a", " ")), "A text of the query is empty"),
        (lambda: Query(("\ud800",)), "not valid Unicode"),
        (lambda: Query(("a",), not_texts=("b",), not_weights=(0.0,)), "weight 0.0"),
        (lambda: Query(("a",), not_texts=("b",), not_weights=(1.0, 2.0)), "2 weights for 1"),
        (lambda: Query(rows=(1,) * 1001), "more than 1,000 parts"),
        (lambda: Options(0), "k is 0"),
        (lambda: Options(10**9), "k is 1000000000"),
        (lambda: query_of(Query(("a",)), 3, ()), "Give it without others"),
    ],
)
def test_queries_that_cannot_be_used(make, words):
    with pytest.raises(QueryError, match=words):
        make()


def test_rows_and_conditions_that_do_not_exist(searcher):
    with pytest.raises(QueryError, match="There is no row 6"):
        searcher.search(Query(rows=(6,)))
    with pytest.raises(FilterError, match="no column gap"):
        searcher.search(Query(("O",)), Options(1, "gap > 1"))


def test_the_method_of_an_index(index):
    opened = clac_jax.Index(index.path)
    opened.__dict__["_searcher"] = Searcher(opened, WordModel())  # in place of the recorded model
    assert ids(opened.search("Ti O", k=1)) == ["a-2"]
    assert ids(opened.search(["Pb", "O"], not_text="Te", k=1, where="has('Pb')")) == ["a-5"]
    assert ids(opened.search(crystal=4, k=1)) == ["a-5"]
    assert ids(opened.search(crystal=[crystal_with(("Cs", "I"))], k=6, min_score=0.99)) == ["a-6"]
    assert ids(opened.search(Query(("Mg O",)), k=1)) == ["a-3"]
