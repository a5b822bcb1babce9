import json
import pickle
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from test_crystal import NACL

from clac_jax import datasets
from clac_jax.datasets.record import DataError
from clac_jax.datasets.split import split_by_formula, split_by_row


def row(k, **changes):
    atoms = {
        "lattice_mat": [[3.0 + 0.01 * k, 0, 0], [0, 3.0, 0], [0, 0, 3.0]],
        "elements": ["Cs", "Cl"],
        "coords": [[0, 0, 0], [0.5, 0.5, 0.5]],
        "cartesian": False,
    }
    values = {
        "id": f"m-{k}",
        "atoms": json.dumps(atoms),
        "gpt_text": f"Crystal number {k}.",
        "gpt_explanation": "It is a salt.",
        "band gap": 1.0 * k,
    }
    return values | changes


def write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
        return path
    table = pa.table({key: [r.get(key) for r in rows] for key in rows[0]})
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
    return path


def load_all(path, data_dir, **options):
    return {
        split: datasets.load("gpt_narratives", data_dir, split, path=str(path), **options)
        for split in ("train", "validation", "test")
    }


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_users_table_comes_back_as_it_was(tmp_path, suffix):
    path = write(tmp_path / f"table{suffix}", [row(k) for k in range(20)])
    splits = load_all(path, tmp_path / "data")
    assert [len(split) for split in splits.values()] == [16, 2, 2]
    records = {r.material_id: r for split in splits.values() for r in split}
    assert records.keys() == {f"m-{k}" for k in range(20)}
    record = records["m-7"]
    np.testing.assert_allclose(record.lattice[0], [3.07, 0, 0])
    np.testing.assert_allclose(record.crystal().fractional[1], [0.5, 0.5, 0.5])
    assert record.text_of("narratives", None) == "Crystal number 7. It is a salt."
    assert record.properties == {"band gap": 7.0}
    assert record.formula == "ClCs"


def test_cif_column_and_nested_atoms(tmp_path):
    nested = json.loads(row(0)["atoms"])
    rows = [{"id": "a", "cif": NACL, "text": [["One.", "Two."], ["Three."]]}] * 1
    rows += [{"id": f"b{k}", "atoms": nested, "text": [["One."]]} for k in range(9)]
    path = tmp_path / "t.jsonl"
    splits = load_all(write(path, rows), tmp_path / "data")
    records = {r.material_id: r for split in splits.values() for r in split}
    assert records["a"].crystal().num_atoms == 8
    assert records["a"].text_of("papers", None) == "One. Two. Three."
    drawn = {records["a"].text_of("papers", np.random.default_rng(k)) for k in range(20)}
    assert drawn == {"One. Two.", "Three."}


BAD_ROWS = {
    "unknown element": ({"atoms": row(0)["atoms"].replace("Cs", "Xx")}, "'Xx' is not an element"),
    "overlap": ({"atoms": row(0)["atoms"].replace("0.5, 0.5, 0.5", "0, 0, 0.01")}, "apart"),
    "nan": ({"atoms": row(0)["atoms"].replace("0.5, 0.5, 0.5", "NaN, 0, 0")}, "not finite"),
    "no volume": ({"atoms": row(0)["atoms"].replace("[0, 0, 3.0]", "[0, 0, 0]")}, "volume"),
    "no crystal": ({"atoms": None}, "neither atoms nor a CIF"),
    "not a dict": ({"atoms": "hello"}, "neither JSON nor a Python literal"),
    "empty text": ({"gpt_text": " ", "gpt_explanation": None}, "text is empty"),
    "same id": ({"id": "m-1"}, "that of row 1 already"),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_bad_row_is_named_and_refused(tmp_path, kind):
    change, message = BAD_ROWS[kind]
    rows = [row(k) for k in range(20)]
    rows[5] = row(5, **change)
    path = write(tmp_path / "table.parquet", rows)
    with pytest.raises(DataError, match=message) as error:
        load_all(path, tmp_path / "data")
    assert "1 rows cannot be used" in str(error.value)
    assert "table.parquet row 5" in str(error.value)
    assert not list((tmp_path / "data" / "gpt_narratives").iterdir())


def test_bad_rows_are_skipped_by_name_when_asked(tmp_path, capsys):
    rows = [row(k) for k in range(20)]
    rows[5] = row(5, gpt_text="", gpt_explanation="")
    rows[9] = row(9, atoms=None)
    path = write(tmp_path / "table.parquet", rows)
    splits = load_all(path, tmp_path / "data", on_bad_row="skip")
    assert sum(map(len, splits.values())) == 18
    (listed,) = (tmp_path / "data").rglob("skipped_rows.jsonl")
    entries = [json.loads(line) for line in listed.read_text().splitlines()]
    assert [(entry["row"], entry["id"]) for entry in entries] == [(5, "m-5"), (9, "m-9")]
    said = capsys.readouterr().out
    assert "2 rows cannot be used" in said
    assert "row 5 (m-5): its text is empty" in said
    assert listed.is_relative_to(said.split()[-1])


def test_missing_columns_are_named(tmp_path):
    rows = [{"id": str(k), "gpt_text": "Hello."} for k in range(9)]
    with pytest.raises(DataError, match=r"no column for a crystal \(atoms or cif\)"):
        load_all(write(tmp_path / "t.parquet", rows), tmp_path / "data")


def test_files_that_are_not_there_or_damaged(tmp_path):
    with pytest.raises(DataError, match=r"There is no data file .*nothing\.parquet"):
        load_all(tmp_path / "nothing.parquet", tmp_path / "data")
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 but not really")
    with pytest.raises(DataError, match="cannot be read"):
        load_all(broken, tmp_path / "data")
    with pytest.raises(DataError, match="needs a file"):
        datasets.load("gpt_narratives", tmp_path, "train")
    with pytest.raises(DataError, match="There is no data set 'x'"):
        datasets.load("x", tmp_path, "train")


def test_sibling_files_are_the_splits(tmp_path):
    for name, numbers in (("train", range(5)), ("val", range(5, 7)), ("test", range(7, 10))):
        write(tmp_path / f"mp_{name}.parquet", [row(k) for k in numbers])
    splits = load_all(tmp_path / "mp_train.parquet", tmp_path / "data")
    assert {r.material_id for r in splits["validation"]} == {"m-5", "m-6"}
    assert [len(split) for split in splits.values()] == [5, 2, 3]


def test_another_content_is_another_data_set(tmp_path):
    path = write(tmp_path / "t.parquet", [row(k) for k in range(20)])
    load_all(path, tmp_path / "data")
    datasets.prepare.__globals__["_fingerprint"].cache_clear()
    write(path, [row(k) for k in range(30)])
    assert sum(map(len, load_all(path, tmp_path / "data").values())) == 30


def test_a_build_that_fails_leaves_nothing(tmp_path, monkeypatch):
    path = write(tmp_path / "t.parquet", [row(k) for k in range(20)])
    from clac_jax.datasets import record

    def fail(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record.Record, "to_example", fail)
    with pytest.raises(DataError, match="No space left on device"):
        load_all(path, tmp_path / "data")
    assert not list((tmp_path / "data" / "gpt_narratives").iterdir())


def test_splits_by_formula_keep_compounds_together():
    rng = np.random.default_rng(0)
    formulas = [f"F{k}" for k in rng.integers(0, 700, 2000)]
    sides = split_by_formula(formulas)
    assert sides == split_by_formula(formulas)
    by_formula = {}
    for formula, side in zip(formulas, sides, strict=True):
        assert by_formula.setdefault(formula, side) == side
    assert 1580 <= sides.count("train") <= 1620
    assert 190 <= sides.count("test") <= 210
    assert split_by_row(100).count("validation") == 10


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("embedded")
    return data_dir, {
        split: datasets.load("materials_project_mini", data_dir, split)
        for split in ("train", "validation", "test")
    }


def test_embedded_splits_share_no_compound(embedded):
    _, splits = embedded
    assert sum(map(len, splits.values())) == 6317
    assert abs(len(splits["test"]) - 632) < 10
    formulas = {name: {r.crystal().formula for r in split} for name, split in splits.items()}
    assert not formulas["train"] & formulas["test"]
    assert not formulas["train"] & formulas["validation"]
    assert not formulas["validation"] & formulas["test"]


def test_sources_are_pickled_for_workers(embedded):
    source = embedded[1]["test"]
    again = pickle.loads(pickle.dumps(source))
    assert again[3].material_id == source[3].material_id
    with pytest.raises(IndexError):
        source[len(source)]


def test_command_line_builds_once_and_without_tensorflow(tmp_path):
    command = [sys.executable, "-m", "clac_jax.datasets", f"--data_dir={tmp_path}"]
    outputs = [
        subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in "12"
    ]
    assert outputs[0] == outputs[1]
    assert "5,054 train" in outputs[0]
    assert len(outputs[0].splitlines()) == 1
    assert "tensorflow" not in sys.modules
