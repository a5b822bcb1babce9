"""The protocol of a workdir in a bucket, killed or paused at every one of its requests."""

import contextlib
import itertools
import tempfile
import threading
import time
import zlib
from pathlib import Path

import pytest
from helpers.bucket_runs import (
    HISTORY,
    Killed,
    Templates,
    begin,
    play,
    tags_in,
    view_of,
)
from helpers.memory_store import Memory, MemoryStore
from hypothesis import given, settings
from hypothesis import strategies as st

from clac_jax.bucket import publishing
from clac_jax.bucket import uploader as uploader_lib
from clac_jax.bucket.owners import dead_holders
from clac_jax.checkpoint.remote import Remote, write_remote
from clac_jax.errors import LostWorkdirError
from clac_jax.stores.errors import UnavailableError


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    return Templates(tmp_path_factory.mktemp("templates"))


@pytest.fixture(autouse=True)
def in_order(monkeypatch):
    """One request at a time, so that each has a number; and no time spent on the disk."""
    monkeypatch.setattr(publishing, "THREADS", 1)
    monkeypatch.setattr(uploader_lib, "COPIED_BYTES", 0)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


class AtRequest:
    """A hook of `MemoryStore` that acts at the request of a number, counted from 0."""

    def __init__(self, number, action):
        self.number, self.action, self.count = number, action, 0

    def __call__(self, operation, name):
        self.count += 1
        if self.count == self.number + 1:
            self.action()


def kill():
    raise Killed


def number_of_requests(templates, folder):
    counter = AtRequest(-1, None)
    play(MemoryStore(Memory(), before=counter), folder, templates)
    return counter.count


def check_seen(seen, rows, finished):
    """Checks what a start sees after a kill, when `finished` moments were completely uploaded."""
    before = HISTORY[finished - 1] if finished else {}
    after = HISTORY[min(finished, len(HISTORY) - 1)]
    for step, tag in seen.items():
        assert tag in (before.get(step), after.get(step)), "neither an older nor a newer one"
    if seen.get(max(after)) == after[max(after)]:
        # Everything that was kept when the newest was saved.
        assert after.items() <= seen.items()
    else:
        assert before.keys() <= seen.keys()
    assert rows >= 10 * finished if seen else True


# As on S3, where equal contents have equal versions, and as on GCS.
VERSIONS = [False, pytest.param(True, marks=pytest.mark.slow)]


@pytest.mark.parametrize("counts_versions", VERSIONS)
def test_killed_between_any_two_requests(templates, tmp_path, counts_versions):
    total = number_of_requests(templates, tmp_path / "counted")
    reference = Memory()
    play(MemoryStore(reference), tmp_path / "reference", templates)
    for number in range(total):
        memory, finished = Memory(counts_versions), []
        store = MemoryStore(memory, before=AtRequest(number, kill))
        with pytest.raises(Killed):
            play(store, tmp_path / f"{number}", templates, done=finished.append)
        mirror = tmp_path / f"{number}-again"

        def look(mirror=mirror, finished=finished):
            metrics = mirror / "metrics.jsonl"
            rows = metrics.read_text().count("\n") if metrics.exists() else 0
            check_seen(tags_in(mirror), rows, len(finished))

        play(MemoryStore(memory), mirror, templates, started=look)
        assert view_of(memory) == view_of(reference), "left over, or missing"
        commits = [name for name in memory.objects if name.startswith("commits/")]
        assert len(commits) == 3, "two checkpoints and the rows"


OTHER = ({8: "e"}, {8: "e", 16: "f"}, {16: "f", 24: "g"})
"""The history of another run that saves equal steps."""


@pytest.mark.slow
@pytest.mark.parametrize("counts_versions", [False, True])
def test_paused_at_every_request(templates, tmp_path, counts_versions):
    """Its successor does all of its work while it sleeps; then it wakes up."""
    total = number_of_requests(templates, tmp_path / "counted")
    for number in range(3, total):  # the first three take the workdir
        memory = Memory(counts_versions)
        asleep, wake, ended = threading.Event(), threading.Event(), []

        def pause(asleep=asleep, wake=wake):
            asleep.set()
            assert wake.wait(60)

        def sleeper(memory=memory, number=number, pause=pause, ended=ended):
            try:
                store = MemoryStore(memory, before=AtRequest(number, pause))
                play(store, tmp_path / f"{number}", templates)
                ended.append(None)
            except LostWorkdirError as error:
                ended.append(error)

        thread = threading.Thread(target=sleeper)
        thread.start()
        assert asleep.wait(60)
        lease, uploader = begin(MemoryStore(memory), tmp_path / f"{number}-other")
        for steps in OTHER:
            templates.put(tmp_path / f"{number}-other", steps, rows=100)
            uploader.bring()
        uploader.bring(is_last=True, ended=True)
        lease.release()
        wake.set()
        thread.join(60)
        assert isinstance(ended[0], LostWorkdirError), "it believes that it still holds the workdir"
        assert "was taken by" in str(ended[0])
        begin(MemoryStore(memory), tmp_path / f"{number}-look")
        assert tags_in(tmp_path / f"{number}-look") == OTHER[-1]
        assert (tmp_path / f"{number}-look" / "metrics.jsonl").read_text().count("\n") == 100
        expected = {
            name
            for step, tag in OTHER[-1].items()
            for name in names_of(templates.checkpoint(step, tag), step)
        }
        assert set(view_of(memory)) == expected


def names_of(folder, step):
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {f"checkpoints/{step}/{path}" for path in files if path.name != "files.json"}


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    kills=st.lists(st.tuples(st.integers(0, 90), st.booleans(), st.booleans()), max_size=6),
    counts_versions=st.booleans(),
    late=st.integers(0, 40),
)
def test_killed_again_and_again(templates, kills, counts_versions, late):
    """Each time at any request, on the same disk or an empty one; listings lack the newest."""
    with tempfile.TemporaryDirectory() as folder:
        memory, disk = Memory(counts_versions, late), 0
        for number, is_done, keeps_disk in kills:
            disk += not keeps_disk
            hook = {"after" if is_done else "before": AtRequest(number, kill)}
            with contextlib.suppress(Killed):
                play(MemoryStore(memory, **hook), Path(folder, str(disk)), templates)
        memory.late = 0
        play(MemoryStore(memory), Path(folder, "last"), templates)
        reference = Memory()
        play(MemoryStore(reference), Path(folder, "reference"), templates)
        assert view_of(memory) == view_of(reference)
        begin(MemoryStore(memory), Path(folder, "look"))
        assert tags_in(Path(folder, "look")) == HISTORY[-1]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("length", [pytest.param(1, marks=pytest.mark.slow), 8])
def test_nothing_is_left_behind_by_outages(templates, tmp_path, when, length):
    """Requests fail, although some take place; the run continues, and ends without a restart.

    What was put for a save that is gone by then is deleted as well.
    """
    reference = Memory()
    play(MemoryStore(reference), tmp_path / "reference", templates)
    total = number_of_requests(templates, tmp_path / "counted")
    for number in range(4, total, 1 if length == 1 else 6):
        memory, mirror, requests = Memory(), tmp_path / f"{number}", itertools.count()

        def fail(operation, name, requests=requests, number=number):
            if number <= next(requests) < number + length:
                raise UnavailableError("The store is out of reach.")

        store = MemoryStore(memory)
        lease, uploader = begin(store, mirror)
        setattr(store, when, fail)
        for moment, steps in enumerate(HISTORY):
            templates.put(mirror, steps, rows=10 * (moment + 1))
            with contextlib.suppress(UnavailableError):
                uploader.bring()
        for _ in range(length + 1):
            with contextlib.suppress(UnavailableError):
                uploader.bring(is_last=True, ended=True)
        with contextlib.suppress(UnavailableError):  # the outage: the lease then runs out
            lease.release(finished=True)
        assert view_of(memory) == view_of(reference), f"left over, or missing, after {number}"
        commits = [name for name in memory.objects if name.startswith("commits/")]
        assert len(commits) == 3, "two checkpoints and the rows"


def test_the_last_one_in_the_bucket_stays_until_its_successor_is_there(templates, tmp_path):
    """The run saves the next one, and removes this one, while this one is uploaded."""
    mirror, memory = tmp_path / "mirror", Memory()

    def train(operation, name):
        if name == "checkpoints/8/files.json":
            templates.put(mirror, {16: "b"}, rows=20)

    store = MemoryStore(memory, after=train)
    _, uploader = begin(store, mirror)
    templates.put(mirror, {8: "a"}, rows=10)
    uploader.bring()
    begin(MemoryStore(memory), tmp_path / "look")
    assert tags_in(tmp_path / "look") == {8: "a"}


def test_parts_of_other_processes_for_a_save_that_was_skipped_are_deleted(templates, tmp_path):
    mirror, memory = tmp_path / "mirror", Memory()
    _, uploader = begin(MemoryStore(memory), mirror)
    part = "state/ocdbt.process_1/d/" + "5" * 32
    templates.put(mirror, {16: "b"}, rows=20)
    own = next((mirror / "checkpoints" / "16" / "state" / "d").iterdir()).name
    names = [f"checkpoints/{step}/{part}" for step in (8, 16, 24)]
    for name in names:
        memory.write(name, b"part")
    uploader.loose.add([*names, f"checkpoints/16/state/d/{own}"])
    uploader.bring()
    there = set(memory.objects)
    assert [name in there for name in names] == [False, True, True], "24 may be in progress"
    templates.put(mirror, {16: "b", 32: "e"}, rows=30)
    uploader.bring()
    assert not memory.objects.keys() & set(names), "of an earlier save of step 16"
    begin(MemoryStore(memory), tmp_path / "look")
    assert tags_in(tmp_path / "look") == {16: "b", 32: "e"}


def test_files_that_another_process_has_put_are_part_of_the_checkpoint(templates, tmp_path):
    """It must have put all of them."""
    mirror, memory = tmp_path / "mirror", Memory()
    _, uploader = begin(MemoryStore(memory), mirror)
    templates.put(mirror, {8: "a"}, rows=10)
    folder = mirror / "checkpoints" / "8"
    data = next((folder / "state" / "d").iterdir())
    name, content = f"state/d/{data.name}", data.read_bytes()
    data.unlink()
    url = "s3://bucket/checkpoints/8"
    write_remote(folder, Remote(url, {name: (len(content), zlib.crc32(content))}))
    uploader.bring()
    assert "checkpoints/8/files.json" not in memory.objects
    memory.write(f"checkpoints/8/{name}", content)
    _, uploader = begin(MemoryStore(memory), mirror, dead_holders(mirror))
    memory.write(f"checkpoints/8/{name}", content)
    uploader.bring()
    begin(MemoryStore(memory), tmp_path / "look")
    assert tags_in(tmp_path / "look") == {8: "a"}


def test_a_start_without_a_checkpoint_leaves_its_events(tmp_path, monkeypatch):
    """Its machine is lost before the first one; nothing else of the run is put for them."""
    monkeypatch.setattr("clac_jax.bucket.uploader.FIRST_EVENTS", 0.01)
    mirror, memory = tmp_path / "mirror", Memory()
    _, uploader = begin(MemoryStore(memory), mirror)
    before = uploader._lease.ledger.changes
    (mirror / "metrics.jsonl").write_text("row\n")
    events = mirror / "events.jsonl"
    events.write_text("start\n")
    uploader.start()
    for text in ("start\n", "start\nprogress\n"):
        events.write_text(text)
        deadline = time.monotonic() + 20
        while memory.objects.get("events.jsonl", (b"",))[0] != text.encode():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    uploader.stop()
    assert set(memory.objects) == {"run.ledger.json", "events.jsonl"}
    assert uploader._lease.ledger.changes == before + 1, (
        "only so that the next start fetches the file"
    )
    begin(MemoryStore(memory), tmp_path / "other")
    assert (tmp_path / "other" / "events.jsonl").read_text() == "start\nprogress\n"


def test_a_file_that_is_damaged_on_the_disk_is_not_uploaded(templates, tmp_path, capsys):
    mirror, memory = tmp_path / "mirror", Memory()
    _, uploader = begin(MemoryStore(memory), mirror)
    templates.put(mirror, {8: "a"}, rows=10)
    uploader.bring()
    templates.put(mirror, {16: "b"}, rows=20)
    data = next((mirror / "checkpoints" / "16" / "state" / "d").iterdir())
    content = data.read_bytes()
    data.unlink()
    data.write_bytes(b"X" + content[1:])
    uploader.bring()
    uploader.bring()
    assert capsys.readouterr().err.count("Step 16 is not uploaded") == 1
    begin(MemoryStore(memory), tmp_path / "look")
    assert tags_in(tmp_path / "look") == {8: "a"}, "the last good one stays"


def test_a_file_that_another_checkpoint_has_is_copied_in_the_bucket(templates, tmp_path):
    """Unless somebody has removed it there: then it is sent again."""
    for lost in (False, True):
        memory, requests = Memory(), []
        mirror = tmp_path / f"mirror{lost}"
        store = MemoryStore(memory, before=lambda *request, to=requests: to.append(request))
        _, uploader = begin(store, mirror)
        templates.put(mirror, {8: "b"}, rows=10)
        uploader.bring()
        name = next(each for each in memory.objects if "5ba6ed" in each)
        content = memory.objects[name][0]
        if lost:
            del memory.objects[name]
        templates.put(mirror, {8: "b", 16: "c"}, rows=20)
        uploader.bring()
        target = name.replace("/8/", "/16/")
        assert memory.objects[target][0] == content
        assert ("copy", target) in requests and (("put", target) in requests) == lost
