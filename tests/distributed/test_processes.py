"""The single-process form of agreements between several processes."""

import jax
import numpy as np
import pytest

from clac_jax.config.schema import default_config
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


def test_a_save_that_is_due_by_time_is_made_once(monkeypatch):
    """Of several processes, each answer is that of the last call; here, due every ten steps."""
    monkeypatch.setattr(processes, "are_several", lambda: True)
    monkeypatch.setattr(processes, "maximum", lambda values: lambda: np.array(values))
    requests, last, saved = processes.SharedRequests(), 0, []
    for step in range(1, 40):
        if requests.poll(False, step - last >= 10)[1]:
            saved.append(step)
            last = step
            requests.saved()
    assert saved == [11, 22, 33]
    assert requests.poll(True, False) == (False, False)
    requests.saved()
    assert requests.poll(False, False) == (True, False), "a stop is not one of them"


def test_only_a_broken_collective_is_a_lost_process():
    with pytest.raises(ValueError, match="Gloo"), processes.report_lost_processes():
        raise ValueError("Gloo all-reduce failed")  # not converted: there is no other process


def test_jax_uses_the_devices_that_were_chosen(monkeypatch):
    """In a step of SLURM, its own detection would take one of several GPUs."""
    used = {}

    class Link:
        def __init__(self, *arguments, **options): ...

        def agree(self, name, facts): ...

    def initialize(**options):
        used.update(options)
        raise RuntimeError("no.")

    monkeypatch.setattr(processes, "_link", None)
    monkeypatch.setattr(processes, "Link", Link)
    monkeypatch.setattr(processes.launcher, "place", lambda _: ("localhost:1234", 2, 0, None))
    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)
    with pytest.raises(processes.ProcessError, match="JAX cannot connect the processes"):
        processes.start(default_config().distributed, dict)
    assert used["local_device_ids"] is None and used["num_processes"] == 2
    assert used["cluster_detection_method"] == "deactivate"
