"""A restored state is compared with the digests of its checkpoint once it is on the devices."""

import numpy as np
import pytest
from etils import epath
from helpers.states import COUNTERS, begin, make_config, make_state, shapes_of

from clac_jax.checkpoint.layout import read_info
from clac_jax.checkpoint.manager import Checkpoints
from clac_jax.checkpoint.placed import WrongStateError, check_placed
from clac_jax.checkpoint.snapshot import WrongCopyError
from clac_jax.checkpoint.tree import to_arrays
from clac_jax.digests.host import array_digest, state_digests
from clac_jax.training.progress import RunProgress

STEP = 10


def a_state():
    arrays = {path: np.array(leaf) for path, leaf in to_arrays(make_state(seed=1)).items()}
    return arrays | {path: np.array(STEP, np.int32) for path in COUNTERS}


def save(workdir, arrays, digests):
    checkpoints = Checkpoints(workdir, make_config(save_top_k=-1), shapes_of(arrays), 100)
    try:
        checkpoints.save(arrays, RunProgress(step=STEP, epoch=1), None, digests=digests)
        checkpoints.wait()
    finally:
        checkpoints.close()
    return workdir / "checkpoints" / str(STEP)


@pytest.fixture
def start(tmp_path):
    """The start of a run that resumes from a checkpoint with digests."""
    arrays = a_state()
    save(tmp_path, arrays, state_digests(arrays))
    return begin(tmp_path)


def parts_of(digests):
    return {part: digest for part, digest in digests.items() if part != "total"}


def test_a_checkpoint_carries_digests_and_a_resumed_state_has_them(start, tmp_path):
    expected = state_digests(a_state())
    info = read_info(epath.Path(tmp_path / "checkpoints" / str(STEP)))
    assert info.digests == {part: str(digest) for part, digest in expected.items()}
    assert start.digests == parts_of(expected)
    check_placed(start.source, start.digests, [expected, expected], start.arrays)


def test_a_state_whose_counters_are_set_again_has_other_digests(tmp_path):
    """As when a run resumes with another learning rate of the plateau schedule."""
    arrays = a_state() | {"learning_rate_scale": np.float32(0.5)}
    save(tmp_path, arrays, state_digests(arrays))
    start = begin(tmp_path)  # at a scale of 1
    assert start.arrays["learning_rate_scale"] == 1
    assert start.digests == parts_of(state_digests(start.arrays))


def test_a_wrong_bit_on_one_device_is_blamed_on_its_memory(start):
    right = state_digests(start.arrays)
    moved = {path: np.array(array) for path, array in start.arrays.items()}
    moved["params/text/kernel"].view(np.uint32)[1, 2] ^= 1
    with pytest.raises(WrongStateError, match=r"params on local device 1 .* memory of that device"):
        check_placed(start.source, start.digests, [right, state_digests(moved)], start.arrays)


def test_a_checkpoint_that_was_written_wrong_is_blamed(start):
    wrong = dict(start.digests)
    wrong["opt_state"] += array_digest("x", np.ones(1))
    right = state_digests(start.arrays)
    with pytest.raises(WrongStateError, match=f"/{STEP}, opt_state .* written from a faulty copy"):
        check_placed(start.source, wrong, [right], start.arrays)


def test_a_copy_in_host_memory_that_differs_is_not_saved(tmp_path):
    arrays = a_state()
    digests = state_digests(arrays)
    arrays["params/text/kernel"].view(np.uint32)[1, 2] ^= 1 << 30
    with pytest.raises(WrongCopyError, match=r"differs from that on the device \(params\)"):
        save(tmp_path, arrays, digests)
    assert not (tmp_path / "checkpoints" / str(STEP)).exists()


def test_checkpoints_without_digests_are_restored_unchecked(tmp_path):
    save(tmp_path, a_state(), {})
    assert begin(tmp_path).digests == {}


def test_parts_that_are_not_restored_as_they_are_are_not_compared(tmp_path):
    arrays = a_state()
    save(tmp_path, arrays, state_digests(arrays))
    other = {path: leaf for path, leaf in arrays.items() if path != "params/graph/bias"}
    config = make_config(save_top_k=-1)
    config.restore.strict = False
    start = begin(tmp_path, config, arrays=other)
    assert "params" not in start.digests and "batch_stats" in start.digests
