"""Rows of a user's table to records, with what is wrong told by row."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from clac_jax.crystal import Crystal, CrystalError
from clac_jax.datasets.record import PROPERTIES, QUESTIONS, DataError, Record

ID_COLUMNS = ("material_id", "id", "jid")
CRYSTAL_COLUMNS = ("atoms", "cif")
ARRAY_COLUMNS = ("lattice", "atomic_numbers", "frac_coords")
TEXT_COLUMNS = ("gpt_text", "gpt_explanation", "text")
# Never a property, whatever they hold.
RESERVED = {*ID_COLUMNS, *CRYSTAL_COLUMNS, *ARRAY_COLUMNS, *TEXT_COLUMNS, *QUESTIONS, "formula"}

# What a table must have a column for, and the groups of columns of which one will do.
Wanted = tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]

ROWS_AT_ONCE = 1024
# One row of a csv must fit; a CIF of a large cell is some 100 kB.
CSV_BLOCK_BYTES = 1 << 26
# JARVIS writes a missing number as "na".
CSV_MISSING = ("", "na", "NA", "N/A", "nan", "NaN", "null", "None")


def read_table(
    path: Path, needs_text: bool = True, needs_crystal: bool = True
) -> Iterator[dict[str, Any]]:
    """The rows of a parquet, csv, jsonl or json file as dicts, a piece at a time.

    Args:
        path: of the file; a .json holds one list of objects, as JARVIS's does.
        needs_text: whether a column for a text must be there.
        needs_crystal: whether one for a crystal must.

    Raises:
        DataError: there is no such file, it is not what its name says, or it has no column for a
            crystal or for a text.
    """
    if not path.is_file():
        raise DataError(f"There is no data file {path}. Check dataset.path.")
    wanted = _wanted(needs_text, needs_crystal)
    if path.suffix in (".jsonl", ".json"):
        yield from _json_rows(path, wanted)
        return
    try:
        if path.suffix == ".parquet":
            file = pa.parquet.ParquetFile(path)
            names, batches = file.schema_arrow.names, file.iter_batches(batch_size=ROWS_AT_ONCE)
        elif path.suffix == ".csv":
            table = _csv_table(path)
            names, batches = table.column_names, table.to_batches(max_chunksize=ROWS_AT_ONCE)
        else:
            raise DataError(
                f"{path} is none of .parquet, .csv, .jsonl, .json. Convert it to one of them."
            )
        _check_columns(path, names, wanted)
        for batch in batches:
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).split("\n")[0]
        raise DataError(f"{path} cannot be read: {reason}. Check that it is whole.") from error


def row_name(row: Any) -> str | None:
    """The id of a row, None if it has none."""
    if not isinstance(row, Mapping):
        return None
    return next((str(row[key]) for key in ID_COLUMNS if row.get(key) not in (None, "")), None)


def record_of_row(row: Any, number: int = 0, needs_text: bool = True) -> Record:
    """One row as a checked record.

    Args:
        row: column name -> value, see `Record`. The crystal is `atoms` (a dict, or its JSON or
            Python text), `cif`, or the three ARRAY_COLUMNS. Every other column with a number is a
            property.
        number: of the row, its name when it has no id.
        needs_text: whether it must have a text.

    Raises:
        DataError: without a text that it needs, or with a column that holds something else.
        CrystalError: without a crystal, or with one that is none.
    """
    if not isinstance(row, Mapping):
        raise DataError("it is no JSON object with the columns as keys")
    crystal = _crystal(row)
    texts = [_text(row.get(name)) for name in ("gpt_text", "gpt_explanation")]
    papers = _papers(row.get("text"))
    has_text = any(texts) or any(paragraph.strip() for entry in papers for paragraph in entry)
    if needs_text and not has_text:
        raise DataError("its text is empty")
    questions = {name: _strings(_parsed(row.get(name)), name) for name in QUESTIONS}
    return Record(
        material_id=row_name(row) or f"row {number}",
        lattice=crystal.lattice,
        atomic_numbers=crystal.atomic_numbers,
        positions=crystal.positions,
        formula=_text(row.get("formula")) or crystal.formula,
        gpt_text=texts[0],
        gpt_explanation=texts[1],
        text=papers,
        questions={name: statements for name, statements in questions.items() if statements},
        properties=_properties(row),
    )


def _csv_table(path: Path) -> pa.Table:
    as_text = (*ID_COLUMNS, *CRYSTAL_COLUMNS, *TEXT_COLUMNS, *QUESTIONS, "formula")
    return pa.csv.read_csv(
        path,
        read_options=pa.csv.ReadOptions(block_size=CSV_BLOCK_BYTES),
        parse_options=pa.csv.ParseOptions(newlines_in_values=True),  # a CIF has many
        convert_options=pa.csv.ConvertOptions(
            column_types=dict.fromkeys(as_text, pa.string()), null_values=CSV_MISSING
        ),
    )


def _json_rows(path: Path, wanted: Wanted) -> Iterator[Any]:
    """Each value of the lines or of the list."""
    seen: set[str] = set()
    number = 0
    for row in _json_lines(path) if path.suffix == ".jsonl" else _json_list(path):
        if isinstance(row, dict):
            seen.update(row)
        number += 1
        # Keys may be left out of a row, so columns are missing only once all rows are seen.
        yield row
    if number == 0:
        raise DataError(f"{path} has no rows. Give a file with data.")
    _check_columns(path, seen, wanted)


def _json_lines(path: Path) -> Iterator[Any]:
    """Empty lines count as no row."""
    with open(path, "rb") as file:
        for number, line in enumerate(filter(bytes.strip, file)):
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{path}, row {number} is not JSON ({error}). Mend that line."
                ) from error


def _json_list(path: Path) -> list[Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}). Check that it is whole.") from error
    if not isinstance(values, list):
        raise DataError(f"{path} holds no list of objects. Convert it to one, or to .jsonl.")
    return values


def _wanted(needs_text: bool, needs_crystal: bool) -> Wanted:
    crystal = ("a crystal", (CRYSTAL_COLUMNS, ARRAY_COLUMNS[:1]))
    text = ("a text", (TEXT_COLUMNS,))
    return (*([crystal] if needs_crystal else []), *([text] if needs_text else []))


def _check_columns(path: Path, names: Iterable[str], wanted: Wanted) -> None:
    names = set(names)
    for what, groups in wanted:
        if not any(names & set(group) for group in groups):
            raise DataError(
                f"{path} has no column for {what} ({' or '.join(groups[0])}); its columns are "
                f"{', '.join(sorted(names))}. Rename or add one."
            )


def _crystal(row: Mapping[str, Any]) -> Crystal:
    if (atoms := _parsed(row.get("atoms"))) is not None:
        if not isinstance(atoms, Mapping):
            raise CrystalError("Its atoms are no dict with lattice_mat, elements and coords.")
        if not isinstance(atoms.get("elements"), list | tuple):
            raise CrystalError('The atoms have no list "elements". Add it.')
        return Crystal.from_atoms(atoms)
    if _text(row.get("cif")):
        return Crystal.from_cif(row["cif"])
    if all(row.get(name) is not None for name in ARRAY_COLUMNS):
        return _crystal_of_arrays(*(row[name] for name in ARRAY_COLUMNS))
    raise CrystalError("It has neither atoms nor a CIF.")


def _crystal_of_arrays(lattice: Any, atomic_numbers: Any, frac_coords: Any) -> Crystal:
    try:
        cell = np.reshape(np.asarray(lattice, np.float64), (3, 3))
        fractional = np.reshape(np.asarray(frac_coords, np.float64), (-1, 3))
        numbers = np.asarray(atomic_numbers, np.int32)
    except (TypeError, ValueError) as error:
        raise CrystalError(
            f"Its lattice, atomic_numbers or frac_coords are no such arrays: {error}."
        ) from error
    return Crystal(cell, numbers, fractional @ cell)


def _parsed(value: Any) -> Any:
    """A nested value, also where a table holds it as JSON or as a Python literal."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue  # the two last: nested without end
    raise DataError(f"{value[:40]!r}... is neither JSON nor a Python literal")


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


def _strings(value: Any, name: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise DataError(f"its {name} is no list of texts")
    return tuple(value)


def _papers(value: Any) -> tuple[tuple[str, ...], ...]:
    """A list of paragraph lists; a plain string is one paragraph."""
    if isinstance(value, str):
        value = _papers_of_text(value.strip())
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise DataError("its text is no list of paragraph lists")
    return tuple(
        (entry,) if isinstance(entry, str) else _strings(entry, "text entry") for entry in value
    )


def _papers_of_text(text: str) -> list[Any]:
    if not text.startswith("["):
        return [text] if text else []
    try:
        parsed = _parsed(text)
    except DataError:  # a text that begins with a citation: "[1] reports ..."
        return [text]
    return parsed if isinstance(parsed, list) else [text]


def _properties(row: Mapping[str, Any]) -> dict[str, float]:
    """Numbers by column; text counts as a number only where the column is a known property."""
    found = {}
    for name, value in row.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if name in PROPERTIES or (is_number and name not in RESERVED):
            number = _number(value)
            if number is not None:
                found[name] = number
    return found


def _number(value: Any) -> float | None:
    """A finite float, or None where the value is missing ("na" in some public files)."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
