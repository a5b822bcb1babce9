"""Packing in one process, and the shape on which several processes agree."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest
from helpers.crystals import rock_salt

from clac_jax.crystals.graph import build_graph
from clac_jax.errors import ConfigError
from clac_jax.input_pipeline.batch import BatchShape
from clac_jax.input_pipeline.example import ExampleViews, TokenView
from clac_jax.input_pipeline.packing import (
    chunk_size,
    in_one_shape,
    pack_eval,
    pack_train,
)
from clac_jax.input_pipeline.share import Share

GRAPH = build_graph(rock_salt(), 3.0)


def examples(count, length=4):
    return [
        ExampleViews(k, (GRAPH,), (TokenView(np.full(length, 7, np.int32)),)) for k in range(count)
    ]


@dataclass
class TwoShapes:
    """A plan with a small shape and one with four times its token slots."""

    num_examples: int

    def shape(self, number):
        count = self.num_examples
        tokens = ((4 * 4**number, count),)
        return BatchShape(count, 1, 1, ((8, count),), 48 * count, tokens)

    def number_of(self, parts):
        return int(any(len(e.tokens[0].ids) > 4 for part in parts for e in part))


def test_leading_axes_are_devices_accumulation_and_chunks():
    micro_batches = [examples(4), examples(4)]
    plain = pack_train(micro_batches, TwoShapes(2), num_devices=2, per_device=2).batch
    assert plain.example_index.shape == (2, 2, 2)
    assert plain.example_index[1].tolist() == [[2, 3], [2, 3]]
    chunked = pack_train(micro_batches, TwoShapes(1), 2, 2, num_chunks=2).batch
    assert chunked.example_index.shape == (2, 2, 2, 1)
    assert chunked.example_index[1, 0].tolist() == [[2], [3]]


def test_a_short_batch_leaves_the_last_devices_empty():
    batch = pack_eval(examples(3), TwoShapes(2), num_devices=3, per_device=2).batch
    assert batch.example_mask.tolist() == [[True, True], [True, False], [False, False]]


@pytest.mark.parametrize("num_processes", [1, 2])
def test_each_batch_has_the_shape_that_the_neediest_process_needs(num_processes):
    """The other process needs the large shape in batch 1, this one in batch 2."""
    theirs = iter([0, 1, 0])
    asked = []

    def maximum(values):
        asked.append(values[0])
        answer = max(values[0], next(theirs))
        return lambda: np.array([answer], np.int32)

    share = Share(num_processes=num_processes, maximum=maximum)
    plan = TwoShapes(2)
    parts = [pack_eval(examples(2, length), plan, 1, 2) for length in (4, 4, 16)]
    batches = list(in_one_shape(iter(parts), share))
    large = [batch.texts.ids.shape[-1] == plan.shape(1).num_tokens for batch in batches]
    assert large == ([False, True, True] if num_processes == 2 else [False, False, True])
    assert asked == ([0, 0, 1] if num_processes == 2 else [])
    for batch in batches:  # the same examples in any shape
        assert batch.example_index.tolist() == [[0, 1]]
        assert int(jax.numpy.sum(batch.texts.ids > 0)) == 2 * int(batch.texts.lengths[0, 0])


def test_the_question_of_a_batch_is_asked_before_the_preceding_batch_is_taken():
    """So the answer arrives while a step runs."""
    asked = []

    def maximum(values):
        asked.append(values[0])
        return lambda: np.array(values, np.int32)

    parts = iter([pack_eval(examples(2), TwoShapes(2), 1, 2) for _ in range(3)])
    batches = in_one_shape(parts, Share(num_processes=2, maximum=maximum))
    next(batches)
    assert len(asked) == 2
    next(batches)
    assert len(asked) == 3


def test_chunks_divide_a_devices_examples():
    assert chunk_size(8, 4) == 2
    with pytest.raises(ConfigError, match="Use one of 1, 2, 4, 8, or another batch_size"):
        chunk_size(8, 3)


def test_an_example_that_is_left_out_leaves_its_place_empty():
    full, plan = examples(4), TwoShapes(2)
    out = ExampleViews.left_out(with_labels=False)
    batch = pack_train([[full[0], out, full[2], full[3]]], plan, 2, 2).batch
    assert batch.example_index.tolist() == [[[0, -1]], [[2, 3]]]
    assert batch.example_mask.tolist() == [[[True, False]], [[True, True]]]
    assert batch.texts.lengths.tolist() == [[[4, 0]], [[4, 4]]]
    rows = set(batch.graphs.crystal_index[0, 0].tolist())
    assert rows == {0, 2}, "nodes of row 0 and padding; none of row 1"
    complete = pack_train([full], plan, 2, 2).batch
    for part in ("graphs", "texts"):  # the other device's part is not touched
        left, right = (jax.tree.leaves(getattr(b, part)) for b in (batch, complete))
        for a, b in zip(left, right, strict=True):
            np.testing.assert_array_equal(a[1], b[1])


def test_a_part_without_examples_has_labels_like_the_others():
    text = TokenView(np.full(4, 7, np.int32), np.full(4, 3, np.int32))
    labelled = [ExampleViews(k, (GRAPH,), (text,)) for k in range(2)]
    out = ExampleViews.left_out(with_labels=True)
    batch = pack_train([[*labelled, out, out]], TwoShapes(2), 2, 2).batch
    assert batch.texts.labels.shape[0] == 2 and not batch.example_mask[1].any()
