"""Discovery of the processes of a run."""

import os

import ml_collections
import pytest

from clac_jax.config.schema import default_config
from clac_jax.distributed import launcher
from clac_jax.distributed.connection import ProcessError

SET = {"coordinator_address": "host:1234", "num_processes": 2, "process_id": 0}
STEP = {
    "SLURM_JOB_ID": "3",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "0",
}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in os.environ:
        if name.startswith(("SLURM_", "OMPI_", "KUBERNETES_")):
            monkeypatch.delenv(name)


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
    assert launcher._in_cluster(environment) is expected


def options(**changes):
    result = ml_collections.ConfigDict(default_config().distributed.to_dict())
    result.update(changes)
    return result


def test_the_config_names_a_process_in_full_or_not_at_all():
    assert launcher.place(options()) is None
    assert launcher.place(options(**SET)) == ("host:1234", 2, 0, None)
    for name in SET:
        with pytest.raises(ProcessError, match=r"distributed needs coordinator_address"):
            launcher.place(options(**{k: v for k, v in SET.items() if k != name}))
    with pytest.raises(ProcessError, match="process_id is 2, and num_processes is 2"):
        launcher.place(options(**SET | {"process_id": 2}))


def test_a_step_of_slurm_is_a_run_unless_the_config_names_another(monkeypatch):
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    assert launcher.place(options()) == ("localhost:61443", 2, 1, [1])
    assert launcher.place(options(local_devices=(2, 3)))[3] == [2, 3]
    assert launcher.place(options(**SET)) == ("host:1234", 2, 0, [1])
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")  # is not asked
    # A step of one task is a run of its own, and uses all devices also if the config is set.
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "1")
    assert launcher.place(options()) is None
    assert launcher.place(options(**SET)) == ("host:1234", 2, 0, None)


@pytest.mark.parametrize(
    "name, value, reason",
    [
        ("SLURM_STEP_NUM_TASKS", "two", "SLURM_STEP_NUM_TASKS is 'two', not a number"),
        ("SLURM_PROCID", "", "SLURM_PROCID is '', not a number"),
        ("SLURM_NODEID", "1", "SLURM_STEP_TASKS_PER_NODE is '2', without node 1"),
    ],
)
def test_a_broken_variable_of_the_launcher_is_reported(monkeypatch, name, value, reason):
    for each, good in (STEP | {name: value}).items():
        monkeypatch.setenv(each, good)
    with pytest.raises(ProcessError, match=rf"launcher does not say where .*: {reason}\. Set con"):
        launcher.place(options())


def test_a_job_of_several_nodes_without_srun_is_reported(monkeypatch, capsys):
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    assert launcher.place(options()) is None
    assert "warning: This job has 2 nodes, and only this one trains." in capsys.readouterr().err
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node2")  # one of several steps, say
    assert launcher.place(options()) is None
    assert not capsys.readouterr().err


def test_open_mpi_names_the_device_and_kubernetes_is_asked_only_if_needed(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", "3")
    assert launcher.place(options(**SET)) == ("host:1234", 2, 0, [3])
    monkeypatch.delenv("OMPI_COMM_WORLD_LOCAL_RANK")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")

    def refuse(*_):
        raise PermissionError("pods is forbidden.")

    monkeypatch.setattr(
        launcher.ClusterEnv, "auto_detect_unset_distributed_params", refuse, raising=True
    )
    assert launcher.place(options(**SET)) == ("host:1234", 2, 0, None)
    with pytest.raises(ProcessError, match=r"pods is forbidden\. Set config\.distributed\."):
        launcher.place(options())
