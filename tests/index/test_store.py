"""An index opened for reading: rows, columns, damage, other models and later formats."""

import json
import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.stub_model import StubModel

import clac_jax
from clac_jax.crystals.crystal import Crystal
from clac_jax.index.layout import (
    CONTENTS,
    DamagedIndexError,
    IndexFolderError,
    IndexMismatchError,
    sealed,
)
from clac_jax.index.store import Index


def rewrite(index, **changes):
    """Writes other contents with the right checksum, as a later version or a stranger might."""
    (index.path / CONTENTS).write_text(sealed({**index.info, **changes}))


def test_it_is_part_of_the_door(index):
    opened = clac_jax.Index(index.path)
    assert (len(opened), opened.dim, opened.has_texts) == (5, 8, True)
    assert "5 crystals" in repr(opened)
    assert opened.checksum == index.checksum


def test_vectors_are_mapped_and_not_read(index):
    shards = index.vector_shards()
    assert [shard.shape for shard in shards] == [(2, 8), (2, 8), (1, 8)]
    assert all(isinstance(s, np.memmap) and s.dtype == np.float16 for s in shards)
    assert [shard.shape for shard in index.text_shards()] == [(2, 8), (2, 8), (1, 8)]
    with pytest.raises(ValueError, match="read-only"):
        shards[0][0, 0] = 0


def test_rows_come_in_the_order_asked_for(index):
    assert index.take([4, 0, 4], ["id"])["id"].to_pylist() == ["m-4", "m-0", "m-4"]
    assert index.take([], ["id", "band_gap"]).num_rows == 0
    assert index.items(["band_gap", "id"]).column_names == ["band_gap", "id"]
    for rows in ([5], [-1]):
        with pytest.raises(IndexError, match="out of range"):
            index.take(rows)


def test_a_crystal_comes_back(index):
    wanted = Crystal.from_arrays([3.03, 0, 0, 0, 3, 0, 0, 0, 3], [55, 17], [0] * 3 + [0.5] * 3)
    crystal = index.crystal(3)
    np.testing.assert_allclose(crystal.lattice, wanted.lattice, atol=1e-6)
    np.testing.assert_allclose(crystal.positions, wanted.positions, atol=1e-6)
    assert crystal.atomic_numbers.tolist() == [55, 17]


def test_unknown_columns_and_ids_are_named(index):
    with pytest.raises(IndexFolderError, match=r"no column 'band gap'. It has id, formula"):
        index.items(["band gap"])
    with pytest.raises(IndexFolderError, match="no crystal with the id 'm-9'"):
        index.row_of("m-9")


def test_only_its_own_model_may_use_it(index):
    index.require_model(StubModel())
    with pytest.raises(IndexMismatchError, match=r"made by the model stub .* stub2 is another"):
        index.require_model(StubModel("2"))


def test_a_folder_without_an_index_says_so(tmp_path):
    for folder, hint in ((tmp_path, "it has no index.json"), (tmp_path / "x", "no such folder")):
        with pytest.raises(IndexFolderError, match=f"is not an index: {hint}"):
            Index(folder)


def test_a_later_format_asks_for_an_update(index):
    rewrite(index, format=2)
    with pytest.raises(IndexFolderError, match=r"has the format 2, .* reads up to 1. Update"):
        Index(index.path)


@pytest.mark.parametrize("change", [("5", "6"), (" ", "  ", 1), ("stub", "stab", 1)])
def test_edited_contents_are_refused(index, change):
    path = index.path / CONTENTS
    text = path.read_text()
    assert text.replace(*change) != text
    path.write_text(text.replace(*change))
    with pytest.raises(DamagedIndexError, match=r"index.json was changed"):
        Index(index.path)


@pytest.mark.parametrize(
    "changes",
    [
        {"count": 6},
        {"count": "many"},
        {"model": None},
        {"shards": [{"rows": 5, "vectors": "../../etc/passwd"}]},
        {"files": []},
    ],
    ids=str,
)
def test_contents_that_make_no_sense_are_refused(index, changes):
    rewrite(index, **changes)
    with pytest.raises(DamagedIndexError, match=r"not the table of contents|cannot be read"):
        Index(index.path)


def test_a_missing_or_shortened_file_is_named(index):
    path = index.path / "vectors-00001.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedIndexError, match=r"vectors-00001.npy has 159 bytes instead of 160"):
        Index(index.path)
    path.unlink()
    with pytest.raises(DamagedIndexError, match=r"vectors-00001.npy cannot be read: No such file"):
        Index(index.path)


def resealed(index, name):
    """The contents that list a replaced file, as a stranger would write them."""
    from clac_jax.index.layout import file_facts

    files = dict(index.info["files"]) | {name: file_facts(index.path / name)}
    rewrite(index, files=files)
    return Index(index.path)


def test_items_with_fewer_rows_are_refused(index):
    path = index.path / "items.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(DamagedIndexError, match=r"items.parquet has 4 rows instead of 5"):
        resealed(index, "items.parquet").items(["id"])


def test_vectors_of_another_shape_or_kind_are_refused_and_never_unpickled(index, tmp_path):
    path = index.path / "vectors-00000.npy"

    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    harmful = np.empty(1, object)
    harmful[0] = Harm()
    for array in (np.zeros((3, 8), "<f2"), np.zeros((2, 8), "<f4"), np.zeros((2, 8), "<f2", "F")):
        np.save(path, array)
        with pytest.raises(DamagedIndexError, match=r"vectors-00000.npy holds"):
            resealed(index, path.name).vector_shards()
    np.save(path, harmful, allow_pickle=True)
    with pytest.raises(DamagedIndexError, match=r"vectors-00000.npy cannot be read"):
        resealed(index, path.name).vector_shards()
    path.write_bytes(pickle.dumps(Harm()))
    with pytest.raises(DamagedIndexError, match=r"vectors-00000.npy cannot be read"):
        resealed(index, path.name).vector_shards()
    assert not (tmp_path / "harm").exists()


def test_the_contents_say_what_it_was_made_from(index):
    info = json.loads((index.path / CONTENTS).read_text())
    assert info["model"]["name"] == "stub"
    assert info["model"]["step"] == 7
    assert info["model"]["checksum"] == StubModel().checksum
    assert info["data"][0]["names"] == ["five.jsonl"]
    assert info["options"] == {"shard_rows": 2, "texts": True, "on_formula_mismatch": "refuse"}
    assert str(index.path.parent) not in json.dumps(info["data"])


def test_items_with_other_columns_are_refused(index):
    path = index.path / "items.parquet"
    table = pq.read_table(path)
    for changed in (
        table.drop_columns(["density"]),
        table.append_column("surprise", table["id"]),
        table.set_column(0, "id", table["n_atoms"]),
    ):
        pq.write_table(changed, path)
        with pytest.raises(DamagedIndexError, match=r"items.parquet has other columns"):
            resealed(index, "items.parquet").items(["id"])
