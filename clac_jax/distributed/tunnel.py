"""Carries JAX's own connections between processes through ours.

As soon as the connection to JAX's service in the first process breaks, JAX's client aborts its own
process with a C++ stack trace. No option prevents that, and a callback in Python aborts as well:
its argument, `absl::Status`, has no Python type. With a tunnel the client never notices: the local
end stays open, and `clac_jax.distributed.link` decides when a process is lost. In addition, all
traffic uses the single port that the user has named and opened.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

PIECE = 1 << 16  # bytes


def open_entrance(connect: Callable[[], socket.socket]) -> int:
    """Listens on this machine, and forwards each connection to one made by `connect`.

    Args:
        connect: opens a connection; an OSError closes the local one.

    Returns:
        The port on 127.0.0.1.
    """
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            local, _ = listener.accept()
            try:
                remote = connect()
            except OSError:
                local.close()
                continue
            carry(local, remote, stays_open=local)

    threading.Thread(target=accept, name="tunnel", daemon=True).start()
    return int(listener.getsockname()[1])


def carry(
    one: socket.socket, other: socket.socket, stays_open: socket.socket | None = None
) -> None:
    """Copies what arrives on either of two connections to the other one, in two threads.

    Args:
        one: first connection.
        other: second connection.
        stays_open: the one of the two that is not closed when the other one has ended.
    """
    for source, target in ((one, other), (other, one)):
        arguments = (source, target, target is not stays_open)
        threading.Thread(target=_copy, args=arguments, name="tunnel", daemon=True).start()


def _copy(source: socket.socket, target: socket.socket, closes: bool) -> None:
    source.settimeout(None)
    with contextlib.suppress(OSError):
        while piece := source.recv(PIECE):
            target.sendall(piece)
    if closes:
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
