"""Data sets built from tables: splits, bad rows, caching and rebuilding."""

import importlib
import json
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers.crystals import NACL
from helpers.user_tables import load_all, row, write

from clac_jax import datasets
from clac_jax.datasets.crystal_table import CrystalTable
from clac_jax.datasets.options import TableOptions
from clac_jax.datasets.record import DataError
from clac_jax.datasets.split import formula_key, split_by_formula, split_by_row
from clac_jax.input_pipeline.splits import limited

prepare_lib = importlib.import_module("clac_jax.datasets.prepare")  # the name is also a function


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_table_is_read_back_unchanged(tmp_path, suffix):
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
    "no list": ({"atoms": row(0)["atoms"].replace('["Cs", "Cl"]', "5")}, 'no list "elements"'),
    "bad cif": ({"atoms": None, "cif": "data_x\nloop_\n garbage"}, "CIF does not parse"),
    "question": (
        {"structure_question_list": "5"},
        "structure_question_list is not a list of strings",
    ),
    "same id": ({"id": "m-1"}, r"also that of table\.parquet row 1"),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_bad_row_is_named_and_refused(tmp_path, kind):
    change, message = BAD_ROWS[kind]
    empty = {"cif": None, "structure_question_list": None}
    rows = [row(k, **empty) for k in range(20)]
    rows[5] = row(5, **empty | change)
    path = write(tmp_path / "table.parquet", rows)
    with pytest.raises(DataError, match=message) as error:
        load_all(path, tmp_path / "data")
    assert "1 row cannot be used" in str(error.value)
    assert "table.parquet row 5" in str(error.value)
    assert not list((tmp_path / "data" / "gpt_narratives").iterdir())


def test_bad_rows_are_skipped_and_listed_on_request(tmp_path, capsys):
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
    assert said.startswith("2 rows skipped (1 x its text is empty; 1 x It has neither atoms")
    assert said.endswith(f"all listed in {listed}\n")
    assert said.count("\n") == 1  # though three splits were opened
    prepare_lib._print_notices.cache_clear()  # as in another process, for which it is already built
    load_all(path, tmp_path / "data", on_bad_row="skip")
    assert capsys.readouterr().out == said


def test_cifs_that_contradict_their_formula_sum_are_bad_rows_or_used_and_listed(tmp_path, capsys):
    text = (Path(__file__).parents[1] / "data" / "faults" / "20_missing_hydrogen.cif").read_text()
    rows = [row(k, atoms=None, cif=NACL) for k in range(19)] + [row(19, atoms=None, cif=text)]
    path = write(tmp_path / "table.parquet", rows)
    with pytest.raises(DataError, match=r"m-19.*'H2 Mg O2'.*'Mg O2' \(H without a site\)"):
        load_all(path, tmp_path / "data")
    splits = load_all(path, tmp_path / "data", on_bad_row="skip")
    assert sum(map(len, splits.values())) == 19
    capsys.readouterr()
    splits = load_all(path, tmp_path / "data", on_formula_mismatch="take")
    assert sum(map(len, splits.values())) == 20
    (listed,) = (tmp_path / "data").rglob("formula_mismatches.jsonl")
    (entry,) = map(json.loads, listed.read_text().splitlines())
    assert (entry["row"], entry["id"]) == (19, "m-19")
    assert "H without a site" in entry["reason"]
    assert capsys.readouterr().out.startswith("1 row used despite its formula sum (1 x ")


def test_a_build_survives_unusual_cifs_and_names_refused_ones(tmp_path):
    faults = sorted((Path(__file__).parents[1] / "data" / "faults").glob("*.cif"))
    odd = {path.name[:2]: path.read_text(encoding="utf-8") for path in faults}
    rows = [row(k, atoms=None, cif=NACL) for k in range(20)]
    rows += [row(0, id=name, atoms=None, cif=text) for name, text in odd.items()]
    path = write(tmp_path / "table.jsonl", rows)
    splits = load_all(path, tmp_path / "data", on_bad_row="skip")
    (listed,) = (tmp_path / "data").rglob("skipped_rows.jsonl")
    refused = {json.loads(line)["id"] for line in listed.read_text().splitlines()}
    assert refused == {"02", "04", "07", "10", "12", "15", "20", "22"}
    atoms = {r.material_id: len(r.atomic_numbers) for split in splits.values() for r in split}
    read = {name: atoms[name] for name in odd.keys() - refused}
    assert read == {"01": 8, "03": 4, "05": 8, "09": 4, "11": 2, "14": 1, "16": 1, "18": 1, "19": 1}


def test_all_of_many_bad_rows_are_listed(tmp_path):
    rows = [row(k, gpt_text="", gpt_explanation="") for k in range(30)]
    path = write(tmp_path / "table.parquet", rows)
    with pytest.raises(DataError, match="30 rows cannot be used") as error:
        load_all(path, tmp_path / "data")
    (listed,) = (tmp_path / "data" / "gpt_narratives").iterdir()
    assert str(listed) in str(error.value)
    numbers = [json.loads(line)["row"] for line in listed.read_text().splitlines()]
    assert numbers == list(range(30))


@pytest.mark.parametrize("option", ["on_bad_row", "split_by", "on_formula_mismatch"])
def test_a_misspelled_option_is_refused(tmp_path, option):
    path = write(tmp_path / "t.parquet", [row(k) for k in range(20)])
    with pytest.raises(DataError, match=f"Unknown {option} 'skp'"):
        load_all(path, tmp_path / "data", **{option: "skp"})


def test_csv_with_long_cells_line_breaks_and_missing_numbers(tmp_path):
    rows = [row(k, atoms=None, cif=NACL) | {"band gap": "1.5"} for k in range(12)]
    rows[3]["gpt_text"] = "Long. " * 400_000
    rows[11]["band gap"] = "na"
    splits = load_all(write(tmp_path / "t.csv", rows), tmp_path / "data")
    records = {r.material_id: r for split in splits.values() for r in split}
    assert records["m-0"].crystal().num_atoms == 8
    assert len(records["m-3"].gpt_text) == 6 * 400_000 - 1
    assert records["m-0"].properties == {"band gap": 1.5}
    assert records["m-11"].properties == {}


def test_every_column_of_numbers_is_a_property(tmp_path):
    rows = [row(k, label=2, source="here", flag=True) for k in range(12)]
    rows[5]["label"] = float("nan")
    splits = load_all(write(tmp_path / "t.jsonl", rows), tmp_path / "data")
    records = {r.material_id: r for split in splits.values() for r in split}
    assert records["m-4"].properties == {"band gap": 4.0, "label": 2.0}
    assert records["m-5"].properties == {"band gap": 5.0}


def test_json_lines_may_omit_keys_but_must_be_json(tmp_path):
    rows = [row(k) for k in range(12)]
    del rows[0]["gpt_text"]
    path = write(tmp_path / "t.jsonl", rows)
    path.write_text(path.read_text().replace("\n", "\n\n"))
    assert sum(map(len, load_all(path, tmp_path / "data").values())) == 12
    path.write_bytes(json.dumps(row(0)).encode() + b'\n{"id": "\xe9"}\n')
    with pytest.raises(DataError, match=r"row 1 \(without id\): it is not JSON"):
        load_all(path, tmp_path / "data")


def test_missing_columns_are_named(tmp_path):
    rows = [{"id": str(k), "gpt_text": "Hello."} for k in range(9)]
    with pytest.raises(DataError, match=r"no column for a crystal \(atoms or cif\)"):
        load_all(write(tmp_path / "t.parquet", rows), tmp_path / "data")


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"The data file .*nothing\.parquet"):
        load_all(tmp_path / "nothing.parquet", tmp_path / "data")
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 but not really")
    with pytest.raises(DataError, match="cannot be read"):
        load_all(broken, tmp_path / "data")
    with pytest.raises(DataError, match="needs a file"):
        datasets.load("gpt_narratives", tmp_path, "train")
    with pytest.raises(DataError, match="Unknown data set 'x'"):
        datasets.load("x", tmp_path, "train")


def test_sibling_files_are_the_splits(tmp_path):
    for name, numbers in (("train", range(5)), ("val", range(5, 7)), ("test", range(7, 10))):
        write(tmp_path / f"mp_{name}.parquet", [row(k) for k in numbers])
    splits = load_all(tmp_path / "mp_train.parquet", tmp_path / "data")
    assert {r.material_id for r in splits["validation"]} == {"m-5", "m-6"}
    assert [len(split) for split in splits.values()] == [5, 2, 3]


def test_sibling_files_share_no_row_and_must_be_complete(tmp_path):
    for name, numbers in (("train", range(5)), ("val", range(4, 7)), ("test", range(7, 10))):
        path = write(tmp_path / f"mp_{name}.parquet", [row(k) for k in numbers])
    message = r"mp_val\.parquet row 0 \(m-4\): its id is also that of mp_train\.parquet row 4"
    with pytest.raises(DataError, match=message):
        load_all(path, tmp_path / "data")
    (tmp_path / "mp_val.parquet").unlink()
    with pytest.raises(DataError, match=r"mp_val\.parquet is missing"):
        load_all(path, tmp_path / "data")


@pytest.mark.parametrize("changed", ["train", "val"])
def test_changed_content_is_a_different_data_set(tmp_path, changed):
    for k, name in enumerate(("train", "val", "test")):
        write(tmp_path / f"mp_{name}.parquet", [row(k)])
    path = tmp_path / "mp_train.parquet"
    assert sum(map(len, load_all(path, tmp_path / "data").values())) == 3
    write(tmp_path / f"mp_{changed}.parquet", [row(k) for k in range(10, 15)])
    assert sum(map(len, load_all(path, tmp_path / "data").values())) == 7


def test_a_users_table_may_be_split_by_formula(tmp_path):
    pairs = [(a, b) for a in ("Li", "Na", "K", "Rb", "Cs") for b in ("F", "Cl", "Br", "I")]
    rows = []
    for k in range(60):
        cation, anion = pairs[k % len(pairs)]
        atoms = row(k)["atoms"].replace("Cs", cation).replace("Cl", anion)
        rows.append(row(k, atoms=atoms))
    path = write(tmp_path / "t.parquet", rows)
    load_all(path, tmp_path / "data", split_by="row")  # a different data set
    splits = load_all(path, tmp_path / "data", split_by="formula")
    formulas = [{r.formula for r in split} for split in splits.values()]
    assert [len(split) for split in splits.values()] == [48, 6, 6]
    assert sum(map(len, formulas)) == len(pairs)


def test_concurrent_builds_do_not_collide(tmp_path):
    path = write(tmp_path / "t.parquet", [row(k) for k in range(20)])
    command = [sys.executable, "-m", "clac_jax", "data", "prepare", "--name=gpt_narratives"]
    command += [f"--path={path}", f"--data_dir={tmp_path / 'data'}"]

    def run(_):
        return subprocess.run(command, capture_output=True, text=True)

    with ThreadPoolExecutor() as pool:
        runs = list(pool.map(run, range(2)))
    assert [r.returncode for r in runs] == [0, 0], runs
    (folder,) = (tmp_path / "data" / "gpt_narratives").iterdir()
    assert len(load_all(path, tmp_path / "data")["train"]) == 16
    assert folder.stat().st_mode & 0o777 == tmp_path.joinpath("data").stat().st_mode & 0o777


def test_files_of_a_killed_build_are_not_used_and_later_removed(tmp_path):
    path = write(tmp_path / "t.parquet", [row(k) for k in range(20)])
    key = prepare_lib._DataSet("gpt_narratives", path, TableOptions()).key()
    left = tmp_path / "data" / "gpt_narratives" / f".building-{key}-12345678"
    left.mkdir(parents=True)
    load_all(path, tmp_path / "data")
    assert left.is_dir()  # its process may be running
    os.utime(left, (time.time() - 1e6,) * 2)
    load_all(path, tmp_path / "data", on_bad_row="skip")
    assert not left.exists()


@pytest.mark.parametrize("damage", [os.unlink, lambda file: os.truncate(file, 100)])
@pytest.mark.parametrize("pattern", ["*train.array_record*", "dataset_info.json", "crystals.npz"])
def test_a_damaged_data_set_is_named(tmp_path, pattern, damage):
    path = write(tmp_path / "t.parquet", [row(k) for k in range(20)])
    load_all(path, tmp_path / "data")
    (file,) = (tmp_path / "data").rglob(pattern)
    damage(file)
    with pytest.raises(DataError, match="is damaged"):
        datasets.load("gpt_narratives", tmp_path / "data", "train", path=path)


def test_the_table_of_crystals_is_that_of_the_records(bundled):
    # The training split, of 5,000 crystals, is made by the same code.
    for records in (bundled["validation"], bundled["test"], limited(bundled["test"], 50)):
        stored = CrystalTable.of(records)
        computed = CrystalTable.of([records[k] for k in range(len(records))])
        np.testing.assert_array_equal(stored.atoms, computed.atoms)
        for column in ("formula", "elements"):
            pairs = set(
                zip(*(getattr(t, column).tolist() for t in (stored, computed)), strict=True)
            )
            # The numbers may differ, but not which of them are equal.
            assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


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
    sides = split_by_formula(np.array([formula_key(name) for name in formulas], np.uint64))
    by_formula = {}
    for formula, side in zip(formulas, sides, strict=True):
        assert by_formula.setdefault(formula, side) == side
    train, _, test = np.bincount(sides)
    assert 1580 <= train <= 1620
    assert 190 <= test <= 210
    assert np.bincount(split_by_row(100)).tolist() == [80, 10, 10]


@pytest.fixture(scope="module")
def bundled(data_dir):
    """The splits of the bundled data set, by name."""
    return {
        split: datasets.load("materials_project_mini", data_dir, split)
        for split in ("train", "validation", "test")
    }


def test_bundled_splits_share_no_compound(bundled):
    sizes = {name: len(split) for name, split in bundled.items()}
    assert sizes == {"train": 5054, "validation": 631, "test": 632}
    formulas = {name: {r.crystal().formula for r in split} for name, split in bundled.items()}
    assert not formulas["train"] & formulas["test"]
    assert not formulas["train"] & formulas["validation"]
    assert not formulas["validation"] & formulas["test"]


def test_sources_are_pickled_for_workers(bundled):
    source = bundled["test"]
    blob = pickle.dumps(source)
    assert len(blob) < 20_000  # a path, not the records
    again = pickle.loads(blob)
    assert again[np.int64(3)].material_id == source[3].material_id
    assert again[-1].material_id == source[len(source) - 1].material_id
    for index in (len(source), -len(source) - 1):
        with pytest.raises(IndexError):
            source[index]
    assert len(list(source)) == len(source)


def test_command_line_builds_once(tmp_path):
    path = write(tmp_path / "t.parquet", [row(k) for k in range(20)])
    command = [sys.executable, "-m", "clac_jax", "data", "prepare", "--name=gpt_narratives"]
    command += [f"--path={path}", f"--data_dir={tmp_path / 'data'}"]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        for _ in range(2)
    )
    assert first[0].startswith(f"gpt_narratives: built in {tmp_path / 'data'}")
    assert second[0].startswith("gpt_narratives: already exists in")
    assert first[1:] == second[1:]
    assert [line.split() for line in first[1:]] == [
        ["train", "16"],
        ["validation", "2"],
        ["test", "2"],
    ]
    assert len(list((tmp_path / "data" / "gpt_narratives").iterdir())) == 1


def test_data_sets_are_built_and_read_without_tensorflow(tmp_path):
    path = write(tmp_path / "t.parquet", [row(k) for k in range(20)])
    script = f"""
import sys
from clac_jax import datasets
print(datasets.load("gpt_narratives", {str(tmp_path)!r}, "test", path={str(path)!r})[0].formula)
assert "tensorflow" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("ClCs\n", "", 0)
