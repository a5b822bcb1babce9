"""The HTTP service: routes, limits, and the headers of every answer."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import email.message
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import clac_jax
from clac_jax.errors import UserError, shown
from clac_jax.index.search import Searcher
from clac_jax.map.page import served_page
from clac_jax.serve.batcher import Batcher
from clac_jax.serve.messages import MAX_BODY, RequestError, embed_request, search_request
from clac_jax.stores.url import is_url

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_SECONDS = 10.0
ANSWER_SECONDS = 60.0

# The scripts of the map's page come from this server only, and nothing may be sent anywhere else.
_POLICY = (
    "default-src 'none'; script-src 'self'; "
    "worker-src blob:; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' data: blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

_NO_MAP = """clac-jax serve

POST /search   {"text": "a layered oxide", "k": 10, "where": "band_gap > 3"}
POST /embed    {"text": ["a layered oxide"]}
GET  /health

There is no map. Make one with `clac-jax map INDEX --out INDEX/map`, and start the server again.
"""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the service.

    Attributes:
        map_folder: folder made by `clac-jax map`, served under /map/; None if there is none.
        hosts: accepted names of the server in the Host header, without port; None accepts all.
            With them no page of a different site reaches a loopback server by a name of its own.
        answer_seconds: after this time a request is answered with 503.
    """

    map_folder: Path | None = None
    hosts: Sequence[str] | None = None
    answer_seconds: float = ANSWER_SECONDS


def make_app(searcher: Searcher, settings: Settings) -> ASGIApp:
    """The ASGI application.

    Args:
        searcher: the index with its model.
        settings: see `Settings`.
    """
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    service = _Service(searcher, settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        del app
        yield
        await asyncio.to_thread(service.batcher.close)

    async def front(request: Request) -> Response:
        del request
        if settings.map_folder is None:
            return PlainTextResponse(_NO_MAP)
        return RedirectResponse("/map/")

    async def on_http_error(request: Request, error: Exception) -> Response:
        del request
        assert isinstance(error, HTTPException)
        return _json({"error": f"{error.detail}."}, error.status_code, error.headers)

    routes: list[Any] = [
        Route("/", front, methods=["GET"]),
        Route("/health", service.health, methods=["GET"]),
        Route("/search", service.guarded(service.search), methods=["POST"]),
        Route("/embed", service.guarded(service.embed), methods=["POST"]),
    ]
    if settings.map_folder is not None:
        # The page is served with a mark that there is a model to ask; other files as they are.
        page = served_page(settings.map_folder)
        for path in ("/map/", "/map/index.html"):
            routes.append(Route(path, lambda _: HTMLResponse(page)))
        routes.append(Mount("/map", StaticFiles(directory=settings.map_folder, html=True)))
    app = Starlette(
        routes=routes, lifespan=lifespan, exception_handlers={HTTPException: on_http_error}
    )
    return _Guard(app, settings.hosts)


class _Service:
    """The handlers of the requests."""

    def __init__(self, searcher: Searcher, settings: Settings):
        self._searcher = searcher
        self._settings = settings
        self.batcher = Batcher(searcher)
        model, index = searcher.model, searcher.index
        step = index.info["model"]["step"]
        remote = model.name.startswith("hf:") or is_url(model.name)
        name = model.name if remote else Path(model.name).name  # not the folders of this machine
        self._model = {"name": name, "checksum": model.checksum, "step": step}
        folder = Path(shown(index.path.resolve())).name
        self._index = {"name": folder, "checksum": index.checksum, "count": index.count}

    def guarded(
        self, handler: Callable[[bytes], Awaitable[dict[str, Any]]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """A handler of bodies as one of requests: with time, errors as JSON, and status codes."""

        async def answer(request: Request) -> Response:
            started = time.perf_counter()
            try:
                content = await handler(await _body(request))
            except RequestError as error:
                retry = {"retry-after": "1"} if error.status == 503 else None
                return _json({"error": str(error)}, error.status, retry)
            except UserError as error:
                return _json({"error": str(error)}, 400)
            except Exception:
                logging.getLogger(__name__).exception("a request failed")
                return _json({"error": "The server failed on this request; see its output."}, 500)
            took = round(1000 * (time.perf_counter() - started), 3)
            about = {"took_ms": took, "model": self._model, "index": self._index}
            return _json({**content, **about})

        return answer

    async def search(self, body: bytes) -> dict[str, Any]:
        """`POST /search`."""
        index = self._searcher.index
        # In a thread: reading a large CIF takes a while.
        request = await asyncio.to_thread(search_request, body, index.schema, index.count)
        hits, scores = await self._answer(request)
        content: dict[str, Any] = {"hits": [dataclasses.asdict(hit) for hit in hits]}
        if scores is not None:
            content["all"] = base64.b64encode(scores.astype("<f2").tobytes()).decode()
        return content

    async def embed(self, body: bytes) -> dict[str, Any]:
        """`POST /embed`."""
        request = await asyncio.to_thread(embed_request, body)
        texts, crystals = await self._answer(request)
        return {
            "dim": self._searcher.model.dim,
            "texts": _lists(texts),
            "crystals": _lists(crystals),
        }

    async def health(self, request: Request) -> Response:
        """`GET /health`."""
        del request
        return _json(
            {
                "status": "ok",
                "version": clac_jax.__version__,
                "model": self._model,
                "index": self._index,
                "has_map": self._settings.map_folder is not None,
                "pending": self.batcher.pending,
            }
        )

    async def _answer(self, request: Any) -> Any:
        future = asyncio.wrap_future(self.batcher.submit(request))
        try:
            return await asyncio.wait_for(future, self._settings.answer_seconds)
        except TimeoutError as error:  # the request is cancelled, and never computed
            raise RequestError("The server is busy. Send the request again later.", 503) from error


class _Guard:
    """Adds the security headers to every answer, and checks the Host header of every request."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str] | None):
        self._app = app
        self._hosts = None if hosts is None else frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        given = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        if self._hosts is not None and _name_of(given) not in self._hosts:
            refusal = _json({"error": f"This server is not {given[:80]!r}. Use its own name."}, 403)
            await refusal(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)


def _name_of(host: str) -> str:
    """The name in a Host header, as names are compared: without a port, a final dot or capitals."""
    name, _, port = host.rpartition(":")
    has_port = port.isdigit() or (not port and not name.endswith(":"))
    return (name if name and has_port else host).lower().removesuffix(".")


async def _body(request: Request) -> bytes:
    """The body of a request of JSON.

    Raises:
        RequestError: it has another type, is too large, takes too long, or ends half-way.
    """
    from starlette.requests import ClientDisconnect

    stated = email.message.Message()
    stated["Content-Type"] = request.headers.get("content-type", "")
    kind, charset = stated.get_content_type(), stated.get_content_charset("utf-8")
    if kind != "application/json" or charset != "utf-8":
        raise RequestError("Send JSON, with the header Content-Type: application/json.", 415)
    body = bytearray()

    async def read() -> None:
        async for chunk in request.stream():
            body.extend(chunk)
            if len(body) > MAX_BODY:
                raise RequestError(f"The body is larger than {MAX_BODY:,} bytes. Shorten it.", 413)

    try:
        await asyncio.wait_for(read(), BODY_SECONDS)
    except TimeoutError as error:
        raise RequestError("The body took too long to arrive. Send it again.", 408) from error
    except ClientDisconnect as error:  # the server has done nothing wrong
        raise RequestError("The body is incomplete. Send it again.", 400) from error
    return bytes(body)


def _json(content: dict[str, Any], status: int = 200, headers: Any = None) -> Response:
    from starlette.responses import Response

    text = json.dumps(content, allow_nan=False, ensure_ascii=False)
    own = {"cache-control": "no-store", **(headers or {})}
    return Response(text.encode(errors="replace"), status, own, "application/json")


def _lists(vectors: np.ndarray | None) -> list[list[float]]:
    return [] if vectors is None else vectors.astype(np.float64).round(7).tolist()
