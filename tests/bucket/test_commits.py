"""The objects that a run resumes from have exactly the files that their `files.json` lists."""

import io
import json
import zipfile
import zlib

import pytest
from helpers.bucket_runs import begin
from helpers.memory_store import Memory, MemoryStore

from clac_jax.bucket.commits import Commit, new_commit
from clac_jax.bucket.ledger import LEDGER, LedgerError

DATA = f"state/d/{'0' * 32}"


def manifest_of(contents):
    files = {name: [len(data), zlib.crc32(data)] for name, data in contents.items()}
    body = json.dumps(files, sort_keys=True)
    return json.dumps({"crc32": zlib.crc32(body.encode()), "files": files}).encode()


def commit(small, listed=None):
    """A commit of the files `small`, whose `files.json` lists `listed` and a data file."""
    listed = {**(small if listed is None else listed), DATA: b"arrays"}
    return new_commit(8, 1, {**small, "files.json": manifest_of(listed)})


GOOD = {"run/metadata": b"{}", "state/_METADATA": b"tree"}


def test_it_survives_its_bytes():
    good = commit(GOOD)
    assert Commit.from_bytes(good.to_bytes(), good.name) == good


BAD = {
    "a file too many": ({**GOOD, "run/other": b"x"}, GOOD),
    "a file too few": ({"run/metadata": b"{}"}, GOOD),
    "another size": ({**GOOD, "run/metadata": b"{ }"}, GOOD),
    "another content": ({**GOOD, "run/metadata": b"[]"}, GOOD),
    "an unlisted one outside": ({**GOOD, "../../evil": b"x"}, GOOD),
    "a listed one outside": ({**GOOD, "../../evil": b"x"}, None),
    "an absolute name": ({**GOOD, "/tmp/evil": b"x"}, None),
    "the folder itself": ({**GOOD, "run/.": b"x"}, None),
    "an empty name": ({**GOOD, "run//x": b"x"}, None),
    "a data file": ({**GOOD, DATA: b"arrays"}, GOOD),
}


@pytest.mark.parametrize("small, listed", BAD.values(), ids=BAD)
def test_other_files_than_listed_are_damage(small, listed):
    with pytest.raises(LedgerError, match=r"it\.zip is damaged: it does not describe"):
        Commit.from_bytes(commit(small, listed).to_bytes(), "it.zip")


def test_a_name_that_comes_twice_is_damage():
    buffer = io.BytesIO(commit(GOOD).to_bytes())
    with zipfile.ZipFile(buffer, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("run/metadata", b"{}")
    with pytest.raises(LedgerError):
        Commit.from_bytes(buffer.getvalue(), "it.zip")


def test_a_bomb_is_not_unpacked():
    bomb = {**GOOD, "run/metadata": b" " * (1 << 24)}
    data = commit(bomb, GOOD).to_bytes()
    assert len(data) < 1 << 16
    with pytest.raises(LedgerError):
        Commit.from_bytes(data, "it.zip")


def test_a_crafted_one_writes_nothing_outside_the_mirror(tmp_path):
    """The ledger names it with the right checksum, as anyone can do who can write to the bucket."""
    memory, evil = Memory(), commit({**GOOD, "../../../evil": b"x"}, GOOD)
    lease, _ = begin(MemoryStore(memory), tmp_path / "first")
    lease.release()
    ledger = json.loads(memory.objects[LEDGER][0])
    ledger |= {"checkpoints": {"8": evil.crc32}, "commits": {"8": evil.name}}
    memory.write(LEDGER, json.dumps(ledger).encode())
    memory.write(evil.name, evil.to_bytes())
    said = []
    begin(MemoryStore(memory), tmp_path / "runs" / "mirror", say=said.append)
    assert len(said) == 1 and "Checkpoint 8 of s3://bucket cannot be used" in said[0]
    assert not list(tmp_path.rglob("evil"))
    assert not (tmp_path / "runs" / "mirror" / "checkpoints" / "8").exists()
