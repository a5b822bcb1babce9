"""Limits of activities from their own medians, on a clock that the tests move."""

import os
import threading
import time

import pytest

from clac_jax.config.schema import default_config
from clac_jax.distributed import watchdog as watchdog_module
from clac_jax.distributed.supervisor_pipe import SUPERVISED
from clac_jax.distributed.watchdog import NoWatchdog, Patient, Watchdog

STEP, DATA = "a training step", "a batch of training data"
TICK = 5.0  # the largest; with a floor of 600 seconds


class Clock:
    """A clock that moves only by `pass_`, while the watching thread wakes up regularly."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def pass_(self, seconds, watchdog):
        while seconds > 0:
            self.now += min(TICK, seconds)
            seconds -= TICK
            watchdog.check()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def hangs():
    return []


@pytest.fixture
def watchdog(clock, hangs):
    """Not entered, so that only the tests call `check`."""
    return Watchdog(default_config().watchdog, hangs.append, clock)


def test_an_activity_may_take_ten_times_its_median_but_never_less_than_the_floor(
    watchdog, clock, hangs
):
    for seconds in (100, 90, 900, 110, 100):  # one that was slow once does not raise the limit
        with watchdog.watching(STEP):
            clock.pass_(seconds, watchdog)
    with watchdog.watching(STEP):
        clock.pass_(995, watchdog)
        assert hangs == []
        clock.pass_(10, watchdog)
    (hang,) = hangs
    assert (hang.kind, hang.limit, hang.usual) == (STEP, 1000, 100)
    assert hang.seconds == pytest.approx(1005, abs=TICK)
    assert "for a training step for 1005 s (limit 1000 s: config.watchdog" in hang.describe()


def test_short_activities_have_the_floor(watchdog, clock, hangs):
    for _ in range(3):
        with watchdog.watching(STEP):
            clock.pass_(0.3, watchdog)
    with watchdog.watching(STEP):
        clock.pass_(600, watchdog)
        assert hangs == []
        clock.pass_(5, watchdog)
    assert [hang.limit for hang in hangs] == [600]


def test_the_first_of_a_kind_may_take_an_hour_even_if_others_are_known(watchdog, clock, hangs):
    for _ in range(3):
        with watchdog.watching(DATA):
            clock.pass_(0.3, watchdog)
    with watchdog.watching(STEP):
        clock.pass_(3600, watchdog)
        assert hangs == []
        clock.pass_(5, watchdog)
    assert [hang.kind for hang in hangs] == [STEP]
    assert "config.watchdog.first_seconds" in hangs[0].describe()


def test_a_step_that_compiles_may_take_an_hour_and_so_may_the_next_one(watchdog, clock, hangs):
    """The next one may wait for another process, which compiles longer."""
    for is_new, seconds in ((False, 1), (False, 1), (True, 3000), (False, 3000), (False, 1)):
        with watchdog.watching(STEP, is_new):
            clock.pass_(seconds, watchdog)
    assert hangs == []
    with watchdog.watching(STEP):
        clock.pass_(605, watchdog)
    assert [(hang.limit, hang.usual) for hang in hangs] == [(600, 1)], "neither is in the median"


def test_only_the_innermost_activity_is_timed(watchdog, clock, hangs):
    for seconds in (1, 2000):
        with watchdog.watching(STEP):
            clock.pass_(400, watchdog)
            with watchdog.watching("a save", is_new=True):
                clock.pass_(seconds, watchdog)
            clock.pass_(400, watchdog)
    assert hangs == []
    with watchdog.watching(STEP), watchdog.unwatched():
        clock.pass_(1e4, watchdog)
    assert hangs == []


def test_saves_that_wait_for_a_bucket_may_take_any_time(watchdog, clock, hangs):
    for seconds in (1, 1e4):
        with watchdog.watching(STEP), Patient(watchdog).watching("a save"):
            clock.pass_(seconds, watchdog)
        with watchdog.watching(STEP), Patient(watchdog).unwatched():
            clock.pass_(seconds, watchdog)
    assert hangs == []


def test_a_long_activity_lives_as_long_as_it_reports_progress(watchdog, clock, hangs):
    for _ in range(2):
        with watchdog.watching("the validation"):
            for _ in range(40):
                clock.pass_(100, watchdog)
                watchdog.alive()
    assert hangs == []
    with watchdog.watching("the validation"):
        clock.pass_(1005, watchdog)
    assert [(hang.limit, hang.usual) for hang in hangs] == [(1000, 100)]


def test_time_in_which_the_process_was_suspended_does_not_count(watchdog, clock, hangs):
    for _ in range(3):
        with watchdog.watching(STEP):
            clock.pass_(1, watchdog)
    with watchdog.watching(STEP):
        clock.pass_(300, watchdog)
        clock.now += 50_000  # no wake-up for hours: suspended, not hung
        watchdog.check()
        clock.pass_(290, watchdog)
        assert hangs == []
        clock.pass_(20, watchdog)
    assert len(hangs) == 1


def test_time_in_a_debugger_does_not_count(watchdog, clock, hangs, monkeypatch):
    with watchdog.watching(STEP):
        monkeypatch.setattr(watchdog_module, "is_debugged", lambda: True)
        clock.pass_(10_000, watchdog)
        monkeypatch.setattr(watchdog_module, "is_debugged", lambda: False)
        clock.pass_(3000, watchdog)
        assert hangs == []
        clock.pass_(3000, watchdog)
    assert len(hangs) == 1


def test_each_thread_is_watched_and_one_hang_is_reported(watchdog, clock, hangs):
    saving, done = threading.Event(), threading.Event()

    def save():
        with watchdog.watching("a checkpoint to be written"):
            saving.set()
            done.wait(20)

    thread = threading.Thread(target=save)
    thread.start()
    assert saving.wait(20)
    with watchdog.watching(STEP):
        assert watchdog.describe() in (
            f"a checkpoint to be written and {STEP}",
            f"{STEP} and a checkpoint to be written",
        )
        for _ in range(40):
            clock.pass_(100, watchdog)
            watchdog.alive()
    done.set()
    thread.join()
    assert [hang.kind for hang in hangs] == ["a checkpoint to be written"]
    assert watchdog.describe() == "nothing that is watched"


def test_steps_watches_the_wait_for_a_batch_and_the_step_that_uses_it(watchdog, clock, hangs):
    doing = []

    def batches():
        for number in range(3):
            doing.append(watchdog.describe())
            clock.pass_(1, watchdog)
            yield number

    for batch in watchdog.steps(batches(), is_new=lambda number: number == 0):
        doing.append((batch, watchdog.describe()))
    assert doing == [DATA, (0, STEP), DATA, (1, STEP), DATA, (2, STEP)]
    assert watchdog.describe() == "nothing that is watched"
    with watchdog.watching(DATA):
        clock.pass_(605, watchdog)
    assert [hang.limit for hang in hangs] == [600], "the waits are known"
    with pytest.raises(ZeroDivisionError):
        for number in watchdog.steps(range(3), is_new=lambda number: False):
            number / 0
    assert watchdog.describe() == "nothing that is watched", "also after an error in a step"


def test_the_main_thread_stops_where_it_is_once_a_hang_was_noticed(clock):
    """A wait that ends after all must not lead to a step while the state is being saved."""
    continued, entered, release = [], threading.Event(), threading.Event()

    def train():
        with Watchdog(default_config().watchdog, lambda hang: None, clock) as watchdog:
            watchdogs.append(watchdog)
            with watchdog.watching(DATA):
                entered.set()
                release.wait(20)
            continued.append(True)

    watchdogs = []
    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    assert entered.wait(20)
    clock.now += 4000 / 3
    for _ in range(3 * 300):
        clock.now += TICK
        watchdogs[0].check()
    assert watchdogs[0].hang
    release.set()
    thread.join(0.5)
    assert thread.is_alive() and not continued


def test_a_run_without_a_watchdog_does_the_same():
    with NoWatchdog() as watchdog, watchdog.watching(STEP), watchdog.unwatched():
        watchdog.alive()
        assert list(watchdog.steps(range(3), is_new=bool)) == [0, 1, 2]


def pipe(monkeypatch, **wrong):
    """The end that reads, of a pipe that is named in the environment."""
    reader, writer = os.pipe()
    facts = os.fstat(writer)
    parts = {"fd": writer, "device": facts.st_dev, "inode": facts.st_ino} | wrong
    monkeypatch.setenv(SUPERVISED, ":".join(map(str, parts.values())))
    return reader, writer


def test_a_supervisor_hears_that_the_watching_thread_runs(monkeypatch):
    reader, _ = pipe(monkeypatch)
    options = default_config().watchdog
    options.floor_seconds = 0.5
    with open(reader, "rb", buffering=0) as sent:
        with Watchdog(options, lambda hang: None):
            assert sent.read(1) == b"."
        while sent.read(100):  # until the end, which is the end of the watching
            pass


def test_the_end_of_a_supervisor_is_reported_once(monkeypatch):
    reader, _ = pipe(monkeypatch)
    options = default_config().watchdog
    options.floor_seconds = 0.2
    reports = []
    with Watchdog(options, lambda hang: None) as watchdog:
        watchdog.on_orphaned = lambda: reports.append(1)
        os.close(reader)
        deadline = time.monotonic() + 20
        while not reports and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
    assert reports == [1]


def test_a_supervisor_hears_signs_of_life_during_the_end_of_a_hang(monkeypatch):
    """The last save and its upload may take minutes."""
    reader, _ = pipe(monkeypatch)
    options = default_config().watchdog
    options.floor_seconds = options.first_seconds = 0.2
    hung, done = threading.Event(), threading.Event()

    def end(hang):
        hung.set()
        done.wait(20)

    def hang():
        with watchdog.watching(STEP):
            done.wait(20)

    with open(reader, "rb", buffering=0) as sent, Watchdog(options, end) as watchdog:
        threading.Thread(target=hang).start()
        assert hung.wait(10)
        os.set_blocking(reader, False)
        sent.read(1000)
        time.sleep(0.5)
        assert sent.read(1000), "silence"
        done.set()


@pytest.mark.parametrize("wrong", [{"inode": 1}, {"device": 1}, {"fd": "x"}, {"fd": 99_999}])
def test_another_file_with_the_number_of_the_pipe_is_not_touched(monkeypatch, wrong):
    reader, writer = pipe(monkeypatch, **wrong)
    options = default_config().watchdog
    options.floor_seconds = 0.1
    with Watchdog(options, lambda hang: None):
        threading.Event().wait(0.1)
    os.close(writer)  # it is still open, so nothing has closed it
    with open(reader, "rb") as sent:
        assert sent.read() == b""
