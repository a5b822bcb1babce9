"""events.jsonl: every moment once, whatever ends a start, and a small file."""

import itertools
import threading
import time

import jax
import pytest

from clac_jax.distributed.preemption import Preempted
from clac_jax.reporting import events as events_module
from clac_jax.reporting.event_reader import read_events
from clac_jax.reporting.events import Events, NoEvents, process_began
from clac_jax.reporting.goodput import goodput


class Clock:
    """A clock that tests move; wall-clock and monotonic time differ."""

    def __init__(self, monkeypatch):
        self.now = 50.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "time", lambda: 1e9 + self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def read(path):
    events, unread = read_events(path)
    assert unread == 0
    return events


def test_each_moment_belongs_to_one_activity(clock, tmp_path):
    path = tmp_path / "events.jsonl"
    with Events(path, began=1e9 + 47) as events:
        clock.now += 1
        events.phase("train")
        clock.now += 2
        with events.during("validation"):
            clock.now += 4
            with events.during("data_wait"):
                clock.now += 8
            clock.now += 16
        clock.now += 32
        events.record("something", detail=3)
        clock.now += 64
    start, something, ended = read(path)
    assert start["began"] == 1e9 + 47
    assert start["seconds"] == {"start": 3.0}
    seconds = {"start": 1.0, "train": 34.0, "validation": 20.0, "data_wait": 8.0}
    assert something["seconds"] == seconds
    assert something["detail"] == 3
    assert something["at"] - start["at"] == sum(seconds.values())
    assert ended["kind"] == "ended"
    assert ended["seconds"] == {"train": 64.0}


def test_rounded_seconds_still_add_up(clock, tmp_path):
    with Events(tmp_path / "events.jsonl") as events:
        events.phase("train")
        for _ in range(1000):
            clock.now += 0.0006
            events.record("tick")
    total = sum(event["seconds"].get("train", 0) for event in read(tmp_path / "events.jsonl"))
    assert total == pytest.approx(0.6, abs=0.0011)


def test_compilation_is_not_counted_as_training(tmp_path):
    with Events(tmp_path / "events.jsonl") as events:
        events.phase("train")
        inner = jax.jit(lambda x: x * 2 + 1)
        jax.jit(lambda x: inner(inner(x)) - 3)(1.0).block_until_ready()
    events = read(tmp_path / "events.jsonl")
    seconds = events[-1]["seconds"]
    assert seconds["compile"] > 0
    assert sum(seconds.values()) <= events[-1]["at"] - events[0]["at"] + 0.002


def test_a_compilation_in_another_thread_is_not_what_the_run_does(clock, tmp_path):
    with Events(tmp_path / "events.jsonl") as events:
        clock.now += 5
        event = "/jax/core/compile/backend_compile_duration"
        thread = threading.Thread(target=events._on_duration, args=(event, 3.0))
        thread.start()
        thread.join()
    assert read(tmp_path / "events.jsonl")[-1]["seconds"] == {"start": 5.0}


def test_nested_compilations_are_counted_once(clock, tmp_path):
    with Events(tmp_path / "events.jsonl") as events:
        clock.now += 10
        with events.during("validation"):
            clock.now += 3
            events._on_duration("/jax/core/compile/jaxpr_trace_duration", 2.0)
            clock.now += 1
            events._on_duration("/jax/core/compile/jaxpr_trace_duration", 4.0)
            events._on_duration("/jax/something/else", 9.0)
            clock.now += 1
        clock.now += 1
    seconds = read(tmp_path / "events.jsonl")[-1]["seconds"]
    assert seconds == {"start": 11.0, "compile": 4.0, "validation": 1.0}


def test_a_compilation_that_began_before_the_last_event_is_corrected(clock, tmp_path):
    with Events(tmp_path / "events.jsonl") as events:
        events.phase("validation")
        for _ in range(5):
            clock.now += 2
            events.record("progress")
        clock.now += 1
        events._on_duration("/jax/core/compile/jaxpr_trace_duration", 2.0)
        events._on_duration("/jax/core/compile/backend_compile_duration", 9.0)
    *_, ended = events = read(tmp_path / "events.jsonl")
    assert ended["seconds"] == {"validation": -8.0, "compile": 9.0}
    total = goodput(events)
    assert (total.wall, total.seconds["compile"], total.seconds["validation"]) == (11, 9, 2)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Preempted("SIGTERM"), {"kind": "stopped", "signal": "SIGTERM"}),
        (ZeroDivisionError("x"), {"kind": "failed", "error": "ZeroDivisionError"}),
    ],
)
def test_says_how_a_start_ended(tmp_path, error, expected):
    with pytest.raises(type(error)), Events(tmp_path / "events.jsonl"):
        raise error
    last = read(tmp_path / "events.jsonl")[-1]
    assert expected.items() <= last.items()


def test_progress_is_recorded_at_intervals_with_the_position(clock, tmp_path):
    with Events(tmp_path / "events.jsonl") as events:
        events.restored(4, 1)
        for step in range(5, 30):
            clock.now += 1 if step < 7 else 100
            events.progress(step, 1)
            events.record_if_due()
            events.saved(step)
    _, restored, *steps, ended = read(tmp_path / "events.jsonl")
    assert (restored["kind"], restored["step"], restored["epoch"]) == ("restored", 4, 1)
    assert [event["at"] - restored["at"] for event in steps[:4]] == [1, 2, 102, 202]
    assert [event["step"] for event in steps] == list(range(5, 30))
    assert (steps[0].get("saved"), steps[1]["saved"]) == (None, 5)
    assert (ended["step"], ended["saved"]) == (29, 29)


def test_a_kill_leaves_a_second_unrecorded_however_old_the_start_is(clock, tmp_path):
    """The last line is written again until the next one is due."""
    path = tmp_path / "events.jsonl"
    events = Events(path)
    events.restored(0, 0)
    events.phase("train")
    lengths = []
    for step in range(1, 8000):
        clock.now += 1
        events.progress(step, 0)
        events.saved(step) if step == 7990 else None
        events.record_if_due()
        lengths.append(len(read(path)) if step % 100 == 0 else 0)
    *_, last = recorded = read(path)
    assert (last["step"], last["at"]) == (7999, 1e9 + clock.now)
    assert [each["saved"] for each in recorded if "saved" in each] == [7990]
    assert goodput(recorded).seconds["train"] == pytest.approx(7999)
    assert len(recorded) < 400
    events._file.close()


def test_a_line_that_gets_shorter_leaves_no_rest(clock, tmp_path):
    path = tmp_path / "events.jsonl"
    with Events(path) as events:
        clock.now += 1000
        events.record("something")
        with events.during("validation"):
            clock.now += 1.5
            events.record_if_due()
            before = path.stat().st_size
            clock.now += 1.0
            events._on_duration("/jax/core/compile/backend_compile_duration", 2.5)
            events.record_if_due()
        assert path.stat().st_size == before
    assert read(path)[-2]["seconds"] == {"compile": 2.5}


def test_a_file_that_is_cut_during_the_run_continues(clock, tmp_path):
    path = tmp_path / "events.jsonl"
    with Events(path) as events:
        clock.now += 1000
        events.record("something")
        for _ in range(2):
            clock.now += 2
            events.record_if_due()
        path.write_bytes(b"")
        clock.now += 2
        events.record_if_due()
    assert [event["kind"] for event in read(path)] == ["progress", "ended"]


def test_a_wait_before_it_began_is_not_the_start(clock, tmp_path):
    with Events(tmp_path / "events.jsonl", 1e9 + 10, {"lease_wait": 30.0}):
        pass
    assert read(tmp_path / "events.jsonl")[0]["seconds"] == {"lease_wait": 30.0, "start": 10.0}


def test_a_hang_is_not_what_it_interrupts(clock, tmp_path):
    with Events(tmp_path / "events.jsonl") as events:
        events.phase("train")
        clock.now += 5
        with events.during("data_wait"):
            for _ in range(4000):
                clock.now += 1
                events.record_if_due()
            events.hung("it has been waiting for a batch")
            clock.now += 10
            events.record_if_due()
    recorded = read(tmp_path / "events.jsonl")
    total = goodput(recorded)
    assert (total.seconds["train"], total.seconds["hung"], total.seconds["data_wait"]) == (
        5,
        4010,
        0,
    )
    assert (total.hangs, total.kills) == (1, 0)


def test_the_file_grows_slower_and_slower(clock, tmp_path, monkeypatch):
    monkeypatch.setattr(events_module, "DOUBLING_BYTES", 1000)
    with Events(tmp_path / "events.jsonl") as events:
        for step in range(100_000):
            clock.now += 10
            events.progress(step, 0)
            events.record_if_due()
    assert (tmp_path / "events.jsonl").stat().st_size < 17_000


def test_the_pause_grows_to_a_minute(clock, tmp_path):
    with Events(tmp_path / "events.jsonl") as events:
        for _ in range(20_000):
            clock.now += 0.5
            events.record_if_due()
    at = [event["at"] for event in read(tmp_path / "events.jsonl")][:-1]
    pauses = [later - earlier for earlier, later in itertools.pairwise(at)]
    assert pauses[:3] == [1, 1, 1]
    assert all(
        pause <= max(1.5, 0.02 * (end - at[0]) + 1)
        for pause, end in zip(pauses, at[1:], strict=True)
    )
    assert pauses[-4:-1] == [60, 60, 60]


def test_progress_is_recorded_while_the_run_is_busy(tmp_path, monkeypatch):
    monkeypatch.setattr(events_module, "SHORTEST_PAUSE", 0.01)
    path = tmp_path / "events.jsonl"
    with Events(path):
        deadline = time.monotonic() + 20
        while len(read_events(path)[0]) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert [event["kind"] for event in read(path)][:3] == ["start", "progress", "progress"]


def test_earlier_events_are_kept_and_a_torn_line_is_closed(tmp_path):
    path = tmp_path / "events.jsonl"
    with Events(path):
        pass
    torn = path.read_bytes() + b'{"kind": "prog'
    path.write_bytes(torn)
    with Events(path):
        pass
    assert path.read_bytes().startswith(torn + b"\n")
    events, unread = read_events(path)
    assert [event["kind"] for event in events] == ["start", "ended"] * 2
    assert len({event["start"] for event in events}) == 2
    assert unread == 1


def test_events_that_cannot_be_written_stop_no_run(tmp_path, capsys):
    (tmp_path / "events.jsonl").mkdir()
    with Events(tmp_path / "events.jsonl") as events:
        events.record("something")
    assert capsys.readouterr().err.count("Cannot write") == 1


def test_a_full_disk_stops_no_run(tmp_path, capsys):
    (tmp_path / "events.jsonl").symlink_to("/dev/full")
    with Events(tmp_path / "events.jsonl") as events:
        events.record("something")
        events.record("something")
    assert capsys.readouterr().err.count("No space left on device") == 1


def test_events_of_several_threads_do_not_mix(tmp_path):
    with Events(tmp_path / "events.jsonl") as events:

        def many():
            for number in range(200):
                events.record("something", number=number)

        threads = [threading.Thread(target=many) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(read(tmp_path / "events.jsonl")) == 802


def test_a_process_knows_when_it_began():
    assert 0 <= time.time() - process_began() < 3600


def test_other_processes_record_nothing():
    silent = NoEvents()
    with silent.during("train"):
        silent.phase("train")
        silent.restored(1, 0)
        silent.progress(1, 0)
        silent.saved(1)
        silent.record("something")
