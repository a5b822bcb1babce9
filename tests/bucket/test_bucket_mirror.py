"""The local folder of a run in a bucket, and what a start finds in the bucket."""

import contextlib
import itertools
import json
import shutil
import zlib

import pytest
from etils import epath
from helpers.bucket_runs import Killed, Templates, begin, play, tags_in
from helpers.memory_store import Memory, MemoryStore

from clac_jax.bucket.lease import acquire
from clac_jax.bucket.ledger import LEDGER
from clac_jax.bucket.mirror import mirror_folder
from clac_jax.bucket.owners import dead_holders
from clac_jax.checkpoint.files import DamagedCheckpointError, check_files, write_manifest
from clac_jax.checkpoint.layout import step_folders
from clac_jax.checkpoint.remote import Remote, write_remote
from clac_jax.errors import LostWorkdirError
from clac_jax.stores.errors import UnavailableError

TWO = ({8: "a"}, {8: "a", 16: "b"})


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    return Templates(tmp_path_factory.mktemp("templates"))


@pytest.fixture
def bucket(templates, tmp_path):
    """The bucket of a run that has ended with the checkpoints 8 and 16."""
    memory = Memory()
    play(MemoryStore(memory), tmp_path / "first", templates, TWO)
    return memory


def ledger_of(memory):
    return json.loads(memory.objects[LEDGER][0])


def cut_off(operation, name):
    if operation == "put" and name != LEDGER:
        raise UnavailableError("The store is out of reach.")


def test_a_save_that_was_not_uploaded_is_kept_on_the_same_disk(bucket, templates, tmp_path):
    mirror = tmp_path / "first"
    lease, _ = begin(MemoryStore(bucket), mirror)
    templates.put(mirror, {16: "b", 24: "c"}, rows=30)
    assert dead_holders(mirror) == [lease.ledger.nonce], "known to be dead once its lock is free"
    _, uploader = begin(MemoryStore(bucket), mirror, dead_holders(mirror))
    assert tags_in(mirror) == {8: "a", 16: "b", 24: "c"}, "of the removal, nothing is known"
    uploader.bring()
    assert set(ledger_of(bucket)["checkpoints"]) == {"8", "16", "24"}


@pytest.mark.parametrize("lacks", [{8}, {8, 16}])
def test_a_checkpoint_deleted_from_the_mirror_to_free_space_stays_in_the_bucket(
    bucket, templates, tmp_path, lacks
):
    """Here 24 was uploaded as well; the rules of the run say what may be removed."""
    mirror, three = tmp_path / "first", {8: "a", 16: "b", 24: "c"}
    _, uploader = begin(MemoryStore(bucket), mirror)
    templates.put(mirror, three, rows=30)
    uploader.bring()
    for step in lacks:
        shutil.rmtree(mirror / "checkpoints" / str(step))
    _, uploader = begin(MemoryStore(bucket), mirror, dead_holders(mirror))
    uploader.bring()
    assert tags_in(mirror) == three
    assert set(ledger_of(bucket)["checkpoints"]) == {"8", "16", "24"}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("releases", [True, False])
def test_a_start_that_ends_early_leaves_the_disk_as_it_was(
    bucket, templates, tmp_path, when, releases
):
    """It is killed before or after each of its requests; or fails there, and lets go."""
    mirror = tmp_path / "first"
    begin(MemoryStore(bucket), mirror)
    templates.put(mirror, {16: "b", 24: "c"}, rows=30)
    for number in itertools.count():
        requests = itertools.count()

        def end_early(operation, name, requests=requests, number=number):
            if next(requests) == number:
                raise Killed

        with contextlib.suppress(Killed):
            begin(MemoryStore(bucket, **{when: end_early}), mirror, dead_holders(mirror))
        if releases and ledger_of(bucket)["nonce"]:
            bucket.write(LEDGER, json.dumps({**ledger_of(bucket), "nonce": ""}).encode())
        if next(requests) <= number:  # it came to its end
            break
    assert number > 5
    _, uploader = begin(MemoryStore(bucket), mirror, dead_holders(mirror))
    assert tags_in(mirror) == {8: "a", 16: "b", 24: "c"}, "of the removal, nothing is known"
    uploader.bring()
    assert set(ledger_of(bucket)["checkpoints"]) == {"8", "16", "24"}


def test_a_part_that_only_the_bucket_has_is_kept_for_its_checkpoint(bucket, templates, tmp_path):
    """The first process was killed between its own commit and that in the bucket."""
    mirror, name = tmp_path / "first", f"state/ocdbt.process_1/d/{'5' * 32}"
    begin(MemoryStore(bucket), mirror)
    templates.put(mirror, {16: "b", 24: "c"}, rows=30)
    folder, values = mirror / "checkpoints" / "24", b"values of process 1"
    facts = len(values), zlib.crc32(values)
    bucket.write(f"checkpoints/24/{name}", values)
    bucket.write("checkpoints/32/state/left", b"of an unmerged save")
    write_remote(folder, Remote("s3://bucket/exp/checkpoints/24", {name: facts}))
    (folder / "files.json").unlink()  # a hard link
    write_manifest(epath.Path(folder), {name: list(facts)})
    _, uploader = begin(MemoryStore(bucket), mirror, dead_holders(mirror))
    uploader.bring()
    assert set(ledger_of(bucket)["checkpoints"]) == {"8", "16", "24"}
    assert f"checkpoints/24/{name}" in bucket.objects
    assert "checkpoints/32/state/left" not in bucket.objects


def test_a_disk_of_earlier_days_does_not_count(bucket, templates, tmp_path):
    """Another machine has continued the run in between."""
    old = tmp_path / "first"
    begin(MemoryStore(bucket), old)
    templates.put(old, {16: "x", 99: "y"}, rows=99)
    _, uploader = begin(MemoryStore(bucket), tmp_path / "elsewhere")
    templates.put(tmp_path / "elsewhere", {16: "b", 24: "c"}, rows=30)
    uploader.bring()
    begin(MemoryStore(bucket), old)
    assert tags_in(old) == {16: "b", 24: "c"}
    assert (old / "metrics.jsonl").read_text().count("\n") == 30


def test_a_start_that_was_killed_while_it_filled_the_disk_is_not_trusted(
    bucket, templates, tmp_path
):
    old = tmp_path / "first"
    templates.put(old, {99: "y"}, rows=99)
    acquire(MemoryStore(bucket), 60).release()  # by another machine, in between

    def kill(operation, name):
        raise KeyboardInterrupt

    store = MemoryStore(bucket)
    store.before = lambda operation, name: operation == "get" and ".zip" in name and kill(0, 0)
    with pytest.raises(KeyboardInterrupt):
        begin(store, old)
    assert dead_holders(old) == [ledger_of(bucket)["nonce"]], "its lease needs no waiting"
    begin(MemoryStore(bucket), old)
    assert tags_in(old) == TWO[-1]


def test_intact_files_on_the_disk_are_not_downloaded_again(bucket, tmp_path):
    read = []
    store = MemoryStore(bucket, before=lambda operation, name: read.append((operation, name)))
    (flipped,) = (tmp_path / "first" / "checkpoints" / "8" / "state" / "d").iterdir()
    content = flipped.read_bytes()
    flipped.unlink()  # a hard link
    flipped.write_bytes(b"X" + content[1:])
    begin(store, tmp_path / "first")
    data = [name for operation, name in read if operation == "get" and "/d/" in name]
    assert data == [f"state/d/{flipped.name}"]
    assert tags_in(tmp_path / "first") == TWO[-1]


@pytest.mark.parametrize("damage", ["lost", "flipped"])
def test_a_damaged_checkpoint_is_found_by_reading_it(bucket, tmp_path, damage):
    name = next(each for each in bucket.objects if each.startswith("checkpoints/16/state/d/"))
    if damage == "lost":
        del bucket.objects[name]
    else:
        bucket.write(name, b"X" + bucket.objects[name][0][1:])
    mirror = tmp_path / "second"
    _, uploader = begin(MemoryStore(bucket), mirror)
    place = epath.Path(mirror / "checkpoints")
    check_files(place / "8", every_byte=True)
    with pytest.raises(DamagedCheckpointError, match="state/d/"):
        check_files(place / "16", every_byte=True)
    # The run sets it aside, and continues from the older one.
    (mirror / "checkpoints" / "damaged").mkdir()
    (mirror / "checkpoints" / "16").rename(mirror / "checkpoints" / "damaged" / "16")
    uploader.bring()
    assert set(ledger_of(bucket)["checkpoints"]) == {"8"}
    assert set(ledger_of(bucket)["damaged"]) == {"16"}
    begin(MemoryStore(bucket), tmp_path / "third")
    assert list(step_folders(epath.Path(tmp_path / "third" / "checkpoints"))) == [8]
    assert (tmp_path / "third" / "checkpoints" / "damaged" / "16").is_dir()
    assert any(name.startswith("checkpoints/16/") for name in bucket.objects), "left to look at"


def test_a_lost_commit_is_named_and_set_aside(bucket, tmp_path):
    del bucket.objects[ledger_of(bucket)["commits"]["16"]]
    said = []
    begin(MemoryStore(bucket), tmp_path / "second", say=said.append)
    assert len(said) == 1 and "Checkpoint 16 of s3://bucket" in said[0]
    assert tags_in(tmp_path / "second") == {8: "a"}
    assert set(ledger_of(bucket)["damaged"]) == {"16"}


def test_without_its_ledger_a_workdir_keeps_its_checkpoints(bucket, tmp_path):
    """The messages about a damaged ledger say so; also if the next start is killed immediately."""
    del bucket.objects[LEDGER]

    def kill(operation, name):
        if name != LEDGER:
            raise Killed

    with pytest.raises(Killed):
        begin(MemoryStore(bucket, before=kill), tmp_path / "second")
    for place in ("third", "fourth"):
        begin(MemoryStore(bucket), tmp_path / place)
        assert tags_in(tmp_path / place) == TWO[-1]
        assert (tmp_path / place / "metrics.jsonl").read_text().count("\n") == 20


def test_a_workdir_that_was_copied_from_a_disk(templates, tmp_path):
    templates.put(tmp_path / "copied", {8: "a", 16: "b"}, rows=20)
    memory = Memory()
    for path in (tmp_path / "copied").rglob("*"):
        if path.is_file():
            memory.write(path.relative_to(tmp_path / "copied").as_posix(), path.read_bytes())
    del memory.objects["checkpoints/16/run/metadata"]  # is still being copied
    _, uploader = begin(MemoryStore(memory), tmp_path / "mirror")
    assert tags_in(tmp_path / "mirror") == {8: "a"}
    assert (tmp_path / "mirror" / "metrics.jsonl").read_text().count("\n") == 20
    assert "checkpoints/16/state/manifest.ocdbt" in memory.objects
    manifest = json.loads(memory.objects["checkpoints/8/files.json"][0])
    assert manifest["fence"] == 1
    uploader.bring()
    _, uploader = begin(MemoryStore(memory), tmp_path / "again")
    assert tags_in(tmp_path / "again") == {8: "a"}
    assert "checkpoints/16/state/manifest.ocdbt" in memory.objects, "still being copied"


def test_a_cleaned_disk_removes_nothing_from_the_bucket(bucket, templates, tmp_path):
    mirror = tmp_path / "second"
    _, uploader = begin(MemoryStore(bucket), mirror)
    templates.put(mirror, {}, rows=20)
    uploader.bring()
    templates.put(mirror, {8: "a"}, rows=20)
    uploader.bring()
    assert set(ledger_of(bucket)["checkpoints"]) == {"8", "16"}
    uploader.bring(is_last=True, ended=True)
    assert set(ledger_of(bucket)["checkpoints"]) == {"8"}


def test_a_lost_workdir_is_reported_and_nothing_more_is_written(bucket, templates, tmp_path):
    _, uploader = begin(MemoryStore(bucket), tmp_path / "second")
    begin(MemoryStore(bucket), tmp_path / "third")
    before = dict(bucket.objects)
    templates.put(tmp_path / "second", {16: "b", 24: "c"}, rows=30)
    with pytest.raises(LostWorkdirError):
        uploader.flush(0)
    with pytest.raises(LostWorkdirError):
        uploader.check()
    assert bucket.objects[LEDGER] == before[LEDGER]


def test_names_of_mirrors(monkeypatch, tmp_path):
    monkeypatch.setenv("CLAC_JAX_CACHE", str(tmp_path))
    one, other = mirror_folder("s3://b/exp", ""), mirror_folder("s3://c/exp", "")
    assert one != other and one.parent == other.parent == tmp_path / "runs"
    assert mirror_folder("s3://b/exp", str(tmp_path / "x")).parent == tmp_path / "x"


def test_late_writes_under_names_that_are_used_again_do_no_harm(bucket, tmp_path):
    bucket.write("metrics.jsonl", b"rows of another run\n")
    bucket.write("checkpoints/16/run/metadata", b"{}")
    del bucket.objects["checkpoints/8/files.json"]
    begin(MemoryStore(bucket), tmp_path / "second")
    assert tags_in(tmp_path / "second") == TWO[-1]
    assert (tmp_path / "second" / "metrics.jsonl").read_text().startswith("row 0\n")
    assert b'"tag": "b"' in bucket.objects["checkpoints/16/run/metadata"][0], "put right"
    assert "checkpoints/8/files.json" in bucket.objects
