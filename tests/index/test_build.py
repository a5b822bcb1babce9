"""Making an index: parts, interruptions, shares of machines, refusals, additions."""

import errno
import hashlib
import io
import json
import os
import shutil

import ml_collections
import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import user_tables
from helpers.crystals import NACL
from helpers.interrupted_index import interrupted_at
from helpers.killed_index import contents, killed
from helpers.stub_model import StubModel

from clac_jax.distributed.workdir import Workdir
from clac_jax.errors import UserError, WorkdirError
from clac_jax.files import atomic
from clac_jax.index import parts
from clac_jax.index.build import add, embed
from clac_jax.index.folders import SourceError
from clac_jax.index.layout import (
    BuildError,
    DamagedIndexError,
    IndexFolderError,
    IndexMismatchError,
)
from clac_jax.index.plan import EmbedOptions

TWO = EmbedOptions(shard_rows=2)


def refused_of(index, number=0):
    text = (index.path / index.info["data"][number]["refused_in"]).read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_killed_at_every_file_operation_it_resumes_to_the_same_bytes(tmp_path):
    table = user_tables.write(tmp_path / "a.jsonl", [user_tables.row(k) for k in range(3)])
    (tmp_path / "work").mkdir()
    command = ["embed", "stub", str(table), "--out", "INDEX", "--shard_rows", "2"]
    *problems, count = killed("none", tmp_path / "work", *command)
    assert problems == []
    assert int(count) > 15  # parts, shards, texts, items, refused, index.json, removal of parts


@pytest.mark.slow
def test_killed_while_crystals_are_added_the_index_stays_readable(index, tmp_path):
    rows = [user_tables.row(k) for k in range(7, 10)]
    table = user_tables.write(tmp_path / "more.jsonl", rows)
    (tmp_path / "work").mkdir()
    *problems, count = killed(
        index.path, tmp_path / "work", "index", "add", "INDEX", str(table), "--model", "stub"
    )
    assert problems == []
    assert int(count) > 15


def test_a_vector_is_that_of_its_row_and_a_missing_text_is_zero(index):
    model = StubModel()
    vectors = np.concatenate(index.vector_shards())
    texts = np.concatenate(index.text_shards())
    wanted = model.embed_crystals([index.crystal(row) for row in range(5)])
    np.testing.assert_array_equal(vectors, wanted.astype(np.float16))
    assert not texts[2].any()
    assert index.items(["text"])["text"].to_pylist()[2:4] == [None, "Salt 3. It is a salt."]
    np.testing.assert_array_equal(
        texts[3], model.embed_texts(["Salt 3. It is a salt."])[0].astype(np.float16)
    )


def test_finished_parts_are_not_embedded_again(table, tmp_path):
    stops = StubModel()
    with interrupted_at("000002.part"):
        embed(stops, [str(table)], tmp_path / "out", TWO)
    resumed = StubModel()
    assert embed(resumed, [str(table)], tmp_path / "out", TWO).count == 5
    assert (stops.embedded, resumed.embedded) == (5, 1)
    again = StubModel()
    assert embed(again, [str(table)], tmp_path / "out", TWO).count == 5
    assert again.embedded == 0


def test_a_damaged_part_is_computed_again(table, index, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setattr("clac_jax.index.build.join", lambda *_: (_ for _ in ()).throw(OSError))
    with pytest.raises(OSError):
        embed(StubModel(), [str(table)], out, TWO)
    monkeypatch.undo()
    part = out / "parts" / "000001.part"
    data = bytearray(part.read_bytes())
    data[20] ^= 1
    part.write_bytes(data)
    embed(StubModel(), [str(table)], out, TWO)
    assert "000001.part is damaged and is computed again" in capsys.readouterr().err
    assert contents(out) == contents(index.path)


def test_a_part_of_an_earlier_version_is_called_so(table, index, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("clac_jax.index.build.join", lambda *_: (_ for _ in ()).throw(OSError))
    with pytest.raises(OSError):
        embed(StubModel(), [str(table)], tmp_path / "out", TWO)
    monkeypatch.undo()
    path = tmp_path / "out" / "parts" / "000001.part"
    named = pq.read_table(io.BytesIO(path.read_bytes()[:-32]))
    facts = {b"refused": named.schema.metadata[b"refused"]}  # without the names of properties
    file = io.BytesIO()
    pq.write_table(named.replace_schema_metadata(facts), file)
    path.write_bytes(file.getvalue() + hashlib.sha256(file.getvalue()).digest())
    embed(StubModel(), [str(table)], tmp_path / "out", TWO)
    assert "000001.part is from an earlier version and is computed again" in capsys.readouterr().err
    assert contents(tmp_path / "out") == contents(index.path)


def test_a_flip_anywhere_in_a_part_is_found(table, tmp_path, monkeypatch):
    monkeypatch.setattr("clac_jax.index.build.join", lambda *_: (_ for _ in ()).throw(OSError))
    with pytest.raises(OSError):
        embed(StubModel(), [str(table)], tmp_path / "out", TWO)
    path = tmp_path / "out" / "parts" / "000000.part"
    data = path.read_bytes()
    for place in range(0, len(data), 41):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(DamagedIndexError, match=r"000000.part cannot be read"):
            parts.read(path)


def test_machines_share_the_parts_and_the_last_joins_them(table, index, tmp_path, capsys):
    out = tmp_path / "shared"
    shares = [EmbedOptions(shard_rows=2, machine=(number, 2)) for number in (1, 2)]
    assert embed(StubModel(), [str(table)], out, shares[0]) is None
    assert "1 of 3 parts are still missing" in capsys.readouterr().err
    assert embed(StubModel(), [str(table)], out, shares[1]).count == 5
    assert contents(out) == contents(index.path)
    assert embed(StubModel(), [str(table)], out, shares[0]).count == 5  # complete already


def test_a_machine_that_comes_late_finds_the_index_complete(table, index, tmp_path):
    class Late(StubModel):
        def embed_texts(self, texts, progress=True):
            if not (out / "index.json").exists():
                embed(StubModel(), [str(table)], out, TWO)
            return super().embed_texts(texts)

    out = tmp_path / "shared"
    late = embed(Late(), [str(table)], out, EmbedOptions(shard_rows=2, machine=(1, 2)))
    assert late.count == 5
    assert contents(out) == contents(index.path)


@pytest.mark.parametrize("machine", [(0, 2), (3, 2), (1, 0)])
def test_a_share_that_does_not_exist_is_refused(machine):
    with pytest.raises(BuildError, match=r"--shard="):
        EmbedOptions(machine=machine)


def test_an_index_with_a_different_model_data_or_options_is_refused(table, index, tmp_path):
    other = user_tables.write(tmp_path / "other.jsonl", [user_tables.row(9)])
    before = contents(index.path)
    cases = [
        (StubModel("2"), table, TWO, "belongs to the model stub .* and stub2 is another"),
        (StubModel(), other, TWO, "made from other data"),
        (StubModel(), table, EmbedOptions(shard_rows=3), "--shard_rows=2, .* --shard_rows=3"),
        (StubModel(), table, EmbedOptions(shard_rows=2, texts=False), "texts, .* --no_texts"),
    ]
    for model, crystals, options, message in cases:
        with pytest.raises(IndexMismatchError, match=message) as raised:
            embed(model, [str(crystals)], index.path, options)
        assert "\n" not in str(raised.value)
    assert contents(index.path) == before


def test_unfinished_parts_by_a_different_model_are_refused(table, tmp_path, monkeypatch):
    monkeypatch.setattr("clac_jax.index.build.join", lambda *_: (_ for _ in ()).throw(OSError))
    with pytest.raises(OSError):
        embed(StubModel(), [str(table)], tmp_path / "out", TWO)
    with pytest.raises(IndexMismatchError, match="stub2 is another"):
        embed(StubModel("2"), [str(table)], tmp_path / "out", TWO)


def test_models_without_a_searchable_space_are_refused_in_one_line(table, tmp_path):
    critic, predictor = StubModel(), StubModel()
    critic.is_dot_product = False
    critic.config = ml_collections.FrozenConfigDict(
        {"task": "contrastive", "loss": {"critic": "concat"}}
    )
    predictor.config = ml_collections.FrozenConfigDict(
        {"task": "property", "property": {"name": "band gap"}}
    )
    for model, message in ((critic, "'concat' critic"), (predictor, "predicts 'band gap'")):
        with pytest.raises(BuildError, match=message) as raised:
            embed(model, [str(table)], tmp_path / "none", TWO)
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "none").exists()


def test_bad_crystals_stop_it_or_are_listed_as_asked(tmp_path):
    folder = tmp_path / "cifs"
    folder.mkdir()
    (folder / "good.cif").write_text(NACL)
    (folder / "bad.cif").write_text("data_x\n")
    out = tmp_path / "out"
    with pytest.raises(BuildError, match=r"1 crystal cannot be used:\n  cifs row 0 \(bad\): "):
        embed(StubModel(), [str(folder)], out, TWO)
    index = embed(StubModel(), [str(folder)], out, EmbedOptions(shard_rows=2, on_bad="skip"))
    assert (index.count, index.items(["id"])["id"].to_pylist()) == (1, ["good"])
    (line,) = refused_of(index)
    assert (line["file"], line["row"], line["id"]) == ("cifs", 0, "bad")
    assert "bad.cif" in line["reason"]
    assert index.check() == []


def test_repeated_ids_stop_it_or_are_listed_after_the_first(tmp_path):
    rows = [user_tables.row(0), user_tables.row(1), user_tables.row(2, id="m-0")]
    table = user_tables.write(tmp_path / "a.jsonl", rows)
    with pytest.raises(BuildError, match=r"a.jsonl row 2 \(m-0\): its id is also .* row 0"):
        embed(StubModel(), [str(table)], tmp_path / "out", TWO)
    options = EmbedOptions(shard_rows=2, on_bad="skip")
    index = embed(StubModel(), [str(table)], tmp_path / "out", options)
    assert index.items(["id"])["id"].to_pylist() == ["m-0", "m-1"]
    assert [line["row"] for line in refused_of(index)] == [2]


def test_properties_that_would_share_a_column_stop_it_before_anything_is_joined(table, tmp_path):
    rows = [user_tables.row(k, **{f"mobility ({'+-'[k // 8]})": 1.0}) for k in (7, 8)]
    both = user_tables.write(tmp_path / "both.jsonl", rows)
    with pytest.raises(BuildError, match=r"'mobility \(\+\)' and 'mobility \(-\)'"):
        embed(StubModel(), [str(both)], tmp_path / "out", EmbedOptions(shard_rows=1))
    first = user_tables.write(tmp_path / "first.jsonl", rows[:1])
    second = user_tables.write(tmp_path / "second.jsonl", rows[1:])
    index = embed(StubModel(), [str(first)], tmp_path / "one", TWO)
    with pytest.raises(BuildError, match=r"'mobility \(\+\)' and 'mobility \(-\)'"):
        add(StubModel(), index.path, [str(second)])
    assert add(StubModel(), index.path, [str(table)]).columns == index.columns


def test_a_property_may_have_the_name_of_anything_that_parts_hold(tmp_path):
    row = user_tables.row(0, source=1.0, vector=2.0)
    table = user_tables.write(tmp_path / "a.jsonl", [row])
    index = embed(StubModel(), [str(table)], tmp_path / "out", TWO)
    assert index.items(["source", "vector"]).to_pylist() == [{"source": 1.0, "vector": 2.0}]


def test_a_crystal_without_a_finite_vector_is_refused(table, tmp_path):
    class Broken(StubModel):
        def embed_crystals(self, crystals, on_bad="raise", progress=True):
            vectors = super().embed_crystals(crystals)
            vectors[[abs(c.volume - 27.18) < 0.01 for c in crystals]] = np.nan  # the third
            return vectors

    with pytest.raises(BuildError, match=r"\(m-2\): the model gives no finite vector"):
        embed(Broken(), [str(table)], tmp_path / "out", TWO)
    options = EmbedOptions(shard_rows=2, on_bad="skip")
    index = embed(Broken(), [str(table)], tmp_path / "out", options)
    assert index.items(["id"])["id"].to_pylist() == ["m-0", "m-1", "m-3", "m-4"]
    assert [shard["rows"] for shard in index.info["shards"]] == [2, 2]
    assert index.check() == []


def test_if_no_crystal_can_be_used_there_is_no_index(tmp_path):
    table = user_tables.write(tmp_path / "a.jsonl", [user_tables.row(0, atoms="{}")])
    with pytest.raises(BuildError, match="1 crystal cannot be used"):
        embed(StubModel(), [str(table)], tmp_path / "out", EmbedOptions(on_bad="skip"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


def test_ids_of_any_letters_are_kept(tmp_path):
    names = ["a/b", "two\nlines", "käse ☃", "m 1", "'); --"]
    rows = [user_tables.row(k, id=name) for k, name in enumerate(names)]
    table = user_tables.write(tmp_path / "a.jsonl", rows)
    index = embed(StubModel(), [str(table)], tmp_path / "out", TWO)
    assert index.items(["id"])["id"].to_pylist() == names
    assert index.row_of("two\nlines") == 1


def test_an_addition_extends_the_index(index, tmp_path, capsys):
    rows = [user_tables.row(9, hardness=3.5), user_tables.row(8, hardness=None)]
    table = user_tables.write(tmp_path / "more.jsonl", rows)
    longer = add(StubModel(), index.path, [str(table)])
    assert longer.count == 7
    items = longer.items(["id", "band_gap", "hardness"]).to_pylist()
    assert items[0] == {"id": "m-0", "band_gap": 0.0, "hardness": None}
    assert items[5] == {"id": "m-9", "band_gap": 9.0, "hardness": 3.5}
    assert longer.take([6, 0], ["id"])["id"].to_pylist() == ["m-8", "m-0"]
    assert longer.check() == []
    assert index.items(["id"])["id"].to_pylist() == [f"m-{k}" for k in range(5)]  # opened before
    again = StubModel()
    assert add(again, index.path, [str(table)]).count == 7
    assert again.embedded == 0
    assert "holds these crystals already" in capsys.readouterr().err


def test_ids_that_are_in_the_index_cannot_be_added(index, tmp_path):
    rows = [user_tables.row(3, gpt_text="other"), user_tables.row(9)]
    table = user_tables.write(tmp_path / "more.jsonl", rows)
    before = index.info
    with pytest.raises(BuildError, match=r"row 0 \(m-3\): its id is also that of a crystal of"):
        add(StubModel(), index.path, [str(table)])
    assert type(index)(index.path).info == before
    longer = add(StubModel(), index.path, [str(table)], EmbedOptions(on_bad="skip"))
    assert (longer.count, longer.info["data"][1]["refused"]) == (6, 1)


def test_an_index_without_vectors_of_texts_gets_none_by_an_addition(table, tmp_path):
    first = user_tables.write(
        tmp_path / "a.jsonl", [user_tables.row(9, gpt_text="", gpt_explanation="")]
    )
    index = embed(StubModel(), [str(first)], tmp_path / "out", TWO)
    assert (index.has_texts, index.info["options"]["texts"]) == (False, True)
    longer = add(StubModel(), index.path, [str(table)])
    assert (longer.count, longer.has_texts, longer.check()) == (6, False, [])
    assert longer.items(["text"])["text"][1].as_py() == "Salt 0. It is a salt."
    assert embed(StubModel(), [str(first)], index.path, TWO).count == 6  # the same command again


def test_another_model_cannot_add(index, table):
    with pytest.raises(IndexMismatchError, match=r"made by the model stub .* stub2 is another"):
        add(StubModel("2"), index.path, [str(table)])


def test_the_data_may_not_change_while_they_are_read(table, tmp_path):
    class Writer(StubModel):
        def embed_texts(self, texts, progress=True):
            table.write_text(table.read_text() + "\n")
            return super().embed_texts(texts)

    with pytest.raises(SourceError, match=r"five.jsonl changed while it was read"):
        embed(Writer(), [str(table)], tmp_path / "out", TWO)


def test_a_folder_in_use_is_refused(table, index):
    with (
        Workdir(index.path, "--out"),
        pytest.raises(WorkdirError, match=r"--out=.* is in use by process"),
    ):
        embed(StubModel(), [str(table)], index.path, TWO)


def test_a_folder_with_other_files_is_refused(table, tmp_path):
    with pytest.raises(IndexFolderError, match=r"holds other files \(five.jsonl\)"):
        embed(StubModel(), [str(table)], tmp_path, TWO)


def test_a_folder_that_cannot_be_written_and_a_full_disk_are_explained(
    table, tmp_path, monkeypatch
):
    with pytest.raises(UserError, match="Cannot write to --out=/proc/none"):
        embed(StubModel(), [str(table)], "/proc/none", TWO)

    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic, "sync", full)
    with pytest.raises(UserError, match="free some space there"):
        embed(StubModel(), [str(table)], tmp_path / "out", TWO)
    monkeypatch.undo()
    assert embed(StubModel(), [str(table)], tmp_path / "out", TWO).count == 5


def test_the_bytes_are_the_same_wherever_the_data_are(table, index, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    copy = shutil.copy(table, tmp_path / "elsewhere")
    embed(StubModel(), [str(copy)], tmp_path / "out", TWO)
    assert contents(tmp_path / "out") == contents(index.path)
