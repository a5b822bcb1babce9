"""Discovery of processes, and the single-process form of agreements between several."""

import jax
import ml_collections
import numpy as np
import pytest

from clac_jax.config.schema import default_config
from clac_jax.distributed import processes


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, False),
        ({"SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"}, False),  # in a batch script, outside srun
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "8"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),  # a notebook
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}, True),
    ],
)
def test_a_launcher_that_started_several_is_recognized(environment, expected):
    assert processes._in_cluster(environment) is expected


def options(**changes):
    result = ml_collections.ConfigDict(default_config().distributed.to_dict())
    result.update(changes)
    return result


def test_the_config_names_a_process_in_full_or_not_at_all():
    assert processes._given(options()) == {}
    given = {"coordinator_address": "host:1234", "num_processes": 2, "process_id": 0}
    assert processes._given(options(**given)) == given
    for name in given:
        with pytest.raises(processes.ProcessError, match=r"distributed needs coordinator_address"):
            processes._given(options(**{k: v for k, v in given.items() if k != name}))


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
