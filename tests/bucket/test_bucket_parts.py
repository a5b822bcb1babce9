"""Parts of a sharded state that get to the first process through a bucket."""

import functools
import json
import os

import pytest
from etils import epath
from helpers.divided_states import arrays_at, open_checkpoints
from helpers.memory_store import Memory, MemoryStore
from helpers.states import assert_same

from clac_jax.bucket.parts import BucketExchange
from clac_jax.checkpoint import remote
from clac_jax.checkpoint.arrays import read_arrays
from clac_jax.checkpoint.background import CheckpointError
from clac_jax.checkpoint.damage import DamagedCheckpointError
from clac_jax.checkpoint.layout import read_info
from clac_jax.stores.errors import UnavailableError
from clac_jax.training.progress import RunProgress


def save_through(memory, folder, step=1, seen=None, **options):
    """Saves in two processes without a common disk; returns their checkpoints."""
    everyone = []
    for index in (0, 1):
        checkpoints = open_checkpoints(folder / f"host{index}", index, 2, **options)
        report = {} if seen is None or index else {"seen": seen.extend}
        checkpoints.share_saves("run", BucketExchange(MemoryStore(memory), 5.0, **report))
        everyone.append(checkpoints)
    for checkpoints in reversed(everyone):
        checkpoints.save(arrays_at(step), RunProgress(step=step), None)
    return everyone


@pytest.mark.parametrize("limit", [0, 1 << 20])
def test_the_first_process_commits_what_others_have_put(tmp_path, monkeypatch, limit):
    """With small values, which it downloads, and with large ones, which stay in the bucket."""
    monkeypatch.setattr(
        "clac_jax.bucket.parts.is_large", lambda name, size: "/shards/" in name and size > limit
    )
    memory, seen = Memory(), []
    first, other = save_through(memory, tmp_path, seen=seen)
    other.close()
    first.close()
    assert os.listdir(tmp_path / "host1" / "checkpoints") == [], "nothing is left on its disk"
    names = sorted(memory.objects)
    assert sorted(seen) == names, "so that they can be deleted if the save is never committed"
    assert names and all(name.startswith("checkpoints/1/state/ocdbt.process_1/") for name in names)
    folder = tmp_path / "host0" / "checkpoints" / "1"
    info = read_info(epath.Path(folder))
    own, others = (
        {p.name for p in (folder / "state" / f"ocdbt.process_{k}").iterdir()} for k in (0, 1)
    )
    assert own == {"nodes", "manifest.ocdbt", "shards"}
    assert others == (own if limit else own - {"shards"})
    elsewhere = remote.read_remote(folder)
    assert (elsewhere is None) == bool(limit)
    store = functools.partial(MemoryStore, memory, "checkpoints/1/")
    monkeypatch.setattr(remote, "open_store", lambda url, options: store())
    assert_same(read_arrays(info, arrays_at(1)), arrays_at(1))


def test_an_outage_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("clac_jax.bucket.parts.PAUSE", 0.01)
    memory, refusals = Memory(), iter(range(4))

    def refuse(*_):
        if next(refusals, None) is not None:
            raise UnavailableError("the store does not answer")

    first, other = (open_checkpoints(tmp_path / str(k), k, 2) for k in (0, 1))
    for checkpoints in (other, first):
        exchange = BucketExchange(MemoryStore(memory, before=refuse), 5.0)
        checkpoints.share_saves("run", exchange)
        checkpoints.save(arrays_at(3), RunProgress(step=3), None)
    other.close()
    first.close()
    assert read_info(epath.Path(tmp_path / "0" / "checkpoints" / "3")).step == 3


def test_a_process_without_the_store_stops_the_save(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("clac_jax.bucket.parts.PAUSE", 0.01)

    def refuse(*_):
        raise UnavailableError("the store does not answer")

    other = open_checkpoints(tmp_path, 1, 2, retries=0, on_failure="continue")
    other.share_saves("run", BucketExchange(MemoryStore(Memory(), before=refuse), 0.02))
    other.save(arrays_at(1), RunProgress(step=1), None)
    with pytest.raises(Exception, match="this process's part of step 1: the store does not answer"):
        other.wait()


def test_a_damaged_part_is_not_merged(tmp_path):
    memory = Memory()

    def damage(operation, name):
        if operation == "put" and "/nodes/" in name:
            data, generation = memory.objects[name]
            memory.objects[name] = (bytes([data[0] ^ 1]) + data[1:], generation)

    first, other = (open_checkpoints(tmp_path / str(k), k, 2, retries=0) for k in (0, 1))
    other.share_saves("run", BucketExchange(MemoryStore(memory, after=damage), 5.0))
    first.share_saves("run", BucketExchange(MemoryStore(memory), 5.0))
    for checkpoints in (other, first):
        checkpoints.save(arrays_at(1), RunProgress(step=1), None)
    other.close()
    with pytest.raises(CheckpointError, match="is not what was written"):
        first.close()
    assert os.listdir(tmp_path / "0" / "checkpoints") == []


@pytest.mark.parametrize(
    "note",
    [
        {"files": {"../../evil": [1, 0]}, "shards": {}},
        {"files": {}, "small": {"../../evil": "00"}, "shards": {}},
        {"files": {"nodes": [2, 0]}, "small": {"nodes": "00"}, "shards": {}},
    ],
    ids=["listed outside", "not listed", "another content"],
)
def test_a_note_writes_no_other_files_than_it_lists(tmp_path, note):
    memory, folder = Memory(), tmp_path / "checkpoints" / "1.parts-run"
    exchange = BucketExchange(MemoryStore(memory), 5.0)
    exchange.publish(folder, 1, {"files": {}, "shards": {}})
    (name,) = memory.objects
    memory.write(name, json.dumps(note).encode())
    with pytest.raises(DamagedCheckpointError):
        exchange.read(folder, 1)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
