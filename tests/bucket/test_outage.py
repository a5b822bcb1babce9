"""The lines that a user reads while a store cannot be reached."""

from clac_jax.bucket.outage import Outage
from clac_jax.stores.errors import CredentialsError, UnavailableError


def test_one_line_when_it_starts_and_one_when_it_ends():
    lines = []
    outage = Outage("s3://bucket/run", lines.append)
    outage.report(None)
    for _ in range(5):
        outage.report(UnavailableError("s3://bucket/run does not answer."))
    outage.report(None)
    outage.report(None)
    started, ended = lines
    assert started.startswith("s3://bucket/run does not answer. Training continues; uploads wait")
    assert ended.startswith("s3://bucket/run can be written to again, after 0 seconds")


def test_a_request_that_has_failed_since_before_the_end_of_an_outage_is_none():
    """The threads of a run do not notice the end of an outage at the same time."""
    lines = []
    outage = Outage("s3://bucket/run", lines.append)
    outage.report(UnavailableError("It does not answer.", waited=20))
    outage.report(None)
    outage.report(UnavailableError("It does not answer.", waited=20))
    outage.report(None)
    assert len(lines) == 2
    outage.report(UnavailableError("It does not answer again."))
    assert len(lines) == 3


def test_the_clock_of_the_machine_may_jump(monkeypatch):
    lines = []
    outage = Outage("s3://bucket/run", lines.append)
    outage.report(UnavailableError("s3://bucket/run does not answer."))
    monkeypatch.setattr("time.time", lambda: 0.0)
    outage.report(None)
    assert "again, after 0 seconds" in lines[1]


def test_after_the_training_the_caller_reports_what_waits():
    lines = []
    outage = Outage("s3://bucket/run", lines.append)
    outage.training_ends()
    outage.report(UnavailableError("s3://bucket/run does not answer."))
    outage.report(None)
    assert lines == []


def test_another_reason_is_another_line():
    lines = []
    outage = Outage("s3://bucket/run", lines.append)
    outage.report(UnavailableError("It does not answer."))
    outage.report(CredentialsError("The credentials have expired.", "expired"))
    outage.report(CredentialsError("The credentials have expired.", "expired"))
    assert [line.split(".")[0] for line in lines] == [
        "It does not answer",
        "The credentials have expired",
    ]
