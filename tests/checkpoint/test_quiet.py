"""Threads of Orbax and TensorStore do not print errors that are reported anyway."""

import asyncio
import gc
import logging

from clac_jax.checkpoint.quiet import quiet_threads


def a_failure_that_nobody_waits_for():
    loop = asyncio.new_event_loop()
    future = loop.create_future()
    future.set_exception(ValueError("INTERNAL: File too large"))
    del future
    gc.collect()
    loop.close()


def test_errors_of_the_other_arrays_are_dropped_and_nothing_else(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("asyncio"), "filters", [])  # drop those of earlier tests
    a_failure_that_nobody_waits_for()
    assert "never retrieved" in caplog.text
    caplog.clear()
    quiet_threads()
    quiet_threads()
    a_failure_that_nobody_waits_for()
    logging.getLogger("asyncio").error("slow callback")
    assert caplog.messages == ["slow callback"]
