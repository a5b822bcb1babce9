"""Facts that SLURM gives a task about its step: where the first task is, which GPUs are its own.

JAX's own detection gives two steps of one job the same port, and a task that sees only its own GPU
the number of one that it does not see. It also needs names of nodes that can be resolved.
"""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Mapping

FIRST_PORT, PORTS = 61440, 4096  # above the ports that Linux gives to outgoing connections
SCONTROL_SECONDS = 20
_NODE = re.compile(r"(?:[^,\[]|\[[^\]]*\])+")  # up to the first comma outside of brackets
_RANGE = re.compile(r"\[([^\],-]+)[^\]]*\]")


def is_step(environment: Mapping[str, str]) -> bool:
    """Whether `srun` has started this process; a batch script only has variables of the job."""
    return "SLURM_STEP_NODELIST" in environment


def nodes_without_step(environment: Mapping[str, str]) -> int:
    """The number of nodes of a job whose batch script runs this process itself; 0 in a step."""
    return 0 if is_step(environment) else int(environment.get("SLURM_JOB_NUM_NODES") or 0)


def place(environment: Mapping[str, str]) -> tuple[str, int, int]:
    """HOST:PORT of the first task of this step, the number of tasks, and the number of this one.

    Raises:
        ValueError: a variable that `srun` sets is missing or not a number.
    """
    name = first_node(environment["SLURM_STEP_NODELIST"])
    port = environment.get("JAX_COORDINATOR_PORT") or _port(environment)
    count, index = (
        _number(environment, "SLURM_STEP_NUM_TASKS"),
        _number(environment, "SLURM_PROCID"),
    )
    return f"{_reachable(name)}:{port}", count, index


def first_node(nodes: str) -> str:
    """The first name of a list of nodes, such as `gpu[07-12,15]-ib,login1`."""
    match = _NODE.match(nodes)
    return _RANGE.sub(r"\1", match[0]) if match else nodes


def gpus(environment: Mapping[str, str]) -> list[int] | None:
    """The GPUs of this task, as numbers among those that it sees; None for all of them.

    If all tasks of a node see the same GPUs, each uses the one with its own number.

    Raises:
        ValueError: a variable that `srun` sets is missing or not a number.
    """
    local, tasks = _number(environment, "SLURM_LOCALID"), _tasks_of_node(environment)
    seen = environment.get("CUDA_VISIBLE_DEVICES", environment.get("ROCR_VISIBLE_DEVICES"))
    if tasks == 1:
        return None
    if seen is not None:
        number = len(seen.split(","))
        if number < tasks or str(number) == environment.get("SLURM_GPUS_PER_TASK"):
            return None
    return [local]


def _tasks_of_node(environment: Mapping[str, str]) -> int:
    """The number of tasks of this step on this node, from a list such as `4(x2),3`."""
    name = "SLURM_STEP_TASKS_PER_NODE"
    node, first = _number(environment, "SLURM_NODEID"), 0
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", environment.get(name, "")):
        first += int(times or 1)
        if node < first:
            return int(count)
    raise ValueError(f"{name} is {environment.get(name)!r}, without node {node}.")


def _port(environment: Mapping[str, str]) -> int:
    """A port that differs between the steps of a job, and between jobs that share a node."""
    job, step = _number(environment, "SLURM_JOB_ID"), _number(environment, "SLURM_STEP_ID")
    return FIRST_PORT + (job + 1009 * step) % PORTS


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name)
    if value is None or not value.isdecimal():
        raise ValueError(f"{name} is {value!r}, not a number.")
    return int(value)


def _reachable(node: str) -> str:
    """The name, or the address that SLURM itself uses if the name is not known to this machine."""
    try:
        socket.getaddrinfo(node, None)
        return node
    except OSError:
        return _address_of(node) or node


def _address_of(node: str) -> str | None:
    command = ["scontrol", "show", "node", node, "--oneliner"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SCONTROL_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"(?:^|\s)NodeAddr=(\S+)", done.stdout)
    return match[1] if match else None
