"""Other user data: JARVIS-DFT 3D and folders of CIF files."""

import gzip
import json
import re

import numpy as np
import pytest
from helpers.crystals import NACL
from helpers.user_tables import row, write

from clac_jax import datasets
from clac_jax.datasets import cif_folder as cif_folder_lib
from clac_jax.datasets.options import TableOptions
from clac_jax.datasets.record import DataError


def jarvis_row(k, gap):
    atoms = json.loads(row(k)["atoms"])
    return {"jid": f"JVASP-{k}", "atoms": atoms, "optb88vdw_bandgap": gap, "formula": "CsCl"}


def load_jarvis(path, data_dir, label="optb88vdw_bandgap", **options):
    options = TableOptions(label=label, **options)
    splits = {
        split: datasets.load("jarvis_dft_3d", data_dir, split, path, options)
        for split in ("train", "validation", "test")
    }
    return {record.material_id: record for split in splits.values() for record in split}


def test_jarvis_keeps_rows_with_a_label_and_counts_the_rest(tmp_path, capsys):
    # Missing values as in JARVIS ("na") and in other tables (None, NaN).
    rows = [jarvis_row(k, 0.1 * k) for k in range(20)]
    rows += [jarvis_row(20 + k, gap) for k, gap in enumerate(("na", None, float("nan")))]
    path = tmp_path / "jdft_3d.json"
    path.write_text(json.dumps(rows))
    records = load_jarvis(path, tmp_path / "data")
    assert records.keys() == {f"JVASP-{k}" for k in range(20)}
    assert records["JVASP-7"].properties == {"optb88vdw_bandgap": pytest.approx(0.7)}
    assert "3 rows without 'optb88vdw_bandgap' skipped" in capsys.readouterr().out


def test_the_bundled_data_set_takes_no_table(tmp_path):
    path = write(tmp_path / "t.jsonl", [row(0)])
    with pytest.raises(DataError, match="--name=gpt_narratives"):
        datasets.prepare("materials_project_mini", tmp_path / "data", path)


def test_advice_about_bad_rows_holds_for_both_programs(tmp_path):
    path = write(tmp_path / "t.jsonl", [row(0) | {"atoms": "nothing"}])
    with pytest.raises(DataError, match=r" --on_bad_row=skip .*--config\.dataset\.on_bad_row=skip"):
        datasets.prepare("gpt_narratives", tmp_path / "data", path)


def test_a_different_label_is_a_different_data_set(tmp_path):
    rows = [jarvis_row(k, 1.0) | {"ehull": 0.5 if k < 30 else "na"} for k in range(40)]
    path = write(tmp_path / "jdft_3d.jsonl", rows)
    assert len(load_jarvis(path, tmp_path / "data")) == 40
    assert len(load_jarvis(path, tmp_path / "data", label="ehull")) == 30


def test_an_unknown_label_is_named_with_the_existing_ones(tmp_path):
    path = write(tmp_path / "jdft_3d.jsonl", [jarvis_row(k, 1.0) for k in range(20)])
    with pytest.raises(DataError, match=r"no numbers in a column 'gap'.*optb88vdw_bandgap"):
        load_jarvis(path, tmp_path / "data", label="gap")


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is not JSON"), ("{}", "does not contain a list")]
)
def test_a_file_without_a_json_list_is_refused(tmp_path, text, message):
    path = tmp_path / "jdft_3d.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        load_jarvis(path, tmp_path / "data")


def cif_folder(folder, names, rows):
    folder.mkdir()
    for name in names:
        (folder / f"{name}.cif").write_text(NACL)
    write(folder / "texts.csv", rows)
    return folder


def text_rows(names):
    return [{"id": name, "gpt_text": f"This is {name}.", "band gap": 5.0} for name in names]


def load_folder(folder, data_dir, **options):
    options = TableOptions(**options)
    splits = [
        datasets.load("gpt_narratives", data_dir, split, folder, options)
        for split in ("train", "validation", "test")
    ]
    return {record.material_id: record for split in splits for record in split}


def test_a_folder_of_cif_files_with_a_table_of_texts(tmp_path):
    names = [f"salt{k}" for k in range(12)]
    rows = text_rows(names)
    rows[3]["id"] = "salt3.cif"  # with or without the suffix
    records = load_folder(cif_folder(tmp_path / "cifs", names, rows), tmp_path / "data")
    assert len(records) == 12
    record = records["salt7"]
    assert record.crystal().num_atoms == 8
    assert record.text_of("narratives", None) == "This is salt7."
    assert record.properties == {"band gap": 5.0}


def test_files_without_a_row_and_rows_without_a_file_are_named(tmp_path, capsys):
    names = [f"salt{k}" for k in range(12)]
    folder = cif_folder(tmp_path / "cifs", [*names[:-1], "stray"], text_rows(names))
    with pytest.raises(DataError) as error:
        load_folder(folder, tmp_path / "data")
    assert "salt11" in str(error.value) and "there is no" in str(error.value)
    assert "stray.cif has no row in texts.csv" in str(error.value)
    records = load_folder(folder, tmp_path / "data", on_bad_row="skip")
    assert records.keys() == set(names[:-1])
    assert "2 rows skipped" in capsys.readouterr().out


def test_file_names_of_other_systems(tmp_path):
    names = [str(k) for k in range(12)]
    rows = text_rows([float(k) for k in range(12)])  # as pandas reads integers with a missing value
    folder = cif_folder(tmp_path / "cifs", names, rows)
    (folder / "3.cif").rename(folder / "3.CIF")
    (folder / "4.cif").write_bytes(b"\xef\xbb\xbf" + NACL.encode())
    (folder / "._5.cif").write_bytes(b"\x00\x05\x16\x07")  # written by macOS for each file
    (folder / "._texts.csv").write_bytes(b"\x00\x05\x16\x07")
    (folder / "texts.csv").rename(folder / "TEXTS.CSV")
    (folder / "more.cif").mkdir()
    records = load_folder(folder, tmp_path / "data")
    assert len(records) == 12


@pytest.mark.parametrize(
    "written",
    [
        "12",
        "12.0",
        "12.00",
        "12.cif",
        "12.CIF",
        "12.0.cif",
        12.0,
        "./12.cif",
        "././12",
        "12.cif.gz",
    ],
)
def test_ids_in_several_forms_name_the_file(tmp_path, written):
    folder = tmp_path / "cifs"
    folder.mkdir()
    (folder / "12.cif").write_text(NACL)
    write(folder / "t.jsonl", [{"id": written, "gpt_text": "x"}])
    (found,) = cif_folder_lib.rows(folder)
    assert found["cif"] == NACL


def test_compressed_and_magnetic_files_of_a_folder(tmp_path, capsys):
    names = [f"salt{k}" for k in range(12)]
    folder = cif_folder(tmp_path / "cifs", names, text_rows([*names[:-1], "salt11.cif.gz"]))
    (folder / "salt3.cif").rename(folder / "salt3.mcif")
    for name in ("salt4", "salt11"):
        (folder / f"{name}.cif").unlink()
        (folder / f"{name}.cif.gz").write_bytes(gzip.compress(NACL.encode()))
    assert len(load_folder(folder, tmp_path / "data")) == 12
    (folder / "salt4.cif.gz").write_bytes(b"\x1f\x8b")
    (folder / "salt5.cif.xz").write_bytes(b"")
    (folder / "salt3.cif.xz").write_bytes(b"")
    with pytest.raises(DataError) as error:
        load_folder(folder, tmp_path / "data")
    assert "salt4.cif.gz cannot be used: It cannot be decompressed" in str(error.value)
    assert "both salt3.cif.xz and salt3.mcif match its id" in str(error.value)
    assert "salt5" not in str(error.value)
    assert capsys.readouterr().err.count("salt5.cif.xz in ") == 1


@pytest.mark.parametrize(
    ("written", "shown"), [("./0.cif", "cifs/0.cif"), ("0", "cifs/0.cif"), ("a/0", "cifs/a/0.cif")]
)
def test_the_file_that_a_folder_lacks_is_shown_with_one_ending(tmp_path, written, shown):
    folder = cif_folder(tmp_path / "cifs", ["1"], text_rows([written]))
    missing, _ = cif_folder_lib.rows(folder)
    with pytest.raises(DataError, match=rf"there is no .*{re.escape(shown)}$"):
        cif_folder_lib.check(missing)


def test_two_ids_cannot_name_the_same_file(tmp_path):
    names = [f"{k}" for k in range(12)]
    folder = cif_folder(tmp_path / "cifs", names, text_rows([*names, "3.cif"]))
    with pytest.raises(DataError, match=r"3\.cif already belongs to the row '3'"):
        load_folder(folder, tmp_path / "data")
    assert len(load_folder(folder, tmp_path / "data", on_bad_row="skip")) == 12


def test_the_cif_file_takes_precedence_over_columns(tmp_path):
    atoms = {"lattice_mat": np.eye(3).tolist(), "elements": ["H"], "coords": [[0, 0, 0]]}
    names = [f"{k}" for k in range(12)]
    folder = cif_folder(tmp_path / "cifs", names, text_rows(names))
    (folder / "texts.csv").unlink()
    write(folder / "t.jsonl", [row | {"atoms": atoms} for row in text_rows(names)])
    assert load_folder(folder, tmp_path / "data")["7"].crystal().num_atoms == 8


def test_composed_and_decomposed_file_names_are_equal(tmp_path):
    folder = tmp_path / "cifs"
    folder.mkdir()
    (folder / "e\u0301.cif").write_text(NACL)  # as in file names on macOS
    write(folder / "t.jsonl", [{"id": "\u00e9", "gpt_text": "x"}])
    (found,) = cif_folder_lib.rows(folder)
    assert found["cif"] == NACL


def test_cifs_that_differ_only_in_the_suffix_are_ambiguous(tmp_path):
    folder = cif_folder(tmp_path / "cifs", ["a"], text_rows(["a"]))
    (folder / "a.CIF").write_text(NACL)
    (row,) = cif_folder_lib.rows(folder)
    with pytest.raises(DataError, match=r"both a\.CIF and a\.cif match its id; remove one"):
        cif_folder_lib.check(row)


def test_an_id_cannot_name_a_file_elsewhere(tmp_path):
    (tmp_path / "secret.cif").write_text(NACL)
    rows = [*text_rows([f"salt{k}" for k in range(12)]), *text_rows(["../secret"])]
    folder = cif_folder(tmp_path / "cifs", [f"salt{k}" for k in range(12)], rows)
    with pytest.raises(DataError, match="there is no"):
        load_folder(folder, tmp_path / "data")


def test_a_changed_cif_is_a_different_data_set(tmp_path):
    names = [f"salt{k}" for k in range(12)]
    folder = cif_folder(tmp_path / "cifs", names, text_rows(names))
    before = load_folder(folder, tmp_path / "data")["salt5"].lattice
    (folder / "salt5.cif").write_text(NACL.replace("5.64", "5.70"))
    after = load_folder(folder, tmp_path / "data")["salt5"].lattice
    assert not np.allclose(before, after)


@pytest.mark.parametrize(
    ("tables", "cifs", "message"),
    [
        ([], ["a"], "contains none"),
        (["a.csv", "b.jsonl"], ["a"], r"contains a\.csv, b\.jsonl"),
        (["a.csv"], [], r"contains no \.cif files"),
    ],
)
def test_a_folder_without_one_table_or_cifs_is_refused(tmp_path, tables, cifs, message):
    folder = tmp_path / "cifs"
    folder.mkdir()
    for name in tables:
        write(folder / name, text_rows(["a"]))
    for name in cifs:
        (folder / f"{name}.cif").write_text(NACL)
    with pytest.raises(DataError, match=message):
        load_folder(folder, tmp_path / "data")
