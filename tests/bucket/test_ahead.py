"""Work that only the mirror has, when somebody has changed the bucket: it is not thrown away."""

import contextlib
import itertools
import json

import pytest
from helpers.bucket_runs import Killed, Templates, begin, play, tags_in
from helpers.memory_store import Memory, MemoryStore

from clac_jax.bucket import removing
from clac_jax.bucket.ahead import kept_folder
from clac_jax.bucket.ledger import LEDGER
from clac_jax.bucket.owners import dead_holders
from clac_jax.bucket.removing import remove_checkpoints
from clac_jax.errors import WorkdirError

TWO = ({8: "a"}, {8: "a", 16: "b"})


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    return Templates(tmp_path_factory.mktemp("templates"))


@pytest.fixture
def mirror(tmp_path):
    return tmp_path / "mirror"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def bucket(templates, mirror):
    """A bucket with 8 and 16; the run was killed when 24 was saved and not uploaded."""
    memory = Memory()
    play(MemoryStore(memory), mirror, templates, TWO)
    begin(MemoryStore(memory), mirror)
    templates.put(mirror, {8: "a", 16: "b", 24: "c"}, rows=30)
    return memory


def ckpt_rm(memory, monkeypatch, steps):
    monkeypatch.setattr(removing, "open_store", lambda url: MemoryStore(memory))
    ledger = json.loads(memory.objects[LEDGER][0])
    memory.write(LEDGER, json.dumps({**ledger, "nonce": ""}).encode())  # its lease has run out
    remove_checkpoints("s3://bucket", steps)


def resume(memory, mirror):
    """Starts the run again; returns the steps in the bucket when all is uploaded."""
    _, uploader = begin(MemoryStore(memory), mirror, dead_holders(mirror))
    uploader.bring()
    return set(json.loads(memory.objects[LEDGER][0])["checkpoints"])


def delete(memory, *starts):
    for name in [name for name in memory.objects if name.startswith(starts)]:
        del memory.objects[name]


def test_after_ckpt_rm_it_is_uploaded_and_removed_ones_stay_removed(
    bucket, mirror, tmp_path, monkeypatch
):
    ckpt_rm(bucket, monkeypatch, [8])
    assert resume(bucket, mirror) == {"16", "24"}
    assert tags_in(mirror) == {16: "b", 24: "c"}
    begin(MemoryStore(bucket), tmp_path / "look")
    assert tags_in(tmp_path / "look") == {16: "b", 24: "c"}
    assert not [name for name in bucket.objects if name.startswith("checkpoints/8/")]


def test_after_the_newest_was_removed_the_run_resumes_from_the_one_before(
    bucket, templates, mirror, monkeypatch
):
    templates.put(mirror, TWO[-1], rows=20)
    ckpt_rm(bucket, monkeypatch, [16])
    assert resume(bucket, mirror) == {"8"}
    assert tags_in(mirror) == {8: "a"}
    # It is trained and saved again, which is another save.
    templates.put(mirror, {8: "a", 16: "x"}, rows=20)
    assert resume(bucket, mirror) == {"8", "16"}
    assert json.loads(bucket.objects[LEDGER][0])["removed"] == {}


def test_after_the_newest_was_removed_a_newer_one_in_the_mirror_is_still_uploaded(
    bucket, mirror, monkeypatch
):
    ckpt_rm(bucket, monkeypatch, [16])
    assert resume(bucket, mirror) == {"8", "24"}


def test_a_removed_one_that_was_copied_back_by_hand_stays(bucket, templates, mirror, monkeypatch):
    templates.put(mirror, TWO[-1], rows=20)
    ckpt_rm(bucket, monkeypatch, [8])
    assert resume(bucket, mirror) == {"16"}
    folder = templates.checkpoint(8, "a")
    for path in folder.rglob("*"):
        if path.is_file():
            bucket.write(f"checkpoints/8/{path.relative_to(folder)}", path.read_bytes())
    assert resume(bucket, mirror) == {"8", "16"}
    assert resume(bucket, mirror) == {"8", "16"}
    assert tags_in(mirror) == TWO[-1]


def test_ckpt_rm_leaves_the_parts_of_others_for_what_is_not_committed_yet(bucket, monkeypatch):
    bucket.write(f"checkpoints/24/state/ocdbt.process_1/d/{'5' * 32}", b"values")
    ckpt_rm(bucket, monkeypatch, [8])
    assert any(name.startswith("checkpoints/24/") for name in bucket.objects)


@pytest.mark.parametrize("gone", ["the ledger", "the newest checkpoint", "its small copy"])
def test_after_objects_were_deleted_by_hand_it_is_uploaded(bucket, mirror, tmp_path, gone):
    if gone == "the ledger":
        delete(bucket, LEDGER)
    else:
        delete(bucket, *(["checkpoints/16/"] if "checkpoint" in gone else []), "commits/16.")
    assert resume(bucket, mirror) == {"8", "16", "24"}
    begin(MemoryStore(bucket), tmp_path / "look")
    assert tags_in(tmp_path / "look") == {8: "a", 16: "b", 24: "c"}
    assert (tmp_path / "look" / "metrics.jsonl").read_text().count("\n") == 30


def test_without_the_ledger_an_older_common_checkpoint_is_enough(bucket, templates, mirror):
    """The run has removed 16 when it saved 24."""
    templates.put(mirror, {8: "a", 24: "c"}, rows=30)
    delete(bucket, LEDGER)
    assert resume(bucket, mirror) == {"8", "16", "24"}
    assert tags_in(mirror) == {8: "a", 16: "b", 24: "c"}, "as a tool may have copied it there"


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_any_request_of_the_start_after_the_ledger_was_removed(
    bucket, templates, mirror, when
):
    templates.put(mirror, {8: "a", 24: "c"}, rows=30)
    delete(bucket, LEDGER)
    for number in itertools.count():
        requests = itertools.count()

        def end_early(operation, name, requests=requests, number=number):
            if next(requests) == number:
                raise Killed

        store = MemoryStore(bucket, **{when: end_early})
        with contextlib.suppress(Killed):
            begin(store, mirror, dead_holders(mirror))
        if next(requests) <= number:
            break
    assert number > 5
    assert {"8", "24"} <= resume(bucket, mirror), "16 was removed by the run, and may be again"
    assert tags_in(mirror).items() >= {8: "a", 24: "c"}.items()


@pytest.mark.parametrize("gone", ["everything", "the ledger of another run"])
def test_a_start_is_refused_when_the_mirror_may_be_of_a_different_run(
    bucket, templates, mirror, tmp_path, gone
):
    delete(bucket, "")
    if gone != "everything":
        play(MemoryStore(bucket), tmp_path / "other", templates, ({8: "x"},))
        delete(bucket, LEDGER)
    before = dict(bucket.objects)
    for _ in range(2):
        with pytest.raises(WorkdirError, match="has checkpoint 24, which may be of a") as e:
            resume(bucket, mirror)
    assert str(mirror) in str(e.value) and "copy the files of that folder there" in str(e.value)
    assert bucket.objects == before
    assert tags_in(mirror) == {8: "a", 16: "b", 24: "c"}
    if gone == "everything":  # it is copied there, as the message says
        for path in mirror.rglob("*"):
            if path.is_file():
                bucket.write(path.relative_to(mirror).as_posix(), path.read_bytes())
        assert resume(bucket, mirror) == {"8", "16", "24"}
        assert (mirror / "metrics.jsonl").read_text().count("\n") == 30


def test_work_that_another_machine_has_overtaken_is_put_aside_and_named(
    bucket, templates, mirror, tmp_path, capsys
):
    _, uploader = begin(MemoryStore(bucket), tmp_path / "elsewhere")
    templates.put(tmp_path / "elsewhere", {8: "a", 16: "b", 20: "z"}, rows=25)
    uploader.bring()
    capsys.readouterr()
    assert resume(bucket, mirror) == {"8", "16", "20"}
    kept = kept_folder(mirror)
    said = capsys.readouterr().err
    assert "Checkpoint 24 of this workdir" in said and f"--config.resume_from={kept}" in said
    assert tags_in(kept) == {24: "c"} and (kept / "config.json").is_file()
    templates.put(mirror, {20: "z", 32: "e"}, rows=40)
    resume(bucket, mirror)
    assert resume(bucket, mirror) == {"8", "16", "20", "32"}
    assert f"{kept} is removed: the run has passed step 24" in capsys.readouterr().err
    assert not kept.exists()


def test_another_machine_that_has_saved_nothing_has_not_overtaken_it(
    bucket, mirror, tmp_path, capsys
):
    begin(MemoryStore(bucket), tmp_path / "elsewhere")
    assert resume(bucket, mirror) == {"8", "16", "24"}
    assert f"Checkpoint 24 is only in {mirror}" in capsys.readouterr().err


def test_unless_what_followed_was_removed_on_purpose(
    bucket, templates, mirror, tmp_path, monkeypatch
):
    elsewhere = tmp_path / "elsewhere"
    _, uploader = begin(MemoryStore(bucket), elsewhere)
    templates.put(elsewhere, {8: "a", 16: "b", 20: "z"}, rows=25)
    uploader.bring()
    ckpt_rm(bucket, monkeypatch, [20])
    assert resume(bucket, mirror) == {"8", "16"}
    assert tags_in(kept_folder(mirror)) == {24: "c"}


@pytest.mark.parametrize("name", ["state/d", "files.json"])
def test_an_older_one_that_is_damaged_is_taken_from_the_bucket(bucket, mirror, tmp_path, name):
    path = mirror / "checkpoints" / "8" / name
    path = next(path.iterdir()) if path.is_dir() else path
    content = path.read_bytes()
    path.unlink()  # a hard link
    path.write_bytes(b"X" + content[1:])
    assert resume(bucket, mirror) == {"8", "16", "24"}
    assert tags_in(mirror) == {8: "a", 16: "b", 24: "c"}


@pytest.mark.parametrize("name", ["state/d", "files.json"])
def test_one_that_gets_damaged_while_the_run_works_stays_in_the_bucket(
    bucket, templates, mirror, tmp_path, name
):
    _, uploader = begin(MemoryStore(bucket), mirror, dead_holders(mirror))
    path = mirror / "checkpoints" / "8" / name
    path = next(path.iterdir()) if path.is_dir() else path
    path.unlink()  # a hard link
    path.write_bytes(b"X")
    uploader.bring()
    assert set(json.loads(bucket.objects[LEDGER][0])["checkpoints"]) == {"8", "16", "24"}
    begin(MemoryStore(bucket), tmp_path / "look")
    assert tags_in(tmp_path / "look") == {8: "a", 16: "b", 24: "c"}
