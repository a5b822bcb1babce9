"""Lines of events.jsonl that are events, and all others."""

import pytest

from clac_jax.reporting.event_reader import read_events


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[1]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"kind": "progress", "at": 1}',
        b'{"kind": 1, "at": 1, "start": "a"}',
        b'{"kind": "progress", "at": "now", "start": "a"}',
        b'{"kind": "progress", "at": NaN, "start": "a"}',
        b'{"kind": "progress", "at": 1, "start": "a", "seconds": [1]}',
        b'{"kind": "progress", "at": 1, "start": "a", "seconds": {"train": "1"}}',
        b'{"kind": "progress", "at": 1, "start": "a", "step": true}',
        b'{"kind": "progress", "at": 1, "start": "a", "step": 1.5}',
        b'{"kind": "progress", "at": 1e300, "start": "a"}',
        b'{"kind": "progress", "at": 1, "start": "a", "seconds": {"train": 1e14}}',
        b'{"kind": "progress", "at": 1, "start": "a", "step": ' + b"9" * 5000 + b"}",
    ],
)
def test_a_line_that_is_not_an_event_is_counted(tmp_path, line):
    path = tmp_path / "events.jsonl"
    path.write_bytes(line + b'\n{"kind": "ended", "at": 1, "start": "a"}\n')
    events, unread = read_events(path)
    assert ([event["kind"] for event in events], unread) == (["ended"], 1)
