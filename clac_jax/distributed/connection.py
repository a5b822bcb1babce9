"""Connections between two processes of a run, and the exchange of JSON lines over them."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from clac_jax.distributed.preemption import say
from clac_jax.errors import UserError, error_reason

PROTOCOL = "clac-jax processes 1"
MAX_LINE = 1 << 24  # bytes; the largest message lists the state's arrays
MAX_HELLO = 1 << 12  # bytes; from a peer that has not identified itself yet
# Exceptions from parsing a line of a foreign program as one of ours; RecursionError and
# OverflowError come from JSON and `int`, for deep nesting and for Infinity.
NOT_A_MESSAGE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
    OverflowError,
)
NOTICE_SECONDS = 10  # until a process reports what it waits for
REPLY_SECONDS = 10  # the first process answers in milliseconds, also while it compiles
PORT_SECONDS = 10  # enough for a run that is ending to free its port
RETRY_SECONDS = 0.25
SEND_SECONDS = 10  # for a line that fills the buffers of a stopped process


class ProcessError(UserError):
    """The processes of a run cannot reach each other, or do not agree."""


class MissingProcessError(ProcessError):
    """A process of the run has not come in time; it may come to the next start."""

    exit_code = 1


class _StrangerError(OSError):
    """The peer is not a process of a run."""


@dataclass
class Connection:
    """A connection to one other process.

    Attributes:
        number: number of the process; None until it has identified itself.
        name: name of the process, for messages.
        silence: time without data, seconds, excluding the time for which this process was
            suspended.
    """

    socket: socket.socket
    number: int | None = None
    name: str = "a connection"
    silence: float = 0.0
    _received: bytearray = field(default_factory=bytearray)
    _sending: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.socket.settimeout(SEND_SECONDS)

    def send(self, **message: Any) -> None:
        """Sends a line; does nothing if the connection is broken, which the reader will notice."""
        line = json.dumps(message).encode() + b"\n"
        with self._sending, contextlib.suppress(OSError):
            self.socket.sendall(line)

    def lines(self) -> list[bytes] | None:
        """The lines received since the last call; None at the end of the connection."""
        try:
            piece = self.socket.recv(1 << 16)
        except OSError:
            return None
        most = MAX_HELLO if self.number is None else MAX_LINE
        if not piece or len(self._received) + len(piece) > most:
            return None
        self.silence = 0.0
        self._received += piece
        *lines, rest = bytes(self._received).split(b"\n")
        self._received[:] = rest
        return lines


def own_name(index: int) -> str:
    """The name of this process, for messages."""
    return f"process {index} (process id {os.getpid()} on {socket.gethostname()})"


def listen(address: str) -> socket.socket:
    """Opens the port of the first process, to which the others connect.

    Args:
        address: HOST:PORT; unless HOST is a loopback address, it listens on all networks.

    Raises:
        ProcessError: the port is in use.
    """
    host, port = _host_port(address)
    give_up = time.monotonic() + PORT_SECONDS
    while True:
        try:
            if host in ("127.0.0.1", "localhost"):
                return socket.create_server(("127.0.0.1", port))
            if socket.has_dualstack_ipv6():
                return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
            return socket.create_server(("", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > give_up:
                reason = os.strerror(error.errno or 0)
                raise ProcessError(
                    f"Process 0 cannot listen at {address}: {reason}. Another run, another process "
                    "with process_id=0 or another program may be there: stop it, or choose another "
                    "port in config.distributed.coordinator_address."
                ) from error
            time.sleep(RETRY_SECONDS)


def connect(address: str, index: int, count: int, seconds: float) -> Connection:
    """Connects to the first process, and returns once it has welcomed this one.

    A restarted process may come while the first process of the previous run is still saving or
    uploading: it waits until that has ended, and then for the new first process.

    Args:
        address: HOST:PORT of the first process.
        index: number of this process.
        count: number of processes.
        seconds: time to wait for the first process.

    Raises:
        MissingProcessError: the first process cannot be reached in time.
        ProcessError: it refuses, or another program answers there.
    """
    hello = {"index": index, "count": count, "name": own_name(index)}
    began = time.monotonic()
    notice_at, give_up, refused_at = began + NOTICE_SECONDS, began + seconds, math.inf
    while True:
        failure: type[ProcessError] = MissingProcessError
        try:
            left = min(REPLY_SECONDS, max(1.0, give_up - time.monotonic()))
            first, answer = call(address, hello, left)
            if "welcome" in answer:
                return Connection(first, number=0, name=str(answer["welcome"]))
            first.close()
            if "ending" in answer:
                cause, give_up = str(answer["ending"]), time.monotonic() + seconds
            else:
                cause, failure = str(answer["refused"]), ProcessError
                refused_at = min(refused_at, time.monotonic())
                if time.monotonic() >= refused_at + float(answer.get("for_seconds", 0)):
                    raise ProcessError(cause)
        except _StrangerError:
            # Or the previous run, which is about to end.
            cause, failure = "another program answers there", ProcessError
            give_up = min(give_up, time.monotonic() + PORT_SECONDS)
        except (OSError, UnicodeError) as error:  # UnicodeError: an invalid host name
            cause = error_reason(error)
        now = time.monotonic()
        if now > give_up:
            raise failure(
                f"Process {index} cannot reach process 0 at {address}: {cause}. Set "
                "config.distributed.coordinator_address to HOST:PORT of the first process, and see "
                "its own message: docs/clusters.md."
            )
        if now > notice_at:
            say(f"waiting for process 0 at {address} ({cause})")
            notice_at = math.inf
        time.sleep(RETRY_SECONDS)


def call(
    address: str, hello: dict[str, Any], seconds: float
) -> tuple[socket.socket, dict[str, Any]]:
    """A connection to the first process, and its answer to the first line.

    Raises:
        OSError: it cannot be reached, or a foreign program answers.
    """
    far = socket.create_connection(_host_port(address), timeout=seconds)
    try:
        far.sendall(json.dumps({"hello": PROTOCOL} | hello).encode() + b"\n")
        return far, _answer(far)
    except OSError:
        far.close()
        raise


def call_tunnel(address: str) -> socket.socket:
    """A connection through the first process to JAX's service there.

    Raises:
        OSError: it cannot be reached in time.
    """
    give_up = time.monotonic() + REPLY_SECONDS  # the service may not have started yet
    while True:
        try:
            return call(address, {"tunnel": True}, REPLY_SECONDS)[0]
        except OSError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.05)


def _answer(far: socket.socket) -> dict[str, Any]:
    line = b""
    while not line.endswith(b"\n"):
        byte = far.recv(1)  # nothing beyond the end of the line
        if not byte or len(line) > 1 << 16:
            raise _StrangerError
        line += byte
    try:
        answer = json.loads(line)
    except NOT_A_MESSAGE as error:
        raise _StrangerError from error
    if not isinstance(answer, dict) or not {"welcome", "refused", "ending"} & answer.keys():
        raise _StrangerError
    return answer


def _host_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ProcessError(
            f"config.distributed.coordinator_address is {address!r}. It must be HOST:PORT of the "
            "first process, such as node1:1234."
        )
    return host.strip("[]"), int(port)
