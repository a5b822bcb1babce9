"""Threads of Orbax and TensorStore do not print errors that are reported anyway."""

import asyncio
import gc
import logging

from clac_jax.checkpoint.quiet import quiet_threads


def an_unawaited_failure():
    loop = asyncio.new_event_loop()
    future = loop.create_future()
    future.set_exception(ValueError("INTERNAL: File too large"))
    del future
    gc.collect()
    loop.close()


def test_errors_of_the_other_arrays_are_dropped_and_nothing_else(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("asyncio"), "filters", [])  # drop those of earlier tests
    an_unawaited_failure()
    assert "never retrieved" in caplog.text
    caplog.clear()
    quiet_threads()
    quiet_threads()
    an_unawaited_failure()
    logging.getLogger("asyncio").error("slow callback")
    assert caplog.messages == ["slow callback"]
