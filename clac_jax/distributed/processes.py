"""The processes of a run on several hosts: how they connect, and what they agree on.

Every process runs the same program on its own part of each batch. Only the first one accesses the
workdir: it reads the checkpoint and sends it to the others, saves, and writes. (Of a state that is
sharded over them, each process saves and reads its part.) What one process has
decided on its own (to stop after a signal, to enlarge a batch) is agreed on by collectives that all
enter at the same point of the run. Separate connections (`clac_jax.distributed.link`) serve to
check beforehand that all run the same program, and throughout the run that all are alive.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clac_jax.distributed import launcher
from clac_jax.distributed.agreement import Facts
from clac_jax.distributed.connection import ProcessError
from clac_jax.distributed.link import Link
from clac_jax.distributed.lost_process import LostProcessError
from clac_jax.distributed.preemption import EXIT_PREEMPTED
from clac_jax.errors import one_line

# JAX's own watchdog ends the program with a C++ stack trace. Ours acts first: `Link`.
NEVER = 30 * 24 * 3600  # seconds
END_SECONDS = 60  # for JAX's shutdown, after all have done their work
SENT_WORDS = 1 << 24  # four bytes each, per transfer
Answer = Callable[[], np.ndarray]

_link: Link | None = None


def start(options: ml_collections.ConfigDict, facts: Callable[[], Facts]) -> None:
    """Connects this process to the others of its run, if there are any, and compares their facts.

    They are located under SLURM (`srun`), Open MPI, indexed jobs of Kubernetes and on TPU hosts;
    elsewhere `options` must give their addresses. Must be called before JAX initializes a device.

    Args:
        options: the group `config.distributed`.
        facts: returns what must be equal in all processes.

    Raises:
        ProcessError: settings are missing, a process cannot be reached, or two processes differ.
    """
    global _link
    if jax.distributed.is_initialized():
        return
    place = launcher.place(options)
    if place is None:
        return
    address, count, index, local_devices = place
    port = _free_port()
    _link = Link(
        address, index, count, options.connect_seconds, options.failure_seconds, service_port=port
    )
    agree("program", facts())
    # JAX's own service also handles SIGTERM, and would replace our handler.
    jax.config.update("jax_enable_preemption_service", False)
    # gRPC would use a proxy set in the environment to reach this machine; JAX warns of that.
    jax.config.update("jax_check_proxy_envs", False)
    os.environ.setdefault("no_grpc_proxy", "127.0.0.1")
    try:
        jax.distributed.initialize(
            coordinator_address=f"127.0.0.1:{_link.tunnel_entrance() if index else port}",
            coordinator_bind_address=f"127.0.0.1:{port}",
            num_processes=count,
            process_id=index,
            local_device_ids=local_devices,
            cluster_detection_method="deactivate",  # or it chooses devices where we chose all
            initialization_timeout=options.connect_seconds,
            heartbeat_timeout_seconds=NEVER,
            shutdown_timeout_seconds=END_SECONDS,
        )
        devices = jax.local_devices()  # waits for the other processes
    except (RuntimeError, ValueError) as error:
        raise ProcessError(
            f"JAX cannot connect the processes of this run: {one_line(error, 500)} See "
            "docs/clusters.md."
        ) from error
    kinds = ", ".join(sorted({device.device_kind for device in devices}))
    agree(
        "devices",
        {"the kind of devices": kinds, "the number of devices of a process": str(len(devices))},
    )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def agree(name: str, facts: Facts) -> None:
    """Returns when all processes have called it with the same facts.

    Args:
        name: name of this point of the run.
        facts: the facts of this process.

    Raises:
        ProcessError: the facts differ; raised in every process.
    """
    if _link is not None:
        _link.agree(name, facts)


def are_several() -> bool:
    """Whether the run has more than one process."""
    return int(jax.process_count()) > 1


def is_first() -> bool:
    """Whether this process is the one that reads, writes and prints."""
    return jax.process_index() == 0


def end() -> None:
    """Waits for the others and disconnects, after this process has done its work.

    Otherwise the first one to exit would look lost to the others, which may still be saving.
    """
    global _link
    if _link is None or not _link.end():  # JAX would wait for the lost process
        return
    jax.distributed.shutdown()
    _link.close()
    _link = None


def leave(code: int, why: str) -> None:
    """Exits immediately if there are other processes, and reports the reason to them.

    An orderly exit waits for the others, which wait for this one in a collective.
    """
    if _link is None:
        return
    _link.leaves(why, code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def report_stop(signal_name: str) -> None:
    """Reports to the others that a signal ends this process now, with nothing to save."""
    if _link is not None:
        _link.leaves(f"it received {signal_name} when there was nothing to save", EXIT_PREEMPTED)


def current_link() -> Link | None:
    """The connections to the other processes; None if there are none."""
    return _link


def announce_last_save() -> None:
    """Announces that the first process will save and exit, whatever happens to the others."""
    if _link is not None and is_first():
        _link.loss.main_ends = True


def save_if_lost(save: Callable[[], str]) -> None:
    """Sets the function to call, in a separate thread, when a process is lost, before the exit.

    Args:
        save: saves, and returns a sentence on the result.
    """
    if _link is not None:
        _link.loss.save_first = save


def end_if_lost(error: Exception) -> None:
    """Does not return if the error comes from a failed collective: the program ends.

    Raises:
        LostProcessError: it failed after the others had done their work.
    """
    if not isinstance(error, jax.errors.JaxRuntimeError | ValueError):  # JAX raises either
        return
    signs = ("Gloo", "Connection closed", "Connection reset", "NCCL", "coordination")
    if not (are_several() and any(sign in str(error) for sign in signs)):
        return
    reason = str(error).splitlines()[0]
    if _link is not None:
        _link.collective_failed(reason)
    raise LostProcessError(
        f"Process {jax.process_index()} has lost another process of this run ({reason}). Start the "
        "same command on all hosts again."
    ) from error


@contextlib.contextmanager
def report_lost_processes() -> Iterator[None]:
    """Context in which errors are handled by `end_if_lost`."""
    try:
        yield
    except Exception as error:
        end_if_lost(error)
        raise


@contextlib.contextmanager
def first_goes_first(name: str) -> Iterator[None]:
    """Runs the body in the first process, then in the others, which can use what it has made."""
    if not is_first():
        wait_for_all(name)
    yield
    if is_first():
        wait_for_all(name)


def wait_for_all(name: str) -> None:
    """Returns when every process has called it; `name` distinguishes these calls."""
    if _link is None and are_several():  # connected by the caller
        multihost_utils.sync_global_devices(name)
    agree(name, {})


def from_first(
    make: Callable[[], tuple[Mapping[str, Any], bytes]],
    shapes: Mapping[str, jax.ShapeDtypeStruct],
) -> tuple[Mapping[str, Any], bytes]:
    """Returns in every process what `make` returns in the first; unchanged if there is only one.

    Arrays are sent as bytes, so every bit is preserved (JAX sends a sum, which turns -0 into 0).

    Args:
        make: called in the first process; returns arrays by slash path, and other data as bytes.
        shapes: slash path -> shape and dtype of every array.
    """
    if not are_several():
        return make()
    arrays, rest = make() if is_first() else ({}, b"")
    size = int(bytes_from_first(np.array([len(rest)], np.uint32).view(np.uint8)).view(np.uint32)[0])
    tail = bytes_from_first(
        np.frombuffer(rest, np.uint8) if is_first() else np.zeros(size, np.uint8)
    )
    sizes = [int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in shapes.values()]
    ends = np.cumsum(sizes, dtype=np.int64)
    state = np.zeros(sum(sizes), np.uint8)
    if is_first():
        for (path, leaf), stop, count in zip(shapes.items(), ends, sizes, strict=True):
            flat = np.ascontiguousarray(np.asarray(arrays[path], leaf.dtype)).reshape(-1)
            state[stop - count : stop] = flat.view(np.uint8)
    state = bytes_from_first(state)
    received = {
        path: state[stop - count : stop].view(leaf.dtype).reshape(leaf.shape)
        for (path, leaf), stop, count in zip(shapes.items(), ends, sizes, strict=True)
    }
    return received, tail.tobytes()


def bytes_from_first(content: np.ndarray) -> np.ndarray:
    """(n,) uint8 of the first process; the others pass n arbitrary values."""
    padded = np.zeros(-(-content.size // 4) * 4, np.uint8)
    padded[: content.size] = content
    words = padded.view(np.uint32)
    for begin in range(0, words.size, SENT_WORDS):
        piece = words[begin : begin + SENT_WORDS]
        piece[:] = multihost_utils.broadcast_one_to_all(piece)
    return padded[: content.size]


def maximum(values: Sequence[int]) -> Answer:
    """Elementwise maximum over the processes, which all call this at the same point of the run.

    Returns:
        A function that waits for the (len(values),) int32 result. Work queued earlier on the
        devices comes first, so a request one step ahead does not delay them.
    """
    row = np.asarray(values, np.int32)
    if not are_several():
        return lambda: row
    mesh = _one_device_of_each()
    maxima = _column_maxima(NamedSharding(mesh, PartitionSpec()), _rows(row, mesh))
    return lambda: np.asarray(maxima.addressable_data(0))


@functools.partial(jax.jit, static_argnums=0)
def _column_maxima(sharding: NamedSharding, rows: jax.Array) -> jax.Array:
    maxima: jax.Array = jax.lax.with_sharding_constraint(rows.max(axis=0), sharding)
    return maxima


def _rows(row: np.ndarray, mesh: Mesh) -> jax.Array:
    """(processes, n) array, of which this process holds its own row."""
    mine = jax.device_put(row[None], mesh.local_devices[0])
    sharding = NamedSharding(mesh, PartitionSpec("process"))
    shape = (jax.process_count(), *row.shape)
    return jax.make_array_from_single_device_arrays(shape, sharding, [mine])


@functools.cache
def _one_device_of_each() -> Mesh:
    """A mesh of one device per process."""
    first = {device.process_index: device for device in reversed(jax.devices())}
    return Mesh(np.array([first[index] for index in sorted(first)]), ("process",))


class SharedRequests:
    """Requests of any process, made known to all of them at the same point of the run."""

    def __init__(self) -> None:
        self._pending: Answer | None = None
        self._wants_save = True  # whether the pending answer counts

    def poll(self, stop: bool, save: bool) -> tuple[bool, bool]:
        """Whether any process requests a stop, and a save: now, or (several) at the last call.

        The result of a call is returned by the next one, to give the devices time to compute it.
        """
        if not are_several():
            return stop, save
        if _link is not None:
            _link.loss.wait_if_lost()
        before, self._pending = self._pending, maximum([int(stop), int(save)])
        wants_save, self._wants_save = self._wants_save, True
        if before is None:
            return False, False
        stop_before, save_before = before()
        return bool(stop_before), bool(save_before) and wants_save

    def saved(self) -> None:
        """All processes have saved the run: earlier requests of a save are met."""
        self._wants_save = False
