"""The division of arrays into groups, and the names of these."""

import json

import numpy as np
from helpers.states import changed
from hypothesis import given
from hypothesis import strategies as st

from clac_jax.chain.record import array_hash
from clac_jax.checkpoint.groups import (
    MIN_BYTES,
    Content,
    Group,
    constant_paths,
    is_group,
    regroup,
)
from clac_jax.checkpoint.layout import Leaf

HALF = MIN_BYTES // 2
PATHS = "abcdef"


def group_of(**arrays):
    leaves = {path: Leaf(a.shape, str(a.dtype), 1, 2.0) for path, a in arrays.items()}
    return Group({path: Content(leaves[path], array_hash(a)) for path, a in arrays.items()})


def test_a_group_stays_until_one_of_its_arrays_changes():
    sizes = dict.fromkeys(PATHS, HALF)
    first = regroup([], set("abc"), sizes)
    assert first == [frozenset("abc")]
    assert regroup(first, set("abc"), sizes) == first
    assert regroup(first, set("abcde"), sizes) == [*first, frozenset("de")]
    assert regroup(first, set("ab"), sizes) == [frozenset("ab")]


def test_small_groups_are_not_worth_a_file():
    assert regroup([], {"a"}, {"a": HALF}) == []
    assert regroup([], {"a", "b"}, {"a": HALF, "b": HALF}) == [frozenset("ab")]


@given(st.lists(st.sets(st.sampled_from(PATHS)), max_size=8))
def test_every_array_that_did_not_change_is_in_one_group_and_no_other_is(history):
    sizes, groups = dict.fromkeys(PATHS, MIN_BYTES), []
    for unchanged in history:
        before, groups = groups, regroup(groups, unchanged, sizes)
        assert sorted(path for group in groups for path in group) == sorted(unchanged)
        assert {group for group in before if group <= unchanged} <= set(groups)


def test_the_name_depends_on_every_bit_shape_and_path():
    zeros = np.zeros(4, np.float32)
    other = zeros.copy()
    other[3] = -0.0
    groups = [
        group_of(a=zeros),
        group_of(b=zeros),
        group_of(a=other),
        group_of(a=zeros.reshape(2, 2)),
        group_of(a=zeros.astype(np.int32)),
        group_of(a=zeros, b=zeros),
    ]
    assert len({group.name for group in groups}) == len(groups)
    assert all(is_group(group.name) for group in groups) and not is_group("ocdbt.process_0")
    again = Group.from_json(json.loads(groups[-1].to_text()))
    assert again == groups[-1] and again.name == groups[-1].name


def test_the_frozen_parameters_are_expected_not_to_change():
    paths = ["params/text/a", "params/head", "opt_state/text/a"]
    assert constant_paths(paths, changed(frozen=("text/.*",))) == {"params/text/a"}
    assert constant_paths(paths, changed(frozen=())) == set()
