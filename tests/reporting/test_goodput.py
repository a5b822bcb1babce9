"""Where a run's time went: hand-computed accounts, and any history that starts can make."""

import itertools
import json
import os
import random

import pytest
from helpers.object_stores import misbehaving_store
from hypothesis import given
from hypothesis import strategies as st

from clac_jax.cli.main import main
from clac_jax.reporting.goodput import MEANINGS, format_goodput, goodput
from clac_jax.stores.store import open_store


def event(start, kind, at, position=None, began=None, /, **seconds):
    result = {"kind": kind, "at": at, "start": start, "seconds": seconds}
    if position is not None:
        result |= {"step": position[0], "epoch": position[1]}
    return result | ({} if began is None else {"began": began})


# Killed 8 s after its event of step 10, when step 6 was saved; stopped at step 12 by a signal.
KILLED_AND_STOPPED = [
    event("a", "start", 103, None, 100, start=3),
    event("a", "restored", 110, (0, 0), data=2, restore=1, compile=4),
    event("a", "progress", 130, (4, 0), compile=10, train=8, data_wait=2),
    event("a", "progress", 142, (10, 1), train=6, validation=3, data_wait=1.5, save_wait=1.5),
    event("b", "start", 153, None, 150, start=3),
    event("b", "restored", 156, (6, 1), restore=3),
    event("b", "progress", 176, (12, 1), train=12, compile=8),
    event("b", "stopped", 177, (12, 1), save_wait=1),
    event("c", "start", 182, None, 180, start=2),
    event("c", "restored", 184, (12, 1), restore=2),
    event("c", "progress", 194, (16, 2), train=9, validation=1),
    event("c", "ended", 197, (16, 2), test=3),
]


def test_a_run_that_was_killed_and_stopped():
    result = goodput(KILLED_AND_STOPPED)
    assert result.wall == pytest.approx(197 - 100)
    # Of the steps 5 to 10, the last four were done again: two thirds of what they took.
    lost = (6 + 1.5 + 1.5) * 2 / 3
    assert result.seconds == pytest.approx(
        {
            "train": 8 + 6 / 3 + 12 + 9,
            "lost": lost,
            "down": 8 + 3,
            "start": 3 + 3 + 2,
            "data": 2,
            "restore": 1 + 3 + 2,
            "compile": 4 + 10 + 8,
            "data_wait": 2 + 1.5 / 3,
            "save_wait": 1.5 / 3 + 1,
            "validation": 3 + 1,
            "test": 3,
            "lease_wait": 0,
            "hung": 0,
        }
    )
    assert result.productive == pytest.approx(31 / 97)
    assert (result.starts, result.kills, result.steps, result.lost_steps) == (3, 1, 16, 4)


def test_a_validation_is_lost_with_its_epoch():
    """Step 8 was saved before the validation that follows it."""
    result = goodput(
        [
            event("a", "start", 1, None, 0, start=1),
            event("a", "restored", 1, (0, 0)),
            event("a", "progress", 9, (8, 0), train=8),
            event("a", "progress", 12, (8, 1), validation=3),
            event("b", "start", 13, None, 12, start=1),
            event("b", "restored", 13, (8, 0)),
            event("b", "progress", 17, (8, 1), validation=4),
        ]
    )
    assert result.seconds["lost"] == 3
    assert result.seconds["validation"] == 4
    assert result.seconds["train"] == 8
    assert result.lost_steps == 0


def test_without_a_checkpoint_all_steps_are_lost():
    result = goodput(
        [
            event("a", "restored", 5, (0, 0), 0, restore=5),
            event("a", "progress", 9, (8, 0), train=4),
            event("b", "restored", 11, (0, 0), 10, restore=1),
            event("b", "progress", 12, (2, 0), train=1),
            event("c", "restored", 13, (0, 0), 12, restore=1),
        ]
    )
    assert result.seconds["lost"] == 5
    assert result.seconds["train"] == 0
    assert (result.lost_steps, result.kills) == (10, 2)


def test_a_hang_is_not_a_kill():
    """Its start continues for a while: with a save, and with what it uploads."""
    result = goodput(
        [
            event("a", "restored", 5, (0, 0), 0, restore=5),
            event("a", "progress", 9, (8, 0), train=4),
            event("a", "hung", 609, (8, 0), hung=600),
            event("a", "progress", 611, (8, 0), hung=2),
            event("b", "restored", 621, (8, 0), 620, restore=1),
            event("b", "ended", 622, (9, 0), train=1),
        ]
    )
    assert (result.hangs, result.kills, result.lost_steps) == (1, 0, 0)
    assert (result.seconds["hung"], result.seconds["train"], result.seconds["down"]) == (602, 5, 9)
    assert "0 of the starts ended without a word (killed, or the machine was lost), 1 hung" in (
        format_goodput(result, "run")
    )


@pytest.mark.parametrize("kind", ["stopped", "failed", "ended"])
def test_progress_after_the_end_of_a_start_is_not_a_kill(kind):
    """As while the last files are uploaded."""
    result = goodput(
        [
            event("a", "restored", 5, (0, 0), 0, restore=5),
            event("a", kind, 9, (8, 0), train=4),
            event("a", "progress", 11, (8, 0), save_wait=2),
            event("b", "restored", 21, (8, 0), 20, restore=1),
        ]
    )
    assert (result.kills, result.seconds["down"]) == (0, 0 if kind == "ended" else 9)


def test_rows_show_steps_that_no_event_has_recorded():
    """As after the loss of a machine: rows are in the bucket, the last events were not."""
    events = [
        event("a", "restored", 5, (0, 0), 0, restore=5),
        event("a", "progress", 9, (8, 0), train=4),
        event("b", "restored", 21, (6, 0), 20, restore=1) | {"reached": 13},
        event("b", "ended", 22, (16, 0), train=1),
    ]
    assert goodput(events).lost_steps == 7
    events[2]["reached"] = 7
    assert goodput(events).lost_steps == 2


def test_the_time_after_an_end_does_not_count():
    events = [
        event("a", "ended", 10, (4, 1), 0, train=10),
        event("b", "ended", 1015, (8, 2), 1000, train=15),
    ]
    result = goodput(events)
    assert (result.wall, result.seconds["down"], result.kills) == (25, 0, 0)


def test_the_clock_of_the_next_host_may_be_behind():
    events = [
        event("a", "progress", 110, (4, 0), 100, train=10),
        event("b", "restored", 106, (4, 0), 105, restore=1),
    ]
    assert goodput(events).wall == 11


def test_no_events():
    result = goodput([])
    assert (result.wall, result.productive) == (0, 0)
    assert "0 starts" in format_goodput(result, "run")


@st.composite
def histories(draw):
    """Events of starts that resume at earlier steps, and the wall-clock time that they span."""
    events, now, saved, wall = [], 0.0, 0, 0.0
    for number in range(draw(st.integers(1, 5))):
        gap = draw(st.floats(0, 100))
        began, step = now + gap, draw(st.integers(0, saved))
        now, saved = began + 1, step
        events.append(event(str(number), "restored", now, (step, 0), began, restore=1))
        for _ in range(draw(st.integers(0, 4))):
            seconds = draw(
                st.dictionaries(st.sampled_from(["train", "compile", "save_wait"]), st.floats(0, 9))
            )
            step += draw(st.integers(0, 5))
            now += sum(seconds.values())
            saved = draw(st.integers(saved, step))
            events.append(event(str(number), "progress", now, (step, 0), **seconds))
        wall = now - events[0]["began"]
    return events, wall


@given(histories())
def test_the_parts_add_up_to_the_wall_clock_time(history):
    events, wall = history
    result = goodput(events)
    assert result.wall == pytest.approx(wall, abs=1e-6)
    assert sum(result.seconds.values()) == pytest.approx(wall, abs=1e-6)
    assert min(result.seconds.values()) >= 0
    assert set(result.seconds) == set(MEANINGS)
    steps = [e["step"] - b["step"] for b, e in itertools.pairwise(events)]
    assert result.lost_steps == sum(-step for step in steps if step < 0)


def test_the_command_prints_a_table_or_json(tmp_path, capsys):
    lines = [json.dumps(each) for each in KILLED_AND_STOPPED]
    lines.insert(4, '{"kind": "prog')
    (tmp_path / "events.jsonl").write_text("\n".join(lines) + "\n")
    assert main(["goodput", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "97.0 s in 3 starts, 32.0% of it training" in text
    assert "\n4 of 16 steps were trained again" in text
    assert "1 line is not an event" in text
    assert main(["goodput", str(tmp_path), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["wall_seconds"] == 97
    assert values["unread_lines"] == 1
    assert sum(values["seconds"].values()) == pytest.approx(97)


def test_a_run_without_events_is_reported(tmp_path, capsys):
    assert main(["goodput", str(tmp_path)]) == 2
    assert "events.jsonl does not exist" in capsys.readouterr().err


FOREIGN = {
    "empty": b"",
    "random": random.Random(0).randbytes(5000),
    "zeros": bytes(5000),
    "one long line": b"x" * 3_000_000,
    "rows": b'{"split": "train", "step": 1, "epoch": 0, "loss": 1.0}\n' * 5,
    "an array": b'[{"kind": "start", "at": 1, "start": "a"}]',
    "another encoding": '{"kind": "start", "at": 1, "start": "a"}\n'.encode("utf-16"),
    "nested": b'{"kind": "a", "at": 1, "start": "a", "x":' + b"[" * 100_000 + b"\n",
    "other types": b'{"kind": "a", "at": "1", "start": 1, "seconds": null}\n',
    "other numbers": b'{"kind": "a", "at": NaN, "start": "a", "step": 1e400}\n',
}
DAMAGED = {
    "zeros before it": bytes(4096) + b"\n%s\n",
    "from another system": b"\xef\xbb\xbf%s\r\n",
    "times that go back": b'{"kind": "start", "at": 1e9, "start": "z"}\n%s\n',
    "unknown names": b'%s\n{"kind": "?", "at": 9, "start": "\\ud800", "seconds": {"gpu": 4}}\n',
    "only corrections": b'%s\n{"kind": "x", "at": 9, "start": "a", "seconds": {"train": -5}}\n',
    "cut off": b'%s\n{"kind": "prog',
}


@pytest.mark.parametrize("flags", [[], ["--json"]])
@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_file_that_is_not_a_record_of_events_is_named(tmp_path, capsys, content, flags):
    (tmp_path / "events.jsonl").write_bytes(content)
    assert main(["goodput", str(tmp_path), *flags]) == 2
    err = capsys.readouterr().err
    assert f"{tmp_path}/events.jsonl holds no events: " in err and err.count("\n") == 1


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_the_rest_of_a_damaged_record_is_reported(tmp_path, capsys, content):
    good = json.dumps(event("a", "progress", 5, (4, 0), 1, train=4)).encode()
    (tmp_path / "events.jsonl").write_bytes(content.replace(b"%s", good))
    assert main(["goodput", str(tmp_path)]) == 0
    assert "training" in capsys.readouterr().out
    assert main(["goodput", str(tmp_path), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["starts"] >= 1 and min(values["seconds"].values()) >= 0


def test_a_pipe_instead_of_the_file_does_not_block(tmp_path, capsys):
    os.mkfifo(tmp_path / "events.jsonl")
    assert main(["goodput", str(tmp_path)]) == 2
    assert "is not a file" in capsys.readouterr().err


def test_of_a_run_that_was_moved(tmp_path, capsys):
    lines = "".join(json.dumps(each) + "\n" for each in KILLED_AND_STOPPED)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "events.jsonl").write_text(lines)
    (tmp_path / "old").rename(tmp_path / "new")
    assert main(["goodput", str(tmp_path / "new")]) == 0
    assert main(["goodput", str(tmp_path / "old")]) == 2
    assert "old/events.jsonl does not exist" in capsys.readouterr().err


def test_of_a_run_in_a_bucket(capsys):
    with misbehaving_store() as running, running.activated() as url:
        lines = "".join(json.dumps(each) + "\n" for each in KILLED_AND_STOPPED)
        open_store(url).put("exp/events.jsonl", lines.encode())
        assert main(["goodput", f"{url}/exp/", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == goodput(KILLED_AND_STOPPED).to_json()
        assert main(["goodput", f"{url}/other"]) == 2
    assert f"{url}/other/events.jsonl does not exist" in capsys.readouterr().err
