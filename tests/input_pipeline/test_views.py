"""Random views of crystals and texts."""

import collections
import dataclasses

import numpy as np
import pytest
from helpers.crystals import random_crystal

from clac_jax.crystals.descriptors import describe
from clac_jax.crystals.elements import atomic_number
from clac_jax.datasets.record import DataError, Record
from clac_jax.input_pipeline.needs import TextFacts
from clac_jax.input_pipeline.prefetch import prefetched
from clac_jax.input_pipeline.views import (
    ViewOptions,
    draw,
    plain_views,
    train_views,
    without_formulas,
)
from clac_jax.text.sentences import IGNORED_LABEL, Tokenizer

OPTIONS = ViewOptions(cutoff=4.0, max_length=40)
WORDS = (
    "CsCl is a cubic salt. Each cesium atom has eight neighbors. The density is 3.9 g/cm3. "
    "CsCl is an insulator."
)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_folder("minilm")


@pytest.fixture(scope="module")
def records():
    rng = np.random.default_rng(0)
    crystals = [random_crystal(rng) for _ in range(23)]
    return [
        Record(
            material_id=f"m-{k}",
            lattice=crystal.lattice,
            atomic_numbers=crystal.atomic_numbers,
            positions=crystal.positions,
            formula="CsCl",
            gpt_text=WORDS,
        )
        for k, crystal in enumerate(crystals)
    ]


def same(left, right):
    """Whether two examples are equal bit for bit."""
    return (
        left.index == right.index
        and all(
            np.array_equal(getattr(a, field.name), getattr(b, field.name))
            for one, other in zip(left.graphs, right.graphs, strict=True)
            for a, b in ((one, other), (one.descriptors, other.descriptors))
            if a is not None
            for field in dataclasses.fields(a)
            if field.name != "descriptors"
        )
        and all(
            np.array_equal(a.ids, b.ids) for a, b in zip(left.tokens, right.tokens, strict=True)
        )
    )


def test_a_decoder_predicts_every_token_but_the_first(records, tokenizer):
    options = dataclasses.replace(OPTIONS, with_labels=True, causal=True)
    for view in train_views(records[0], 0, 3, 1, options, tokenizer).tokens:
        assert (view.labels[0], len(view.labels)) == (-100, len(view.ids))
        np.testing.assert_array_equal(view.labels[1:], view.ids[1:])
        assert tokenizer.mask_id not in view.ids  # nothing is masked


def test_views_depend_only_on_seed_epoch_and_index(records, tokenizer):
    def views(seed=3, epoch=1, index=5):
        return train_views(records[5], index, seed, epoch, OPTIONS, tokenizer)

    assert same(views(), views())
    for other in (views(seed=4), views(epoch=2), views(index=6)):
        assert not same(views(), dataclasses.replace(other, index=5))


def test_views_of_one_example_differ_from_each_other(records, tokenizer):
    example = train_views(records[5], 5, 0, 0, OPTIONS, tokenizer)
    assert len(example.graphs) == len(example.tokens) == 2
    assert not np.array_equal(example.graphs[0].lattice, example.graphs[1].lattice)
    np.testing.assert_allclose(example.graphs[0].lattice, records[5].lattice, rtol=1e-6)


def test_descriptors_and_numbers_are_added_and_change_nothing_else(records, tokenizer):
    options = dataclasses.replace(OPTIONS, descriptors=True, facts=TextFacts(numbers=True))
    expected = describe(records[5].crystal())
    for example in (
        train_views(records[5], 5, 0, 0, options, tokenizer),
        plain_views(records[5], 5, options, tokenizer),
    ):
        for graph in example.graphs:  # the distorted view has those of the original
            assert graph.descriptors.space_group == expected.space_group
            np.testing.assert_array_equal(graph.descriptors.sites, expected.sites)
        assert len(example.tokens[0].numbers) == len(example.tokens[0].ids)
    bare = dataclasses.replace(
        train_views(records[5], 5, 0, 0, options, tokenizer),
        graphs=tuple(
            dataclasses.replace(graph, descriptors=None)
            for graph in train_views(records[5], 5, 0, 0, options, tokenizer).graphs
        ),
    )
    assert same(bare, train_views(records[5], 5, 0, 0, OPTIONS, tokenizer))


def test_a_number_with_a_masked_token_has_its_value_at_none(records, tokenizer):
    options = dataclasses.replace(
        OPTIONS, facts=TextFacts(numbers=True), mask_prob=0.3, with_labels=True
    )
    pieces = tokenizer.encode("3.9", 8)[1:-1]
    assert len(pieces) == 3
    shown = hidden = 0
    for epoch in range(10):
        for index, record in enumerate(records):
            for view in train_views(record, index, 0, epoch, options, tokenizer).tokens:
                is_shown = view.labels == IGNORED_LABEL
                words = np.where(is_shown, view.ids, view.labels)
                places = range(len(words) - len(pieces) + 1)
                at = [k for k in places if np.array_equal(words[k : k + len(pieces)], pieces)]
                valued = np.zeros(len(words), bool)
                for k in at:
                    valued[k : k + len(pieces)] = is_shown[k : k + len(pieces)].all()
                np.testing.assert_array_equal(
                    view.numbers, np.where(valued, np.float32(3.9), np.nan)
                )
                shown, hidden = shown + valued.any(), hidden + bool(at and not valued.any())
    assert shown and hidden


def test_masked_tokens_do_not_say_their_elements(records, tokenizer):
    options = dataclasses.replace(
        OPTIONS, facts=TextFacts(compositions=True), mask_prob=0.3, with_labels=True
    )
    formula = tokenizer.encode("CsCl", 40)[1:-1]
    shown = hidden = 0
    for epoch in range(10):
        for index, record in enumerate(records):
            for view in train_views(record, index, 1, epoch, options, tokenizer).tokens:
                words = np.where(view.labels == IGNORED_LABEL, view.ids, -1)
                places = range(len(words) - len(formula) + 1)
                says = any(np.array_equal(words[k : k + len(formula)], formula) for k in places)
                assert says == view.composition[0].any()
                shown, hidden = shown + says, hidden + (not says)
    assert shown and hidden


def test_one_view_is_the_plain_crystal_and_the_full_text(records, tokenizer):
    options = dataclasses.replace(OPTIONS, graph_views=1, text_views=1, mask_prob=0.0)
    train = train_views(records[2], 2, 0, 0, options, tokenizer)
    assert same(train, plain_views(records[2], 2, options, tokenizer))
    dropping = dataclasses.replace(options, drop_in_single_text_view=True)
    seen = {
        train_views(records[2], 2, 0, e, dropping, tokenizer).tokens[0].ids.size for e in range(20)
    }
    assert len(seen) > 3


def test_formulas_are_replaced_from_the_start_epoch_on(records, tokenizer):
    options = dataclasses.replace(
        OPTIONS,
        text_views=1,
        mask_prob=0.0,
        replace_formula_prob=1.0,
        replace_formula_start_epoch=2,
    )
    texts = [
        tokenizer.decode(train_views(records[0], 0, 0, epoch, options, tokenizer).tokens[0].ids)
        for epoch in (1, 2)
    ]
    assert "cscl" in texts[0].lower()
    assert "cscl" not in texts[1].lower()
    assert "material" in texts[1]
    plain = plain_views(records[0], 0, options, tokenizer).tokens[0].ids
    assert "cscl" in tokenizer.decode(plain).lower()


@pytest.mark.parametrize(
    ("formula", "written"),
    [("FK", "KF"), ("IK", "KI"), ("NV", "VN"), ("CW", "WC"), ("NU", "UN"), ("HK", "KH")],
)
def test_the_formula_as_chemists_write_it_is_replaced_too(formula, written):
    numbers = np.array([atomic_number(symbol) for symbol in formula], np.int32)
    record = Record("m", np.eye(3), numbers, np.zeros((2, 3)), formula)
    words = f"{written} is cubic. In {written}, the cations have six neighbors."
    expected = "material is cubic. In material, the cations have six neighbors."
    assert without_formulas(words, record) == expected


def test_a_switched_augmentation_leaves_the_others_as_they_were(records, tokenizer):
    other = dataclasses.replace(OPTIONS, sentence_keep_prob=0.9)
    left, right = (train_views(records[1], 1, 0, 0, o, tokenizer) for o in (OPTIONS, other))
    np.testing.assert_array_equal(left.graphs[0].edge_vectors, right.graphs[0].edge_vectors)
    np.testing.assert_array_equal(left.graphs[1].edge_vectors, right.graphs[1].edge_vectors)


def test_drawn_sentences_explain_the_views(records, tokenizer):
    options = dataclasses.replace(OPTIONS, replace_formula_prob=0.5)
    replaced = []
    for index, record in enumerate(records):
        drawn = draw(record, index, 3, 1, options, tokenizer)
        views = train_views(record, index, 3, 1, options, tokenizer)
        assert len(drawn.crystals) == 2
        for text, tokens in zip(drawn.texts, views.tokens, strict=True):
            words = " ".join(text.sentences[k] for k in text.kept)
            assert text.words == (words.replace("CsCl", "material") if text.replaced else words)
            np.testing.assert_array_equal(tokens.ids, text.tokens.ids)
            replaced.append(text.replaced)
        np.testing.assert_array_equal(drawn.original.positions, record.positions)
        strained = drawn.crystals[1].lattice.astype(np.float32)
        np.testing.assert_array_equal(views.graphs[1].lattice, strained)
    assert {True, False} == set(replaced)


def test_some_texts_are_the_true_statements_of_the_question_lists(records, tokenizer):
    questions = {
        "structure_question_list": ("It is cubic.", "It is hexagonal."),
        "oxide_question_list": ("It is a halide.", "It is an oxide."),
    }
    asked = [dataclasses.replace(record, questions=questions) for record in records]
    options = dataclasses.replace(
        OPTIONS, statement_prob=0.4, text_views=1, drop_in_single_text_view=True
    )
    plain = dataclasses.replace(options, statement_prob=0.0)
    of_statements = 0
    for epoch in range(4):
        for index, record in enumerate(asked):
            drawn = draw(record, index, 3, epoch, options, tokenizer).texts[0]
            if "Cs" in drawn.words or "cesium" in drawn.words or "density" in drawn.words:
                assert drawn.words == draw(record, index, 3, epoch, plain, tokenizer).texts[0].words
            else:
                of_statements += 1
                assert drawn.words in {
                    "It is cubic.",
                    "It is a halide.",
                    "It is cubic. It is a halide.",
                    "It is a halide. It is cubic.",
                }
    assert 20 <= of_statements <= 55  # of 92; expected 37, and four deviations are 19
    # Where there are no questions, the narrative remains.
    for index, record in enumerate(records):
        view, other = (draw(record, index, 3, 0, each, tokenizer) for each in (options, plain))
        assert view.texts[0].words == other.texts[0].words


def test_some_texts_are_as_short_as_a_query(records, tokenizer):
    options = dataclasses.replace(OPTIONS, short_text_prob=0.4, mask_prob=0.0)
    plain = dataclasses.replace(options, short_text_prob=0.0)
    counts = collections.Counter()
    for index, record in enumerate(records):
        pairs = [draw(record, index, 3, 2, each, tokenizer).texts for each in (options, plain)]
        for short, other in zip(*pairs, strict=True):
            if short.words == other.words:
                continue
            assert short.words == " ".join(short.sentences[k] for k in short.kept)
            assert len(set(short.kept)) == len(short.kept)
            counts[len(short.kept)] += 1
    assert set(counts) == {1, 2}
    assert 6 <= counts.total() <= 30  # of 46; expected 18, and three deviations are 10


def test_some_texts_state_their_composition_only_in_words(records, tokenizer):
    options = dataclasses.replace(
        OPTIONS, facts=TextFacts(compositions=True), hide_composition_prob=0.4, mask_prob=0.0
    )
    plain = dataclasses.replace(options, hide_composition_prob=0.0)
    hidden = stated = 0
    for index, record in enumerate(records):
        pairs = [
            train_views(record, index, 3, 2, each, tokenizer).tokens for each in (options, plain)
        ]
        for some, every in zip(*pairs, strict=True):
            np.testing.assert_array_equal(some.ids, every.ids)
            if every.composition.any():
                stated += 1
                hidden += not some.composition.any()
            if some.composition.any():
                np.testing.assert_array_equal(some.composition, every.composition)
    assert 0.15 * stated < hidden < 0.65 * stated


def test_hidden_elements_are_in_neither_crystals_nor_texts(records, tokenizer):
    options = dataclasses.replace(OPTIONS, hide_elements_prob=0.4, descriptors=True)
    hidden = 0
    for index, record in enumerate(records):
        views, drawn = (
            make(record, index, 3, 1, options, tokenizer) for make in (train_views, draw)
        )
        plain = train_views(
            record, index, 3, 1, dataclasses.replace(options, hide_elements_prob=0.0), tokenizer
        )
        if not drawn.hidden:
            assert same(views, plain)
            continue
        hidden += 1
        for text in drawn.texts:
            assert text.hidden and text.replaced
            assert "CsCl" not in text.words and "cesium" not in text.words
        for graph, other in zip(views.graphs, plain.graphs, strict=True):
            assert not graph.atomic_numbers.any() and other.atomic_numbers.all()
            np.testing.assert_array_equal(graph.edge_vectors, other.edge_vectors)
            assert graph.descriptors.space_group == other.descriptors.space_group
            np.testing.assert_array_equal(graph.descriptors.cell, other.descriptors.cell)
            sites, known = graph.descriptors.sites, other.descriptors.sites
            # Distances, sizes and angles stay; the 92 numbers of each shell's elements go.
            assert sites.shape == known.shape == (len(graph.atomic_numbers), 12 + 2 * (11 + 92))
            for first, last in ((0, 23), (115, 126)):
                np.testing.assert_array_equal(sites[:, first:last], known[:, first:last])
            for first, last in ((23, 115), (126, 218)):
                assert known[:, first:last].any() and not sites[:, first:last].any()
        # What other epochs see is remembered elsewhere.
        assert describe(record.crystal()).sites[:, 23:115].any()
    assert 0 < hidden < len(records)


@pytest.mark.parametrize("num_threads", [1, 4])
def test_number_of_threads_changes_no_view(records, tokenizer, num_threads):
    def view(index):
        return train_views(records[index], index, 3, 1, OPTIONS, tokenizer)

    threaded = prefetched(range(len(records)), view, num_threads)
    assert all(same(a, b) for a, b in zip(threaded, map(view, range(len(records))), strict=True))


def test_a_bad_record_is_named_in_the_main_thread(records, tokenizer):
    broken = list(records)
    broken[7] = dataclasses.replace(records[7], lattice=np.diag([1.0, 1.0, 0.0]))

    def view(index):
        return train_views(broken[index], index, 3, 1, OPTIONS, tokenizer)

    with pytest.raises(DataError, match=r"Example 7 \(m-7\) cannot be used: .*volume"):
        list(prefetched(range(23), view, num_threads=2))
