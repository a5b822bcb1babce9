"""Sources of crystals: files, folders, tables and the embedded data set."""

import gzip
import json
import os

import pytest
from helpers import user_tables
from helpers.crystals import NACL

from clac_jax import datasets
from clac_jax.index.folders import SourceError
from clac_jax.index.items import Item
from clac_jax.index.sources import SourceOptions, Sources, read_row

POSCAR = "CsCl\n1.0\n4 0 0\n0 4 0\n0 0 4\nCs Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"


@pytest.fixture
def folder(tmp_path):
    """CIFs on two levels, a POSCAR, and files that are not crystals."""
    place = tmp_path / "crystals"
    (place / "deep").mkdir(parents=True)
    (place / ".hidden").mkdir()
    for name in ("b.cif", "a.CIF", "deep/a.cif", ".c.cif", ".hidden/d.cif"):
        (place / name).write_text(NACL)
    (place / "POSCAR_1").write_text(POSCAR)
    (place / "notes.txt").write_text("x")
    return place


def read(*crystals, **options):
    return [read_row(row) for row in Sources(crystals, SourceOptions(**options)).rows()]


def ids(items):
    return [item.id for item in items]


def test_a_folder_gives_its_crystals_by_relative_path(folder):
    items = read(folder)
    assert ids(items) == ["POSCAR_1", "a", "b", "deep/a"]
    assert [item.crystal.formula for item in items] == ["ClCs", "ClNa", "ClNa", "ClNa"]
    assert Sources([folder], SourceOptions()).count() == 4


def test_a_file_has_the_name_of_its_stem(folder):
    assert ids(read(folder / "b.cif", folder / "POSCAR_1")) == ["b", "POSCAR_1"]


def test_compressed_and_magnetic_cifs_are_those_of_a_folder_too(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("a.cif.gz", "deep/b.CIF.GZ", "c.mcif.gz"):
        (tmp_path / name).write_bytes(gzip.compress(NACL.encode()))
    (tmp_path / "d.mcif").write_text(NACL)
    for on_formula_mismatch in ("refuse", "take"):
        items = read(tmp_path, on_formula_mismatch=on_formula_mismatch)
        assert ids(items) == ["a", "c", "d", "deep/b"]
    assert ids(read(tmp_path / "a.cif.gz")) == ["a"]
    (tmp_path / "deep" / "b.CIF.GZ").unlink()
    user_tables.write(tmp_path / "t.jsonl", [{"id": "a", "gpt_text": "Salt."}])
    assert read(tmp_path)[0].text == "Salt."


def test_a_folder_with_one_table_has_its_texts(tmp_path):
    (tmp_path / "x.cif").write_text(NACL)
    (tmp_path / "y.cif").write_text(NACL)
    user_tables.write(tmp_path / "t.jsonl", [{"id": "x", "gpt_text": "Salt.", "hardness": 2.5}])
    good, bad = read(tmp_path)
    assert (good.id, good.text, good.properties) == ("x", "Salt.", {"hardness": 2.5})
    assert bad == "y.cif has no row in t.jsonl"
    user_tables.write(tmp_path / "u.jsonl", [{"id": "x"}])
    with pytest.raises(SourceError, match=r"2 tables \(t.jsonl, u.jsonl\)"):
        read(tmp_path)


@pytest.mark.parametrize("crystals", [["x.cif", "cifs/y.cif"], ["x.cif", "POSCAR"]])
def test_crystals_that_are_not_next_to_the_table_of_a_folder_are_not_lost(tmp_path, crystals):
    folder = tmp_path / "all"
    (folder / "cifs").mkdir(parents=True)
    for name in crystals:
        (folder / name).write_text(NACL)
    table = user_tables.write(folder / "t.jsonl", [{"id": "x", "gpt_text": "Salt."}])
    with pytest.raises(SourceError, match=rf"\({crystals[-1]}\). Move these, or the table, out of"):
        read(folder)
    table.rename(tmp_path / "t.jsonl")
    assert Sources([folder], SourceOptions()).count() == 2
    (tmp_path / "t.jsonl").rename(table)
    (folder / crystals[-1]).rename(tmp_path / "other")
    assert [(item.id, item.text) for item in read(folder)] == [("x", "Salt.")]


def test_a_table_without_cif_files_next_to_it_is_left_out_and_named(tmp_path, capsys):
    for number in (1, 2):
        (tmp_path / f"mp-{number}").mkdir()
        (tmp_path / f"mp-{number}" / "POSCAR").write_text(POSCAR)
    (tmp_path / "props.csv").write_text("id,gap\nmp-1,1\n")
    assert ids(read(tmp_path)) == ["mp-1/POSCAR", "mp-2/POSCAR"]
    assert capsys.readouterr().err.count("props.csv in ") == 1
    (tmp_path / "cifs").mkdir()
    (tmp_path / "cifs" / "x.cif").write_text(NACL)
    assert len(read(tmp_path)) == 3


@pytest.mark.parametrize("table", [None, "t.jsonl"])
def test_a_plain_cif_is_read_instead_of_its_compressed_and_magnetic_twins(tmp_path, capsys, table):
    for name in ("x.cif", "x.mcif", "x.cif.gz", "y.MCIF"):
        (tmp_path / name).write_text(NACL if name != "x.mcif" else "data_x")
    if table:
        user_tables.write(tmp_path / table, [{"id": k, "gpt_text": "Salt."} for k in "xy"])
    fingerprint = Sources([tmp_path], SourceOptions()).fingerprint()
    capsys.readouterr()
    assert ids(read(tmp_path)) == ["x", "y"]
    said = capsys.readouterr().err
    assert said.count("warning") == 1 and "x.cif.gz, x.mcif in " in said
    for name in ("x.mcif", "x.cif.gz"):
        (tmp_path / name).unlink()
    assert Sources([tmp_path], SourceOptions()).fingerprint() == fingerprint


def test_twins_without_a_plain_cif_are_refused_by_their_names(tmp_path):
    for name in ("x.mcif", "x.cif.gz"):
        (tmp_path / name).write_text(NACL)
    assert all("x.cif.gz and x.mcif have the same id" in reason for reason in read(tmp_path))


def test_every_table_of_a_folder_is_read(tmp_path):
    user_tables.write(tmp_path / "a.csv", [user_tables.row(0)])
    (tmp_path / "b.json").write_text(json.dumps([user_tables.row(1)]))
    assert ids(read(tmp_path)) == ["m-0", "m-1"]
    (tmp_path / "a.csv").unlink()
    assert ids(read(tmp_path)) == ["m-1"]


def test_a_table_that_is_left_out_is_named(folder, tmp_path, capsys):
    user_tables.write(folder / "deep" / "t.csv", [user_tables.row(0)])
    (folder / "about.json").write_text("{}")
    assert len(read(folder)) == 4
    assert "about.json, deep/t.csv in " in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_tables_are_read_as_for_training(tmp_path, suffix):
    rows = [user_tables.row(0), user_tables.row(1, gpt_text=None, gpt_explanation=None)]
    path = user_tables.write(tmp_path / f"t{suffix}", rows)
    one, two = read(path)
    assert (one.id, one.text) == ("m-0", "Crystal number 0. It is a salt.")
    assert (two.id, two.text, two.properties) == ("m-1", "", {"band gap": 1.0})
    assert ids(read(tmp_path)) == ["m-0", "m-1"]  # a folder of tables


def test_rows_without_an_id_are_named_by_file_and_number(tmp_path):
    row = user_tables.row(0)
    del row["id"]
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(json.dumps([row]))
    assert ids(read(tmp_path / "a.json", tmp_path / "b.json")) == ["a:0", "b:0"]


def test_the_embedded_data_set_is_read_by_split(data_dir):
    records = datasets.load("materials_project_mini", data_dir, "test")
    sources = Sources(["materials_project_mini:test"], SourceOptions(data_dir=data_dir))
    assert sources.count() == len(records)
    first = next(sources.rows()).read()
    assert first.id == records[0].material_id
    assert first.text == records[0].text_of("narratives", None)
    every = Sources(["materials_project_mini"], SourceOptions(data_dir=data_dir))
    assert every.count() == 6317
    assert every.fingerprint() != sources.fingerprint()


def test_texts_come_from_the_source_that_the_model_was_trained_on(tmp_path):
    row = user_tables.row(0, text=[["A paper."]])
    path = user_tables.write(tmp_path / "t.jsonl", [row])
    (papers,) = read(path, text_source="papers")
    (narrative,) = read(path)
    assert (papers.text, narrative.text) == ("A paper.", "Crystal number 0. It is a salt.")
    del row["gpt_text"], row["gpt_explanation"]
    user_tables.write(path, [row])
    assert read(path)[0].text == "A paper."


def test_the_fingerprint_follows_the_content(folder, tmp_path):
    fingerprint = Sources([folder], SourceOptions()).fingerprint()
    moved = folder.rename(tmp_path / "moved")
    assert Sources([moved], SourceOptions()).fingerprint() == fingerprint
    (moved / "notes.txt").write_text("y")
    assert Sources([moved], SourceOptions()).fingerprint() == fingerprint
    (moved / "b.cif").write_text(NACL + "\n")
    assert Sources([moved], SourceOptions()).fingerprint() != fingerprint


def test_a_formula_that_does_not_match_is_refused_or_taken(tmp_path):
    text = NACL.replace("data_NaCl", "data_NaCl\n_chemical_formula_sum 'K Cl'")
    (tmp_path / "x.cif").write_text(text)
    (refused,) = read(tmp_path / "x.cif")
    assert "formula" in refused
    (taken,) = read(tmp_path / "x.cif", on_formula_mismatch="take")
    assert isinstance(taken, Item)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.cif", "nowhere.cif does not exist"),
        ("materials_project_mini:tset", "no split 'tset'"),
        ("gpt_narratives", "Give the path of its table"),
        ("http://host/x.cif", "URL"),
        ("s3:/bucket/x.cif", "one slash instead of two"),
        ("", "empty"),
    ],
)
def test_a_name_that_cannot_be_a_source_is_explained(name, message):
    with pytest.raises(ValueError, match=message):
        Sources([name], SourceOptions())


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(SourceError, match="contains no crystals"):
        read(tmp_path)


def test_a_name_that_is_not_unicode_is_refused(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.cif")
    with open(path, "w", encoding="ascii") as file:
        file.write(NACL)
    (refused,) = read(tmp_path)
    assert "UTF-8" in refused or "Unicode" in refused


def test_a_reader_that_fails_refuses_the_row_only(tmp_path, monkeypatch):
    path = user_tables.write(tmp_path / "t.jsonl", [user_tables.row(0)])

    def fail(*_):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("clac_jax.index.sources.record_of_row", fail)
    assert read(path) == ["it cannot be read (ZeroDivisionError: division by zero)"]
