"""The single-process form of agreements between several processes."""

import jax
import numpy as np
import pytest

from clac_jax.distributed import processes


def test_the_only_process_decides_immediately():
    requests = processes.SharedRequests()
    assert requests.poll(True, False) == (True, False)
    assert requests.poll(False, False) == (False, False)
    np.testing.assert_array_equal(processes.maximum([3, -1])(), [3, -1])
    arrays = {"params/w": np.ones(2)}
    shapes = {"params/w": jax.ShapeDtypeStruct((2,), np.float64)}
    assert processes.from_first(lambda: (arrays, b"step 7"), shapes) == (arrays, b"step 7")
    processes.leave(2, "why")  # does nothing
    processes.end()


def test_only_a_broken_collective_is_a_lost_process():
    with pytest.raises(ValueError, match="Gloo"), processes.report_lost_processes():
        raise ValueError("Gloo all-reduce failed")  # not converted: there is no other process
