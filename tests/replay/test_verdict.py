"""A step computed again, compared with what was recorded."""

import numpy as np
import pytest

from clac_jax.digests.digest import Digest
from clac_jax.digests.host import state_digests
from clac_jax.replay.replayer import Done
from clac_jax.replay.verdict import judge
from clac_jax.training.progress import RunProgress

BATCH = {name: Digest(number, 7) for number, name in enumerate(("ids", "texts", "loss"))}


@pytest.fixture
def arrays():
    rng = np.random.default_rng(1)
    return {
        "params/kernel": rng.standard_normal((20, 30)).astype(np.float32),
        "opt_state/mu": rng.standard_normal(30).astype(np.float32),
        "step": np.array(3, np.int32),
    }


def done(arrays, **others):
    return Done(3, RunProgress(step=2), {}, {**BATCH, **state_digests(arrays), **others})


def test_equal_digests_are_counted(arrays):
    verdict = judge(done(arrays), done(arrays).digests, arrays)
    assert verdict.is_equal
    assert verdict.words == ["equal to the journal (6 digests)"]


def test_a_step_that_is_not_recorded_is_neither_equal_nor_different(arrays):
    verdict = judge(done(arrays), {}, arrays)
    assert verdict.is_equal and verdict.words == ["the journal has no digests of this step"]


def test_the_first_difference_in_the_order_of_a_step_is_named(arrays):
    other = {**done(arrays).digests, "params": Digest(1, 2), "texts": Digest(3, 4)}
    verdict = judge(done(arrays), other, lawful="numpy was 1 and is 2")
    assert verdict.parting == ["texts", "params"]
    assert verdict.words == [
        "DIFFERS from the journal in the texts of the batch",
        "then also in params",
        "other bits are to be expected: numpy was 1 and is 2",
    ]


def test_a_flipped_bit_of_the_recorded_state_is_located(arrays):
    words = arrays["params/kernel"].copy().reshape(-1).view(np.uint32)
    words[123] ^= np.uint32(1 << 6)
    flipped = {**arrays, "params/kernel": words.view(np.float32).reshape(20, 30)}
    verdict = judge(done(arrays), done(flipped).digests, arrays)
    assert verdict.parting == ["params"]
    ((path, element),) = verdict.flipped["params"]
    assert (path, element.index, element.bits) == ("params/kernel", (4, 3), 1)
    assert "params/kernel[4, 3]" in verdict.words[1]


def test_a_different_loss_is_not_explained_by_a_bit_of_the_state(arrays):
    other = {**done(arrays).digests, "loss": Digest(9, 9), "params": Digest(1, 2)}
    assert judge(done(arrays), other, arrays).flipped == {}
