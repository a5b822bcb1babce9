"""A loss far above the usual ones is a spike, whatever a few earlier spikes were."""

import numpy as np
import pytest

from clac_jax.healing.spikes import describe_spike, spike_threshold


@pytest.fixture
def usual():
    return np.random.default_rng(0).normal(3.0, 0.2, 64).tolist()


def test_the_threshold_is_in_standard_deviations_of_normal_losses(usual):
    assert spike_threshold(usual, 10.0) == pytest.approx(3.0 + 10 * 0.2, rel=0.1)


def test_a_few_earlier_spikes_hardly_move_it(usual):
    with_spikes = usual[:-5] + [1e6] * 5
    assert spike_threshold(with_spikes, 10.0) == pytest.approx(
        spike_threshold(usual, 10.0), rel=0.1
    )


def test_losses_that_hardly_vary_do_not_make_every_step_a_spike():
    assert describe_spike(1.0001, [1.0] * 16, 16, 10.0) == ""
    assert describe_spike(1.2, [1.0] * 16, 16, 10.0) != ""


def test_a_spike_is_described_once_the_window_is_full(usual):
    assert "the loss was 9, above" in describe_spike(9.0, usual, 64, 10.0)
    assert describe_spike(9.0, usual, 65, 10.0) == "", "too few steps before it"
    assert describe_spike(3.5, usual, 64, 10.0) == ""
    assert describe_spike(9.0, usual, 64, 0.0) == "", "switched off"
