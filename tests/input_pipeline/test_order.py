"""The order of examples as a function of seed and epoch."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clac_jax.datasets.crystal_table import CrystalTable
from clac_jax.datasets.record import Record
from clac_jax.errors import ConfigError
from clac_jax.input_pipeline.order import epoch_order, eval_rows, train_rows
from clac_jax.input_pipeline.share import Share

ORDER = epoch_order(seed=3, epoch=1, num_examples=23)


def test_an_epoch_is_a_permutation_without_the_remainder():
    assert train_rows(ORDER, 0, batch_size=4).ravel().tolist() == ORDER[:20].tolist()
    assert sorted(ORDER) == list(range(23))
    assert ORDER.tolist() != epoch_order(3, 2, 23).tolist()
    assert ORDER.tolist() != epoch_order(4, 1, 23).tolist()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(0, 3))
def test_groups_stay_together_and_are_shuffled(groups, epoch):
    order = epoch_order(3, epoch, len(groups), np.array(groups))
    assert sorted(order) == list(range(len(groups)))
    in_order = [groups[index] for index in order]
    blocks = [group for group, _ in itertools.groupby(in_order)]
    # Groups and their members are in the order of the ungrouped shuffle, each group once.
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
            gpt_text="A salt.",
        )
        for k, pair in enumerate(pairs)
    ]
    table = CrystalTable.of(records)
    by_formula, by_elements = table.formula, table.elements
    for (i, left), (j, right) in itertools.product(enumerate(pairs), repeat=2):
        assert (by_formula[i] == by_formula[j]) == (sorted(left) == sorted(right))
        assert (by_elements[i] == by_elements[j]) == (set(left) == set(right))


@pytest.mark.parametrize("start", [4, 8, 16, 20])
def test_starting_in_the_middle_gives_the_exact_tail(start):
    np.testing.assert_array_equal(
        train_rows(ORDER, start, 4), train_rows(ORDER, 0, 4)[start // 4 :]
    )


def test_another_batch_size_takes_the_same_examples():
    assert train_rows(ORDER, 0, 10).ravel().tolist() == ORDER[:20].tolist()
    assert train_rows(ORDER, 8, 6).ravel().tolist() == ORDER[8:20].tolist()


def test_accumulated_batches_are_consecutive():
    rows = train_rows(ORDER, 0, batch_size=2, accumulate_steps=2)
    assert rows.shape == (5, 2, 2)
    assert rows.ravel().tolist() == ORDER[:20].tolist()


def test_processes_split_each_batch():
    parts = [train_rows(ORDER, 0, 4, 2, Share(index, num_processes=2)) for index in range(2)]
    assert parts[0].shape == (2, 2, 2)
    np.testing.assert_array_equal(np.concatenate(parts, axis=-1), train_rows(ORDER, 0, 4, 2))


@pytest.mark.parametrize(("num_processes", "sizes"), [(1, [6, 6, 6, 5]), (2, [3, 3, 3, 3])])
def test_evaluation_takes_every_example_once(num_processes, sizes):
    shares = [Share(index, num_processes) for index in range(num_processes)]
    rows = [eval_rows(23, batch_size=6, share=share) for share in shares]
    assert [len(row) for row in rows[0]] == sizes
    assert sorted(index for part in rows for row in part for index in row) == list(range(23))


def test_every_process_has_the_same_number_of_batches_where_the_last_one_is_short():
    first, second = (eval_rows(8, batch_size=6, share=Share(index, 2)) for index in range(2))
    assert [list(row) for row in first] == [[0, 1, 2], [6, 7]]
    assert [list(row) for row in second] == [[3, 4, 5], []]


def test_a_step_larger_than_the_split_is_refused():
    with pytest.raises(ConfigError, match=r"takes 24 examples .* has only 23"):
        train_rows(ORDER, 0, batch_size=12, accumulate_steps=2)
