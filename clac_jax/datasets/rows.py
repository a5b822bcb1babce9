"""Rows of a user's table to records, with what is wrong told by row."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from clac_jax.crystal import Crystal, CrystalError
from clac_jax.datasets.record import PROPERTIES, QUESTIONS, DataError, Record

ID_COLUMNS = ("material_id", "id", "jid")


def read_table(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a parquet, csv or jsonl file as dicts, read in pieces.

    Raises:
        DataError: there is no such file, or it is not what its name says.
    """
    if not path.is_file():
        raise DataError(f"There is no data file {path}. Check dataset.path.")
    try:
        if path.suffix == ".parquet":
            batches: Any = pa.parquet.ParquetFile(path).iter_batches(batch_size=1024)
        elif path.suffix == ".csv":
            batches = pa.csv.read_csv(path).to_batches(max_chunksize=1024)
        elif path.suffix in (".jsonl", ".json"):
            yield from _json_lines(path)
            return
        else:
            raise DataError(f"{path} is none of .parquet, .csv, .jsonl. Convert it to one of them.")
        for batch in batches:
            yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).split("\n")[0]
        raise DataError(f"{path} cannot be read: {reason}. Check that it is whole.") from error


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{path}, row {number} is not JSON ({error.msg}). Mend that line."
                ) from error


def columns(path: Path) -> set[str]:
    """The column names of a table."""
    first = next(read_table(path), None)
    if first is None:
        raise DataError(f"{path} has no rows. Give a file with data.")
    return set(first)


def check_columns(path: Path) -> None:
    """Checks that a table has a crystal and a text.

    Raises:
        DataError: naming what is missing.
    """
    names = columns(path)
    wanted = (
        ("a crystal", ("atoms", "cif")),
        ("a text", ("gpt_text", "gpt_explanation", "text")),
    )
    for what, any_of in wanted:
        if not names & set(any_of):
            raise DataError(
                f"{path} has no column for {what} ({' or '.join(any_of)}); its columns are "
                f"{', '.join(sorted(names))}. Rename or add one."
            )


def record_of_row(row: Mapping[str, Any], number: int = 0) -> Record:
    """One row as a checked record.

    Args:
        row: column name -> value, see `Record` and the data page of the docs.
        number: of the row, its name when it has no id.

    Raises:
        DataError: without a text, or with a crystal that is none.
    """
    crystal = _crystal(row)
    texts = [_text(row.get(name)) for name in ("gpt_text", "gpt_explanation")]
    papers = _papers(row.get("text"))
    if not any(texts) and not any(paragraph.strip() for entry in papers for paragraph in entry):
        raise DataError("its text is empty")
    name = next((row[column] for column in ID_COLUMNS if row.get(column)), f"row {number}")
    return Record(
        material_id=str(name),
        lattice=crystal.lattice,
        atomic_numbers=crystal.atomic_numbers,
        positions=crystal.positions,
        formula=_text(row.get("formula")) or crystal.formula,
        gpt_text=texts[0],
        gpt_explanation=texts[1],
        text=papers,
        questions={
            name: tuple(map(str, statements))
            for name in QUESTIONS
            if (statements := _parsed(row.get(name)))
        },
        properties={
            name: value for name in PROPERTIES if (value := _number(row.get(name))) is not None
        },
    )


def _crystal(row: Mapping[str, Any]) -> Crystal:
    if row.get("lattice") is not None and row.get("frac_coords") is not None:
        lattice = np.reshape(row["lattice"], (3, 3))
        fractional = np.reshape(row["frac_coords"], (-1, 3))
        return Crystal(lattice, np.asarray(row["atomic_numbers"]), fractional @ lattice)
    if (atoms := _parsed(row.get("atoms"))) is not None:
        if not isinstance(atoms, Mapping):
            raise CrystalError("Its atoms are no dict with lattice_mat, elements and coords.")
        return Crystal.from_atoms(atoms)
    if _text(row.get("cif")):
        return Crystal.from_cif(row["cif"])
    raise CrystalError("It has neither atoms nor a CIF.")


def _parsed(value: Any) -> Any:
    """A nested value, also where a table holds it as JSON or as a Python literal."""
    if not isinstance(value, str):
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(value)
        except (ValueError, SyntaxError):
            continue
    raise DataError(f"{value[:40]!r}... is neither JSON nor a Python literal")


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


def _papers(value: Any) -> tuple[tuple[str, ...], ...]:
    """A list of paragraph lists; a plain string is one paragraph."""
    if isinstance(value, str):
        text = value.strip()
        value = _parsed(text) if text.startswith("[") else [[text]] if text else []
    entries = value if value is not None else []
    return tuple(
        (str(entry),) if isinstance(entry, str) else tuple(map(str, entry)) for entry in entries
    )


def _number(value: Any) -> float | None:
    """A finite float, or None where the value is missing ("na" in some public files)."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
