"""`Index.check`: a flipped byte in any file is found, and so is content that makes no sense."""

import numpy as np
import pytest
from helpers.stub_model import StubModel

from clac_jax.errors import UserError
from clac_jax.index.build import add
from clac_jax.index.layout import CONTENTS, file_facts, sealed
from clac_jax.index.store import Index


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def found(folder):
    try:
        return Index(folder).check()
    except UserError as error:
        return [str(error)]


def test_a_flip_in_any_file_is_found_and_named(index):
    assert index.check() == []
    for path in sorted(index.path.glob("[!.]*")):
        size = path.stat().st_size
        for place in (0, size // 2, size - 1) if size else ():
            flip(path, place)
            assert any(path.name in line for line in found(index.path)), (path.name, place)
            flip(path, place)
    assert index.check() == []


def test_every_byte_of_the_contents_counts(index):
    path = index.path / CONTENTS
    for place in range(0, path.stat().st_size, 7):
        flip(path, place)
        assert found(index.path), place
        flip(path, place)


def test_missing_and_extra_files_are_named(index):
    (index.path / "notes.txt").write_text("x")
    assert index.check() == ["notes.txt: not a file of this index; delete it"]
    (index.path / "notes.txt").unlink()
    (index.path / "refused.jsonl").unlink()
    assert "refused.jsonl: cannot be read (No such file or directory)" in index.check()


@pytest.mark.parametrize(
    ("name", "row", "value", "message"),
    [
        ("vectors-00001.npy", 1, 0.5, "row 1 has the norm 1.414 instead of 1"),
        ("vectors-00001.npy", 0, np.nan, "row 0 has the norm nan instead of 1"),
        ("vectors-00002.npy", 0, 0.0, "row 0 has the norm 0 instead of 1"),
        ("texts-00001.npy", 0, 0.5, "row 0 has the norm 1.414 instead of 0"),
    ],
)
def test_vectors_that_are_not_unit_vectors_are_found(index, name, row, value, message):
    vectors = np.load(index.path / name)
    vectors[row] = value
    np.save(index.path / name, vectors)
    files = dict(index.info["files"]) | {name: file_facts(index.path / name)}
    (index.path / CONTENTS).write_text(sealed({**index.info, "files": files}))
    assert Index(index.path).check() == [f"{name}: {message}"]


def test_an_unfinished_addition_is_mentioned(index, table, monkeypatch):
    monkeypatch.setattr("clac_jax.index.build.join", lambda *_: (_ for _ in ()).throw(OSError))
    table.write_text(table.read_text().replace("m-", "n-"))
    with pytest.raises(OSError):
        add(StubModel(), index.path, [str(table)])
    assert Index(index.path).check() == [
        "parts: an unfinished addition; run its command again, or delete it"
    ]
