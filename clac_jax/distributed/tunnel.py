"""Carries JAX's own connections between processes through ours.

As soon as the connection to JAX's service in the first process breaks, JAX's client aborts its own
process with a C++ stack. No option prevents that, and a callback in Python aborts as well: its
argument, `absl::Status`, has no Python type. Behind a tunnel the client never sees it: the local
end stays open, and `clac_jax.distributed.link` decides when a process is lost. Besides, everything
goes through the one port that the user has named and opened.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

PIECE = 1 << 16  # bytes


def open_entrance(connect: Callable[[], socket.socket]) -> int:
    """Listens on this machine, and carries each connection to what `connect` connects to.

    Args:
        connect: makes a connection; an OSError closes the local one.

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
    """Copies what arrives at either of two connections to the other, in two threads.

    Args:
        one: a connection.
        other: another one.
        stays_open: the one of them that is not closed when the other side has gone.
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
