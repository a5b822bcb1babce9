"""Repetition of failed requests and the limit of bytes, by a clock that only the test moves."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from clac_jax.stores.failures import Failure, Kind
from clac_jax.stores.retries import Bandwidth, Clock, Patience


class FakeTime:
    def __init__(self):
        self.now, self.pauses = 0.0, []
        self.clock = Clock(lambda: self.now, self.sleep)

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def time():
    return FakeTime()


def failures(kind):
    return Failure(kind, "")


@pytest.mark.parametrize("kind", [k for k in Kind if not k.is_transient])
def test_permanent_failures_are_not_repeated(time, kind):
    assert not Patience(60, time.clock).allows_another_try(failures(kind))
    assert time.pauses == []


@pytest.mark.parametrize("kind", [Kind.THROTTLED, Kind.UNAVAILABLE])
@pytest.mark.parametrize("seconds", [1.0, 60.0, 600.0])
def test_pauses_grow_and_end_with_patience(time, kind, seconds):
    patience = Patience(seconds, time.clock)
    while patience.allows_another_try(failures(kind)):
        assert len(time.pauses) < 1000
    assert time.now == pytest.approx(seconds)
    assert patience.waited == pytest.approx(seconds)
    *pauses, _ = time.pauses
    for one, later in zip(pauses, pauses[2:], strict=False):
        assert later >= one or max(pauses) / 2 <= later, "each is 0.5 to 1 of a doubling limit"


def test_pauses_are_longer_for_a_throttling_store(time):
    other = FakeTime()
    throttled, unavailable = Patience(60, time.clock), Patience(60, other.clock)
    for _ in range(3):
        throttled.allows_another_try(failures(Kind.THROTTLED))
        unavailable.allows_another_try(failures(Kind.UNAVAILABLE))
    assert time.now > 3 * other.now


def test_time_that_requests_take_counts(time):
    patience = Patience(60, time.clock)
    assert patience.allows_another_try(failures(Kind.UNAVAILABLE))
    time.now += 60
    assert not patience.allows_another_try(failures(Kind.UNAVAILABLE))


def test_pauses_do_not_disturb_the_random_numbers_of_a_run(time):
    random.seed(1)
    expected = random.Random(1).random()
    Patience(60, time.clock).allows_another_try(failures(Kind.UNAVAILABLE))
    assert random.random() == expected


def test_the_limit_of_bytes_holds_over_all_threads(time):
    limit = Bandwidth(1000, time.clock)
    for size in (500, 1500, 1000):
        limit.take(size)
    assert time.now == pytest.approx(2.0), "the bytes before the last ones, at 1000 per second"
    time.now += 10
    limit.take(1000)
    assert time.now == pytest.approx(12.0), "idle time is not saved up, and costs nothing"


def test_threads_wait_for_each_other():
    waits = []
    limit = Bandwidth(1000, Clock(lambda: 0.0, waits.append))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(limit.take, [100] * 50))
    assert sorted(waits) == pytest.approx([0.1 * number for number in range(1, 50)])


def test_without_a_limit_nothing_waits(time):
    Bandwidth(0, time.clock).take(1 << 40)
    assert time.pauses == []
