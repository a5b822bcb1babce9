"""Whatever a store does wrong, what `Store` reports is true."""

import random
import threading
import zlib

import pytest
from helpers.misbehaving_store import FAULTS, QUICK_FAULTS
from helpers.object_stores import misbehaving_store, quick_retries
from hypothesis import given, settings
from hypothesis import strategies as st

from clac_jax.stores.errors import ConflictError, UnavailableError
from clac_jax.stores.store import StoreOptions, open_store

OPTIONS = StoreOptions(patience_seconds=20, part_bytes=1000, concurrency=3, request_seconds=5)
ACTIONS = ("put", "put if absent", "put if version", "put if old version")


@pytest.fixture(scope="module")
def server():
    with misbehaving_store() as running, running.activated(), quick_retries():
        yield running


@pytest.fixture
def folder(server, request):
    """A URL; the store behaves well again after the test."""
    yield f"{server.url}/{request.node.name.partition('[')[0]}"
    server.control(faults={}, outage=False, expired=False, listing_lag_requests=0)


def numbered():
    """Bytes that no other put has, of a size of one to several parts."""
    numbered.count += 1
    return b"%d " % numbered.count * (numbered.count % 7 * 60 + 1)


numbered.count = 0


class Model:
    """The objects as they must be, if each report of the store is true."""

    def __init__(self, store):
        self.store = store
        self.bytes, self.version, self.old_version = {}, {}, {}

    def carry_out(self, action, name):
        """One action, checked: it takes place or is refused by the state so far."""
        content = numbered()
        conditions, must_succeed = self.conditions_of(action, name)
        try:
            version = self.store.put(name, content, **conditions)
        except ConflictError:
            assert not must_succeed, f"{action} of {name} did not take place"
            return
        assert must_succeed, f"{action} of {name} was not refused"
        self.old_version[name] = self.version.get(name)
        self.bytes[name], self.version[name] = content, version
        assert self.store.get(name).data == content

    def conditions_of(self, action, name):
        if action == "put if absent":
            return {"if_absent": True}, name not in self.bytes
        if action == "put if version" and name in self.version:
            return {"if_version": self.version[name]}, True
        if action == "put if old version" and self.old_version.get(name):
            return {"if_version": self.old_version[name]}, False
        return {}, True

    def check(self):
        for name, content in self.bytes.items():
            stored = self.store.get(name)
            assert stored.data == content
            assert stored.version == self.version[name]
            assert self.store.head(name).version == self.version[name]


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    faults=st.dictionaries(st.sampled_from(QUICK_FAULTS), st.floats(0, 0.4), max_size=4),
    actions=st.lists(
        st.tuples(st.sampled_from(ACTIONS), st.sampled_from("ab")), min_size=3, max_size=12
    ),
)
def test_reports_agree_with_the_objects_that_are_stored(server, seed, faults, actions):
    server.control(faults={})
    store = open_store(f"{server.url}/reported/{numbered()[:10].decode().strip()}", OPTIONS)
    server.control(faults=faults, seed=seed)
    model = Model(store)
    for action, name in actions:
        model.carry_out(action, name)
    model.check()
    server.control(faults={})
    for _ in range(5):  # until delayed requests have been carried out
        store.head("a")
    model.check()


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_survived(server, folder, tmp_path, fault):
    options = StoreOptions(patience_seconds=20, part_bytes=1000, request_seconds=0.15)
    store = open_store(f"{folder}/{fault}", options)
    few = 6 if fault == "late_answer" else 20
    before = server.control()["faults"].get(fault, 0)
    server.control(faults={fault: 0.4}, seed=zlib.crc32(fault.encode()), late_seconds=0.2)
    model = Model(store)
    for number in range(few):
        model.carry_out(ACTIONS[number % 4], f"object {number // 4 % 3}")
    model.check()
    for name, content in model.bytes.items():
        assert store.download(name, tmp_path / "file") == zlib.crc32(content)
    assert server.control()["faults"][fault] > before


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "faults",
    [
        {"reset": 0.1, "unavailable": 0.1, "torn_upload": 0.1, "torn_download": 0.1},
        {"lost_answer": 0.2, "false_conflict": 0.1, "delayed_write": 0.1},
    ],
    ids=["nothing took place", "it may have taken place"],
)
def test_of_racing_writers_one_wins_per_version(server, folder, faults, seed):
    name = f"{len(faults)}-{seed}"
    store = open_store(folder, OPTIONS)
    store.put(name, b"start")
    server.control(faults=faults, seed=seed)
    won, lost = [], []

    def write(number):
        for attempt in range(6):
            content = b"writer %d, attempt %d" % (number, attempt)
            try:
                store.put(name, content, if_version=store.get(name).version)
                won.append(content)
            except ConflictError:
                lost.append(content)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.control(faults={})
    for _ in range(5):
        store.head(name)
    path = f"{folder.removeprefix('s3://')}/{name}"
    _, *written = server.control()["writes"][path]
    assert len(won) + len(lost) == 24
    assert len(set(written)) == len(written), "nothing is written twice"
    assert {content.decode() for content in won} <= set(written)
    replaced = set(written) - {content.decode() for content in won}
    if "lost_answer" not in faults:
        assert not replaced, "what was refused was not written"
    # Written, not known to be by its writer, and replaced by another before it could look.
    assert replaced <= {content.decode() for content in lost}
    assert store.get(name).data.decode() == written[-1]
    assert written[-1] not in replaced


def test_late_listings_do_not_disturb_reads(server, folder):
    store = open_store(folder, OPTIONS)
    store.put("early", b"1")
    for _ in range(10):
        store.head("early")
    server.control(listing_lag_requests=8)
    store.put("late", b"2")
    store.delete("early")
    assert [item.name for item in store.list()] == ["early"], "the helper does what it should"
    assert store.get("late").data == b"2"
    assert store.head("early") is None
    for _ in range(10):
        store.head("late")
    assert [item.name for item in store.list()] == ["late"]


def test_an_outage_shorter_than_patience_is_waited_out(server, folder):
    store = open_store(folder, OPTIONS)
    server.control(outage=True)
    threading.Timer(0.3, lambda: server.control(outage=False)).start()
    store.put("x", b"1", if_absent=True)
    assert store.get("x").data == b"1"
    assert store.counts.retries > 3


def test_an_outage_longer_than_patience_is_reported(server, folder):
    store = open_store(folder, StoreOptions(patience_seconds=0.2))
    server.control(outage=True)
    for request in (lambda: store.get("x"), lambda: store.put("x", b"1", if_absent=True)):
        with pytest.raises(UnavailableError, match="has not been available"):
            request()


def test_a_download_is_of_one_version(server, folder, tmp_path):
    store = open_store(folder, OPTIONS)
    contents = [bytes([letter]) * 5000 for letter in b"abcdefgh"]
    store.put("x", contents[0])
    stop = threading.Event()

    def rewrite():
        numbers = random.Random(1)
        while not stop.wait(0.004):
            store.put("x", numbers.choice(contents))

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        for _ in range(20):
            try:
                store.download("x", tmp_path / "x")
            except ConflictError as error:
                assert "was written while it was read" in str(error)
            else:
                assert (tmp_path / "x").read_bytes() in contents
    finally:
        stop.set()
        writer.join()
