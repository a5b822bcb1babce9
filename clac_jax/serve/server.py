"""The process of `clac-jax serve`: socket, signals, and the end."""

from __future__ import annotations

import contextlib
import ipaddress
import signal
import socket
from collections.abc import Iterator

from clac_jax.errors import UserError, error_reason
from clac_jax.index.query import Query
from clac_jax.index.search import Options, Searcher
from clac_jax.serve.app import Settings, make_app
from clac_jax.serve.batcher import MAX_BATCH

_CLIENTS = 400
_GRACE_SECONDS = 10
_LENGTHS = (40, 4, 12)  # words of the queries that are compiled for


class ServerError(UserError):
    """The server cannot be started."""


def require_packages() -> None:
    """Checks that the extra `serve` is installed.

    Raises:
        ServerError: it is not.
    """
    try:
        import starlette
        import uvicorn
    except ImportError as error:
        raise ServerError(
            f'clac-jax serve needs {error.name}. Install it with `pip install "clac-jax[serve]"`.'
        ) from error
    del starlette, uvicorn


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def host_names(host: str) -> list[str] | None:
    """The accepted names in the Host header: those of a loopback server; None: any."""
    return ["localhost", "127.0.0.1", "[::1]", host.lower()] if is_loopback(host) else None


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        ServerError: the port is in use, or the address is empty or not one of this machine.
    """
    if not host:  # to the system, all interfaces
        raise ServerError("--host is empty. Give an address, 0.0.0.0 for all of this machine.")
    if not 0 <= port <= 65535:
        raise ServerError(f"There is no port {port}. Choose another --port, 0 to 65535.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise ServerError(
            f"Cannot listen on {host}:{port}: {error_reason(error)}. Choose another --port (0 "
            "takes a free one) or --host."
        ) from error


def warm_up(searcher: Searcher) -> None:
    """Compiles what the first requests would wait for."""
    for length in _LENGTHS:
        query = Query((" ".join(["oxide"] * length),))
        for number in (1, MAX_BATCH):
            searcher.search_many([(query, Options(10, sentences=0))] * number)
    for number in (2, 4, 8, 16):  # the search is compiled for powers of two
        searcher.search_many([(query, Options(10, sentences=0))] * number)


def serve(searcher: Searcher, settings: Settings, listening: socket.socket) -> None:
    """Answers requests until SIGINT or SIGTERM; those in progress are still answered."""
    import uvicorn

    class Server(uvicorn.Server):
        """Returns after a signal; uvicorn's own raises it again, as if the process had failed."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            numbers = (signal.SIGINT, signal.SIGTERM)
            before = {number: signal.signal(number, self.handle_exit) for number in numbers}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    config = uvicorn.Config(
        make_app(searcher, settings),
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ws="none",
        limit_concurrency=_CLIENTS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    Server(config).run(sockets=[listening])
