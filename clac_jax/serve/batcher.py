"""One thread that computes for all clients, several requests at a time.

Requests that wait are embedded in one batch and searched in one pass over the vectors, which takes
little longer than one of them.
"""

from __future__ import annotations

import concurrent.futures
import queue
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from clac_jax.index.search import Hit, Searcher
from clac_jax.serve.messages import EmbedRequest, RequestError, SearchRequest

MAX_BATCH = 32
MAX_PENDING = 512
MAX_NEW_TEXTS = 16
"""Texts whose sentences are embedded per batch: what many clients would otherwise wait for."""

_STOP = None

Answer = tuple[list[Hit], "np.ndarray | None"]
"""Hits, and the cosine of every row if requested."""

Job = tuple[SearchRequest | EmbedRequest, "concurrent.futures.Future[Any]"]


class Batcher:
    """Answers requests in a thread of its own."""

    def __init__(self, searcher: Searcher):
        """Starts the thread; `close` stops it."""
        self._searcher = searcher
        searcher.max_new_texts = MAX_NEW_TEXTS
        self._queue: queue.Queue[Job | None] = queue.Queue(MAX_PENDING)
        self._thread = threading.Thread(target=self._run, name="clac_jax.serve", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Number of requests that wait."""
        return self._queue.qsize()

    def submit(self, request: SearchRequest | EmbedRequest) -> concurrent.futures.Future[Any]:
        """Queues a request.

        Returns:
            A future of an `Answer`, or for an `EmbedRequest` of the vectors of its texts and of its
            crystals. Cancelling it takes it out of the queue.

        Raises:
            RequestError: too many requests wait.
        """
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            self._queue.put_nowait((request, future))
        except queue.Full:
            raise RequestError("The server is busy. Send the request again later.", 503) from None
        return future

    def close(self) -> None:
        """Stops the thread when it has answered what waits."""
        self._queue.put(_STOP)
        self._thread.join()

    def _run(self) -> None:
        while True:
            jobs, is_last = self._next_jobs()
            live = [job for job in jobs if job[1].set_running_or_notify_cancel()]
            searches = [job for job in live if isinstance(job[0], SearchRequest)]
            self._answer(searches)
            for job in live:
                if isinstance(job[0], EmbedRequest):
                    self._answer([job])
            if is_last:
                return

    def _next_jobs(self) -> tuple[list[Job], bool]:
        """The jobs that wait, at least one, and whether the thread is to stop after them."""
        jobs: list[Job] = []
        first = self._queue.get()
        while first is not _STOP:
            jobs.append(first)
            if len(jobs) == MAX_BATCH:
                return jobs, False
            try:
                first = self._queue.get_nowait()
            except queue.Empty:
                return jobs, False
        return jobs, True

    def _answer(self, jobs: Sequence[Job]) -> None:
        if not jobs:
            return
        try:
            answers = self._compute([request for request, _ in jobs])
        except Exception as error:  # a failure of one request must not stop the server
            if len(jobs) > 1:  # find the request that fails
                for job in jobs:
                    self._answer([job])
                return
            jobs[0][1].set_exception(error)
            return
        for (_, future), answer in zip(jobs, answers, strict=True):
            future.set_result(answer)

    def _compute(self, requests: Sequence[SearchRequest | EmbedRequest]) -> list[Any]:
        first = requests[0]
        if isinstance(first, EmbedRequest):
            model = self._searcher.model
            texts = model.embed_texts(first.texts) if first.texts else None
            crystals = model.embed_crystals(first.crystals) if first.crystals else None
            return [(texts, crystals)]
        searches = [request for request in requests if isinstance(request, SearchRequest)]
        queries = self._searcher.vectors([search.query for search in searches])
        options = [search.options for search in searches]
        found = self._searcher.search_vectors(queries, options)
        return [
            (hits, self._searcher.exact.scores(query) if search.scores else None)
            for hits, query, search in zip(found, queries, searches, strict=True)
        ]
