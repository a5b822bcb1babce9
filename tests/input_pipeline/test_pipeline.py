import dataclasses
import itertools

import numpy as np
import pytest
from helpers.crystals import random_crystal
from hypothesis import given
from hypothesis import strategies as st

from clac_jax.config.schema import ConfigError
from clac_jax.datasets.crystal_table import CrystalTable
from clac_jax.datasets.record import DataError, Record
from clac_jax.input_pipeline import pipeline as input_pipeline
from clac_jax.input_pipeline.pipeline import (
    ViewOptions,
    epoch_order,
    plain_views,
    train_views,
)
from clac_jax.text.sentences import Tokenizer

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
    """Whether two examples are equal to the bit."""
    return (
        left.index == right.index
        and all(
            np.array_equal(getattr(a, field.name), getattr(b, field.name))
            for a, b in zip(left.graphs, right.graphs, strict=True)
            for field in dataclasses.fields(a)
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


def batches(records, tokenizer, seed=3, epoch=1, start=0, options=OPTIONS, **how):
    how = {"batch_size": 4, "num_threads": 0, **how}
    return list(
        input_pipeline.train_batches(
            lambda index: train_views(records[index], index, seed, epoch, options, tokenizer),
            lambda rows: rows,
            epoch_order(seed, epoch, len(records)),
            start,
            **how,
        )
    )


def flat(all_batches):
    return [example for rows in all_batches for row in rows for example in row]


def assert_same(left, right):
    assert len(left) == len(right)
    assert all(same(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("num_threads", [1, 4])
def test_number_of_threads_changes_nothing(records, tokenizer, num_threads):
    threaded = flat(batches(records, tokenizer, num_threads=num_threads))
    assert_same(threaded, flat(batches(records, tokenizer)))


def test_an_epoch_is_a_permutation_without_the_remainder(records, tokenizer):
    indices = [example.index for example in flat(batches(records, tokenizer))]
    assert indices == epoch_order(3, 1, 23)[:20].tolist()
    assert len(set(indices)) == 20
    assert sorted(epoch_order(3, 1, 23)) == list(range(23))
    assert epoch_order(3, 1, 23).tolist() != epoch_order(3, 2, 23).tolist()
    assert epoch_order(3, 1, 23).tolist() != epoch_order(4, 1, 23).tolist()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(0, 3))
def test_groups_stay_together_and_are_shuffled(groups, epoch):
    order = epoch_order(3, epoch, len(groups), np.array(groups))
    assert sorted(order) == list(range(len(groups)))
    in_order = [groups[index] for index in order]
    blocks = [group for group, _ in itertools.groupby(in_order)]
    # Groups and their members come in the order of the free shuffle, each group once.
    free = epoch_order(3, epoch, len(groups))
    assert blocks == list(dict.fromkeys(groups[index] for index in free))
    for group in blocks:
        members = [index for index in order if groups[index] == group]
        assert members == [index for index in free if groups[index] == group]


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=12))
def test_a_group_has_one_formula_or_one_set_of_elements(pairs):
    records = [
        Record(
            material_id=f"m-{k}",
            lattice=np.eye(3),
            atomic_numbers=np.array(pair),
            positions=np.zeros((2, 3)),
            formula="-".join(map(str, sorted(pair))),
            gpt_text=WORDS,
        )
        for k, pair in enumerate(pairs)
    ]
    table = CrystalTable.of(records)
    by_formula, by_elements = table.formula, table.elements
    for (i, left), (j, right) in itertools.product(enumerate(pairs), repeat=2):
        assert (by_formula[i] == by_formula[j]) == (sorted(left) == sorted(right))
        assert (by_elements[i] == by_elements[j]) == (set(left) == set(right))


@pytest.mark.parametrize("start", [4, 8, 16])
def test_starting_in_the_middle_gives_the_exact_tail(records, tokenizer, start):
    whole = flat(batches(records, tokenizer))
    assert_same(flat(batches(records, tokenizer, start=start)), whole[start:])


def test_another_batch_size_takes_the_same_examples(records, tokenizer):
    whole = flat(batches(records, tokenizer))
    assert_same(flat(batches(records, tokenizer, batch_size=10)), whole)
    tail = flat(batches(records, tokenizer, start=8, batch_size=6))
    assert_same(tail, whole[8:20])


def test_accumulated_batches_are_consecutive(records, tokenizer):
    whole = flat(batches(records, tokenizer))
    steps = batches(records, tokenizer, batch_size=2, accumulate_steps=2)
    assert [[len(row) for row in step] for step in steps] == [[2, 2]] * 5
    assert_same(flat(steps), whole)


def test_processes_split_each_batch(records, tokenizer):
    parts = [
        batches(records, tokenizer, process_index=k, process_count=2, accumulate_steps=2)
        for k in range(2)
    ]
    joined = [
        example
        for steps in zip(*parts, strict=True)
        for rows in zip(*steps, strict=True)
        for row in rows
        for example in row
    ]
    assert_same(joined, flat(batches(records, tokenizer, accumulate_steps=2)))


def test_views_depend_on_seed_epoch_and_index_alone(records, tokenizer):
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


def test_a_switched_augmentation_leaves_the_others_as_they_were(records, tokenizer):
    other = dataclasses.replace(OPTIONS, sentence_keep_prob=0.9)
    left, right = (train_views(records[1], 1, 0, 0, o, tokenizer) for o in (OPTIONS, other))
    np.testing.assert_array_equal(left.graphs[0].edge_vectors, right.graphs[0].edge_vectors)
    np.testing.assert_array_equal(left.graphs[1].edge_vectors, right.graphs[1].edge_vectors)


def test_evaluation_takes_every_example_once(records, tokenizer):
    sizes = [
        len(batch)
        for batch in input_pipeline.eval_batches(
            lambda index: plain_views(records[index], index, OPTIONS, tokenizer),
            list,
            len(records),
            batch_size=6,
        )
    ]
    assert sizes == [6, 6, 6, 5]


def test_a_bad_record_is_named_in_the_main_thread(records, tokenizer):
    broken = list(records)
    lattice = np.diag([1.0, 1.0, 0.0])
    broken[7] = dataclasses.replace(records[7], lattice=lattice)
    with pytest.raises(DataError, match=r"Example 7 \(m-7\) cannot be used: .*volume"):
        batches(broken, tokenizer, num_threads=2)


def test_a_step_larger_than_the_split_is_refused(records, tokenizer):
    with pytest.raises(ConfigError, match=r"takes 24 examples .* has only 23"):
        batches(records, tokenizer, batch_size=12, accumulate_steps=2)
