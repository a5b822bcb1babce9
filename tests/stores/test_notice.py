"""A user who waits for a store reads why, and until when."""

import contextlib
import re
import socket

import pytest
from helpers.object_stores import misbehaving_store, quick_retries, s3_environment

from clac_jax.stores import notice
from clac_jax.stores.errors import UnavailableError
from clac_jax.stores.failures import Failure, Kind
from clac_jax.stores.notice import Notice
from clac_jax.stores.store import StoreOptions, open_store

GONE, BUSY = Failure(Kind.UNAVAILABLE, "no connection"), Failure(Kind.THROTTLED, "503 SlowDown")
UNTIL = r"Trying again until \d\d:\d\d:\d\d\.$"


@pytest.fixture
def lines():
    return []


@pytest.fixture
def notices(lines):
    return Notice("s3://bucket/run", lines.append)


def test_one_line_per_outage_after_a_few_seconds(notices, lines):
    notices.answered()
    for waited in range(6):
        notices.failed(GONE, waited, 60 - waited)
        assert len(lines) == (waited >= 3)
    notices.answered()
    notices.failed(GONE, 1, 59)
    assert len(lines) == 1, "a short one is not worth a line"
    notices.failed(BUSY, 5, 55)
    assert re.match(rf"s3://bucket/run does not answer \(no connection\)\. {UNTIL}", lines[0])
    assert re.match(rf"s3://bucket/run throttles requests \(503 SlowDown\)\. {UNTIL}", lines[1])


def test_later_requests_may_take_their_time(notices, lines, monkeypatch):
    monkeypatch.setattr(notice, "NOTICE_SECONDS", 0.0)
    notices.answered()
    with notices.watching(60):
        pass
    assert lines == []


def test_a_connection_that_hangs_from_the_start(lines, monkeypatch):
    """Nothing has failed yet when the line is due."""
    monkeypatch.setattr(notice, "NOTICE_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent, contextlib.ExitStack() as stack:
        environment = s3_environment(f"http://127.0.0.1:{silent.getsockname()[1]}")
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        stack.enter_context(quick_retries())
        options = StoreOptions(patience_seconds=0.2, request_seconds=0.5, say=lines.append)
        with pytest.raises(UnavailableError):
            open_store("s3://bucket/run", options).get("x")
    assert len(lines) == 1
    assert re.match(rf"s3://bucket/run does not answer\. {UNTIL}", lines[0])


def test_an_outage_in_the_middle(lines, monkeypatch):
    monkeypatch.setattr(notice, "NOTICE_SECONDS", 0.1)
    options = StoreOptions(patience_seconds=0.3, say=lines.append)
    with misbehaving_store() as running, running.activated() as url, quick_retries():
        store = open_store(url, options)
        store.put("x", b"x")
        running.control(outage=True)
        for _ in range(2):
            with pytest.raises(UnavailableError):
                store.get("x")
        running.control(outage=False)
        assert store.get("x").data == b"x"
    assert len(lines) == 1 and re.search(UNTIL, lines[0])
