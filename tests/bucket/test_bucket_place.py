"""The start and the end of a run in a bucket, as the program makes them."""

import contextlib
import itertools
import json
import threading

import ml_collections
import pytest
from helpers.bucket_runs import Killed, Templates, begin, play, tags_in
from helpers.memory_store import Memory, MemoryStore

from clac_jax.bucket import lease, workdir
from clac_jax.bucket.ledger import LEDGER
from clac_jax.bucket.workdir import BucketPlace
from clac_jax.stores.errors import UnavailableError

TWO = ({8: "a"}, {8: "a", 16: "b"})


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    return Templates(tmp_path_factory.mktemp("templates"))


@pytest.fixture
def place_on(tmp_path, monkeypatch):
    """(store, folder) -> a workdir in that store, with its mirror in the folder."""
    monkeypatch.setattr(workdir, "check_conditions", lambda store: None)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)

    def build(store, folder="scratch"):
        monkeypatch.setattr(workdir, "open_store", lambda url, options: store)
        options = {
            "scratch": str(tmp_path / folder),
            "lease_seconds": 60.0,
            "patience_minutes": 0.01,
            "max_mb_per_second": 0.0,
        }
        return BucketPlace("s3://bucket/", ml_collections.ConfigDict(options))

    return build


@pytest.mark.parametrize("is_supervised", [True, False])
def test_at_a_start_only_a_supervised_run_waits_for_a_bucket_out_of_reach(
    templates, tmp_path, place_on, monkeypatch, is_supervised
):
    memory, requests = Memory(), itertools.count()
    play(MemoryStore(memory), tmp_path / "before", templates, TWO)

    def fail(operation, name):
        if next(requests) < 3:
            raise UnavailableError("no answer")

    monkeypatch.setattr(workdir, "pipe_to_supervisor", lambda: 7 if is_supervised else None)
    monkeypatch.setattr(workdir, "RETRY_SECONDS", 0.01)
    place = place_on(MemoryStore(memory, before=fail))
    if is_supervised:
        with place as mirror:
            assert set(tags_in(mirror)) == {8, 16}
    else:
        with pytest.raises(UnavailableError), place:
            pass


def ledger_of(memory):
    return json.loads(memory.objects[LEDGER][0])


def test_asked_to_stop_at_any_request_of_the_start_it_releases_the_workdir(
    templates, tmp_path, place_on, monkeypatch
):
    """The thread that listens for signals ends the program while the main thread starts."""

    def end():  # instead of waiting for it
        raise Killed

    monkeypatch.setattr(lease, "wait_for_the_end", end)
    monkeypatch.setattr("clac_jax.bucket.leaving.wait_for_the_end", end)
    for number in itertools.count():
        memory = Memory()
        play(MemoryStore(memory), tmp_path / f"before{number}", templates, TWO)
        requests, asked = itertools.count(), threading.Event()
        place = place_on(MemoryStore(memory), f"scratch{number}")
        leaving = threading.Thread(target=place.complete)

        def leave(operation, name, requests=requests, asked=asked, leaving=leaving, number=number):
            if next(requests) == number:
                leaving.start()
                asked.set()
                leaving.join(0.02)  # it may have to wait for this very request

        place._store.before = leave

        def enter(place=place):
            with contextlib.suppress(Killed):
                place.__enter__()

        main = threading.Thread(target=enter)
        main.start()
        while main.is_alive() and not asked.wait(0.01):
            pass
        if not asked.wait(0.2):
            place.__exit__(None, None, None)
            break
        leaving.join(20)
        main.join(20)
        assert not leaving.is_alive() and not main.is_alive()
        place._local.__exit__()
        assert ledger_of(memory)["nonce"] == "", f"held after request {number}"
        begin(MemoryStore(memory), tmp_path / f"after{number}")
        assert tags_in(tmp_path / f"after{number}") == TWO[-1]
    assert number > 10
