"""SLURM's variables of a step; tests/end_to_end/test_slurm_jobs.py runs real jobs."""

import pytest

from clac_jax.distributed import slurm

# Of a step with `--nodes=2 --ntasks-per-node=2`, as the second task of the first node has them.
STEP = {
    "SLURM_JOB_ID": "812",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "localhost,node[2-3]",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "0",
}


def test_a_step_is_one_run_at_a_port_of_its_own():
    assert slurm.is_step(STEP) and not slurm.is_step({"SLURM_JOB_ID": "812"})
    assert slurm.place(STEP) == ("localhost:62252", 4, 1)
    assert slurm.place(STEP | {"JAX_COORDINATOR_PORT": "1234"})[0] == "localhost:1234"
    jobs = [STEP | {"SLURM_JOB_ID": str(job)} for job in range(812, 822)]
    steps = [job | {"SLURM_STEP_ID": str(step)} for job in jobs for step in range(4)]
    ports = {int(slurm.place(step)[0].split(":")[1]) for step in steps}
    assert len(ports) == 40 and min(ports) > 60999 and max(ports) < 1 << 16


@pytest.mark.parametrize(
    "nodes, first",
    [
        ("node7", "node7"),
        ("node7,other", "node7"),
        ("gpu[007-012,15]", "gpu007"),
        ("gpu[3,7-9]-ib.cluster,login1", "gpu3-ib.cluster"),
        ("rack[2-3]node[08-09]", "rack2node08"),
    ],
)
def test_the_first_node_of_a_list(nodes, first):
    assert slurm.first_node(nodes) == first


@pytest.mark.parametrize(
    "changes, gpus",
    [
        ({}, [1]),  # a cluster that does not say: as JAX does
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, [1]),  # --gpus-per-node=4
        ({"ROCR_VISIBLE_DEVICES": "0,1"}, [1]),
        ({"CUDA_VISIBLE_DEVICES": "1", "SLURM_GPUS_PER_TASK": "1"}, None),
        ({"CUDA_VISIBLE_DEVICES": "2,3", "SLURM_GPUS_PER_TASK": "2"}, None),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_GPUS_PER_TASK": "1"}, [1]),  # not bound
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "3(x2),1", "SLURM_NODEID": "2"}, None),
    ],
)
def test_a_task_uses_the_gpus_that_are_its_own(changes, gpus):
    assert slurm.gpus(STEP | changes) == gpus


@pytest.mark.parametrize("answer, host", [("NodeAddr=10.0.0.7", "10.0.0.7"), ("", "gpu7.invalid")])
def test_a_name_that_cannot_be_resolved_is_looked_up_in_slurm(tmp_path, monkeypatch, answer, host):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$* {answer} NodeHostName=gpu7"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm.place(STEP | {"SLURM_STEP_NODELIST": "gpu7.invalid"})[0] == f"{host}:62252"
    scontrol.unlink()
    place = slurm.place(STEP | {"SLURM_STEP_NODELIST": "gpu7.invalid"})
    assert place[0] == "gpu7.invalid:62252"
