"""Why processes do not meet, in sentences: one is missing, or is not one of the run."""

from __future__ import annotations

from collections.abc import Mapping

from clac_jax.distributed.connection import Connection

ENDING = "the previous run has not ended yet: it is still saving or uploading"


def why_refused(
    number: int,
    count: int,
    expected: int,
    address: str,
    others: Mapping[int, Connection],
    has_met: bool,
) -> str:
    """Why the first process refuses one that has connected; "" if it is one of the run.

    Args:
        number: number of the process.
        count: number of processes that it was started with.
        expected: number of processes that the first one was started with.
        address: HOST:PORT of the first process.
        others: the processes that have joined, by number.
        has_met: whether all had joined.
    """
    if count != expected:
        return (
            f"config.distributed.num_processes is {count} in process {number} and "
            f"{expected} in process 0. Start every process with the same command."
        )
    if number in others:
        return (
            f"Process {number} of the run at {address} has already joined: "
            f"{others[number].name}. Give each process its own "
            "config.distributed.process_id, and each run its own port."
        )
    if has_met or not 0 < number < count:
        return f"The run at {address} has no place for a process {number}."
    return ""


def why_incomplete(missing: str, address: str, seconds: float) -> str:
    """The sentence of a run whose processes did not all come in time.

    Args:
        missing: these processes, in words.
        address: HOST:PORT of the first process.
        seconds: time for which it has waited.
    """
    return (
        f"The processes of this run cannot find each other: {missing} did not come to {address} "
        f"within {seconds:g} seconds (config.distributed.connect_seconds). Its own message says "
        "why, or its coordinator_address, num_processes or process_id are wrong: docs/clusters.md."
    )
