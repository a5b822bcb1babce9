"""Where two states differ, and what a digest says about one that no longer exists."""

import numpy as np
import pytest

from clac_jax.digests.host import state_digests
from clac_jax.replay.differences import changed_elements, differences, unlike_saved


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "params/graph/kernel": rng.standard_normal((30, 40)).astype(np.float32),
        "params/graph/bias": rng.standard_normal(40).astype(np.float32),
        "params/scale": np.array(3.5, np.float32),
        "step": np.array(7, np.int32),
    }


def flipped(arrays, path, place, bit):
    words = arrays[path].reshape(-1).view(np.uint32).copy()
    words[place] ^= np.uint32(1 << bit)
    array = words.view(arrays[path].dtype).reshape(arrays[path].shape)
    return {**arrays, path: array}


def test_equal_states_do_not_differ(arrays):
    same = {path: array.copy() for path, array in arrays.items()}
    assert differences(arrays, same) == []


def test_ulps_count_the_numbers_in_between():
    left = np.array([1.0, -1.0, 0.0, 1.0], np.float32)
    right = np.nextafter(left, np.float32(2), dtype=np.float32)
    right[3] = np.float32(1.5)
    (found,) = differences({"x": left}, {"x": right})
    ulps = {element.index: element.ulps for element in found.elements}
    assert ulps == {(0,): 1, (1,): 1, (2,): 1, (3,): 1 << 22}
    assert (found.count, found.size, found.largest) == (4, 4, 1 << 22)
    assert found.elements[0].index == (3,)  # the largest first


def test_zeros_of_both_signs_differ_by_one_bit_and_no_ulp():
    (found,) = differences({"x": np.zeros(1, np.float32)}, {"x": -np.zeros(1, np.float32)})
    assert (found.elements[0].ulps, found.elements[0].bits) == (0, 1)


def test_a_value_that_is_not_a_number_has_no_distance():
    right = np.array([np.nan], np.float32)
    (found,) = differences({"x": np.ones(1, np.float32)}, {"x": right})
    assert found.elements[0].ulps is None
    assert "not finite" in found.elements[0].words


def test_arrays_that_cannot_be_compared_are_named(arrays):
    other = {**arrays, "params/scale": np.zeros(2, np.float32)}
    del other["step"]
    assert {each.path: each.reason for each in differences(arrays, other)} == {
        "params/scale": "is float32[] and float32[2]",
        "step": "exists on one side only",
    }


def test_a_rate_lowered_between_a_step_and_its_checkpoint_does_not_count(arrays):
    state = {**arrays, "learning_rate_scale": np.array(1.0, np.float32)}
    saved = {**state, "learning_rate_scale": np.array(0.5, np.float32)}
    assert len(differences(state, saved)) == 1
    assert unlike_saved(state, saved) == []
    saved["step"] = np.array(8, np.int32)
    assert [each.path for each in unlike_saved(state, saved)] == ["step"]


@pytest.mark.parametrize("bit", [0, 3, 22, 30, 31])
@pytest.mark.parametrize(
    ("path", "place"), [("params/graph/kernel", 777), ("params/graph/bias", 3), ("params/scale", 0)]
)
def test_a_flipped_bit_is_found_from_its_digest(arrays, path, place, bit):
    other = flipped(arrays, path, place, bit)
    digests = [state_digests(each)["params"] for each in (arrays, other)]
    params = {name: array for name, array in arrays.items() if name.startswith("params/")}
    found = changed_elements(params, *digests)
    (difference,) = differences(arrays, other)
    assert (path, difference.elements[0]) in found
    assert all(element.bits == 1 for _, element in found)
    assert len(found) == 1 or bit in (30, 31)  # which leave less information


def test_two_changed_elements_are_explained_by_none(arrays):
    other = flipped(flipped(arrays, "params/graph/bias", 3, 2), "params/graph/kernel", 9, 20)
    digests = [state_digests(each)["params"] for each in (arrays, other)]
    assert changed_elements(arrays, *digests) == []


def test_equal_digests_need_no_explanation(arrays):
    digest = state_digests(arrays)["params"]
    assert changed_elements(arrays, digest, digest) == []
