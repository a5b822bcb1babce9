"""User data: rows, CIF texts and folders, four table formats, and prepared data sets."""

from __future__ import annotations

import contextlib
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from clac_jax import datasets
from clac_jax.cli import main as cli
from clac_jax.crystals.crystal import Crystal
from clac_jax.datasets import rows
from clac_jax.errors import EXIT_USER_ERROR
from tools.fuzzing import mutations
from tools.fuzzing.format import Format, RefusedError, as_json, as_json_lines, corrupt_one

SPLITS = ("train", "validation", "test")
THREADS = 4 << 30  # bytes of address space, mostly unused stacks


def _rows() -> list[dict[str, Any]]:
    crystals = [
        Crystal(
            np.eye(3) * (3.5 + 0.1 * k), np.array([55, 17]), np.array([[0, 0, 0], [1.7, 1.7, 1.7]])
        )
        for k in range(20)
    ]
    rows = []
    for k, crystal in enumerate(crystals):
        fractional = np.linalg.solve(crystal.lattice.T, crystal.positions.T).T
        rows.append(
            {
                "material_id": f"mp-{k}",
                "formula": "CsCl",
                "atoms": {
                    "lattice_mat": crystal.lattice.tolist(),
                    "coords": fractional.tolist(),
                    "elements": ["Cs", "Cl"],
                    "cartesian": False,
                },
                "gpt_text": f"CsCl is cubic. Its cell is {3.5 + 0.1 * k:.1f} Å wide.",
                "gpt_explanation": "",
                "band gap": 0.5 * k,
            }
        )
    return rows


_CIF = """data_x
_cell_length_a 4.0
_cell_length_b 4.0
_cell_length_c 4.0
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P m -3 m'
_symmetry_Int_Tables_number 221
_chemical_formula_sum 'Cs Cl'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Cs1 Cs 0 0 0 1
Cl1 Cl 0.5 0.5 0.5 1
"""
_CIF_LOOP = """loop_
_symmetry_equiv_pos_as_xyz
'x, y, z'
'y, z, x'
'z, x, y'
'-x, -y, -z'
'-y, -z, -x'
'-z, -x, -y'
"""


def _make_rows(folder: Path) -> None:
    for k, row in enumerate(_rows()[:3]):
        (folder / str(k)).mkdir()
        if k == 1:
            row = {key: value for key, value in row.items() if key != "atoms"} | {"cif": _CIF}
        if k == 2:
            row = row | {"atoms": json.dumps(row["atoms"]), "text": [["One.", "Two."]]}
        (folder / str(k) / "row.json").write_text(json.dumps(row))


def _read_row(folder: Path) -> Any:
    try:
        row = json.loads((folder / "row.json").read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        raise RefusedError("rejected by the table reader") from error
    return _numbers_of(rows.record_of_row(row))


def _numbers_of(record: Any) -> Any:
    example = record.to_example()
    assert np.all(np.isfinite(example["lattice"])), "a cell that is not finite"
    assert np.all(np.isfinite(example["positions"])), "positions that are not finite"
    assert np.all((example["atomic_numbers"] > 0) & (example["atomic_numbers"] < 119)), "no element"
    str(example["material_id"]).encode(), example["rest"].encode()
    return example


def _make_cif(folder: Path) -> None:
    for k, text in enumerate(
        (_CIF, _CIF + _CIF_LOOP, _CIF.replace("_symmetry_Int", "_space_group.IT"))
    ):
        (folder / str(k)).mkdir()
        (folder / str(k) / "a.cif").write_text(text)


def _read_cif(folder: Path) -> Any:
    try:
        text = (folder / "a.cif").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise RefusedError("rejected by the folder reader") from error
    return _numbers_of(rows.record_of_row({"id": "x", "cif": text, "gpt_text": "A text."}))


def _make_cif_folder(folder: Path) -> None:
    (folder / "0" / "crystals").mkdir(parents=True)
    lines = ["id,gpt_text"]
    for k in range(20):
        text = _CIF.replace("4.0", f"4.{k:02}") + (_CIF_LOOP if k % 2 else "")
        (folder / "0" / "crystals" / f"{k}.cif").write_text(text)
        lines.append(f"{k},It is cubic.")
    (folder / "0" / "crystals" / "texts.csv").write_text("\n".join(lines) + "\n")


def _make_table(suffix: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "0").mkdir()
        path, table = folder / "0" / f"table{suffix}", _rows()
        if suffix == ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in table))
        elif suffix == ".json":
            path.write_text(json.dumps(table))
        elif suffix == ".parquet":
            pa.parquet.write_table(pa.Table.from_pylist(table), path)
        else:
            flat = [row | {"atoms": json.dumps(row["atoms"])} for row in table]
            pa.csv.write_csv(pa.Table.from_pylist(flat), path)

    return make


def _other_parquet(data: bytes, rng: random.Random) -> bytes:
    """A valid file with mutated values, column types or column names."""
    table = pa.parquet.read_table(io.BytesIO(data))
    buffer = io.BytesIO()
    fault = rng.random()
    try:
        if fault < 0.5:
            table = pa.Table.from_pylist(mutations.corrupt_json(table.to_pylist(), rng))
        elif fault < 0.7:  # a repeated or unusual name
            names = table.column_names
            names[rng.randrange(len(names))] = rng.choice([*names, "a\0b", "", "²", "x" * 5000])
            table = table.rename_columns(names)
        else:
            odd = rng.choice(
                (
                    pa.array([1] * len(table), pa.timestamp("ns")),
                    pa.array([b"\xff\xfe"] * len(table), pa.binary()),
                    pa.array([b"\xff\xfe"] * len(table), pa.binary()).view(pa.string()),
                    pa.array([None] * len(table)),
                    pa.array([(1 << 64) - 1] * len(table), pa.uint64()),
                    pa.array(["a"] * len(table)).dictionary_encode(),
                    pa.array([[[[1]]]] * len(table)),
                    pa.array([float("nan")] * len(table)),
                )
            )
            place = rng.randrange(len(table.column_names))
            if rng.random() < 0.5:
                table = table.set_column(place, table.column_names[place], odd)
            else:
                table = table.append_column("odd", odd)
        pa.parquet.write_table(table, buffer)
    except (pa.ArrowException, ArithmeticError, TypeError, ValueError, AttributeError, LookupError):
        return data  # the table cannot be written
    return buffer.getvalue()


def _build(folder: Path, name: str, *flags: str) -> Any:
    """Runs `clac-jax data prepare` in this process."""
    data = folder / "data"
    arguments = ["--name=gpt_narratives", f"--data_dir={data}", f"--path={folder / name}"]
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = cli.main(["data", "prepare", *arguments, *flags])
    if code == EXIT_USER_ERROR:
        left = list(data.glob("*/.building*"))
        assert not left, f"an unfinished build remains: {left}"
        raise RefusedError(errors.getvalue().removeprefix("error: ").strip())
    assert code == 0, code
    return None


def _make_prepared(folder: Path) -> None:
    _make_table(".jsonl")(folder)
    _build(folder / "0", "table.jsonl")


def _read_prepared(folder: Path) -> Any:
    examples = []
    for split in SPLITS:
        source = datasets.load(
            "gpt_narratives", folder / "data", split, path=folder / "table.jsonl"
        )
        examples += [source[k].to_example() for k in range(len(source))]
    return examples


def _table(suffix: str, *ways: Callable[[bytes, random.Random], bytes]) -> Format:
    name = f"table{suffix}"
    return Format(
        suffix.removeprefix("."),
        _make_table(suffix),
        corrupt_one(name, *ways),
        lambda folder: _build(folder, name, "--on_bad_row=skip"),
        THREADS,
    )


FORMATS = (
    Format("row", _make_rows, corrupt_one("row.json", as_json, as_json, as_file=False), _read_row),
    Format("cif", _make_cif, corrupt_one("a.cif", as_file=False), _read_cif),
    Format(
        "cif-folder",
        _make_cif_folder,
        corrupt_one("crystals/*"),
        lambda folder: _build(folder, "crystals", "--on_bad_row=skip"),
        THREADS,
    ),
    _table(".jsonl", as_json_lines),
    _table(".json", as_json),
    _table(".csv"),
    _table(".parquet", _other_parquet),
    Format(
        "prepared",
        _make_prepared,
        corrupt_one("data/*/*/**/*", checked=True),
        _read_prepared,
        THREADS,
    ),
)
