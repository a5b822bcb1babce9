"""Arrays divided into equal blocks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clac_jax.checkpoint.shards import Grid, common, region_of, shape_of, within

counts_and_sizes = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=0, max_size=3)


def grid_of(pairs):
    return Grid(tuple(count * size for count, size in pairs), tuple(size for _, size in pairs))


@given(counts_and_sizes)
def test_the_shards_cover_every_element_once(pairs):
    grid = grid_of(pairs)
    covered = np.zeros(grid.shape, int)
    for number in range(len(grid)):
        region = grid.region(number)
        assert shape_of(region) == grid.shard_shape
        assert grid.number(region) == number
        covered[region] += 1
    assert (covered == 1).all()


@settings(max_examples=50)
@given(counts_and_sizes, st.data())
def test_the_overlapping_shards_hold_the_entire_region(pairs, data):
    grid = grid_of(pairs)
    region = []
    for size in grid.shape:
        start = data.draw(st.integers(0, size - 1))
        region.append(slice(start, data.draw(st.integers(start + 1, size))))
    region = tuple(region)
    array = np.arange(int(np.prod(grid.shape))).reshape(grid.shape)
    result = np.full(shape_of(region), -1)
    for number in grid.overlapping(region):
        both = common(region, grid.region(number))
        assert all(part.start < part.stop for part in both)
        result[within(both, region)] = array[grid.region(number)][within(both, grid.region(number))]
    np.testing.assert_array_equal(result, array[region])


@pytest.mark.parametrize("index", [slice(None), slice(0, 4), slice(None, 4)])
def test_an_index_of_jax_becomes_a_region(index):
    assert region_of((index,), (4,)) == (slice(0, 4),)
