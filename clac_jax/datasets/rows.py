"""Rows of a user's table to records, with what is wrong reported by row.

A row is untrusted: every value has one strict reading here. None and NaN (what pandas writes for
None) mean that it is missing; anything else that is not of its kind makes the row a bad one.
"""

from __future__ import annotations

import ast
import math
import numbers
import warnings
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np

from clac_jax.crystals import cif
from clac_jax.crystals.crystal import Crystal
from clac_jax.crystals.numbers import CrystalError
from clac_jax.datasets.options import DEFAULTS, TableOptions
from clac_jax.datasets.readers import (
    ARRAY_COLUMNS,
    ID_COLUMNS,
    RESERVED,
    RepeatedKeyError,
    UnreadableRow,
    loads,
    repeated_key,
)
from clac_jax.datasets.record import PROPERTIES, QUESTIONS, DataError, Record, is_unicode, shortened

# The largest integer that a float of a table holds exactly, as numbers of rows and of files are.
_MAX_EXACT = 2**53
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def row_name(row: Any) -> str | None:
    """The id of a row, None if it has none that can be read."""
    if isinstance(row, UnreadableRow):
        return row.id
    if not isinstance(row, Mapping):
        return None
    for column in ID_COLUMNS:
        value = _decoded(row.get(column))
        if isinstance(value, float) and value.is_integer() and abs(value) < _MAX_EXACT:
            return str(int(value))  # an integer, in a column that has gaps
        is_name = isinstance(value, str | numbers.Number | Decimal) and not is_missing(value)
        if is_name and (name := str(value).strip()):
            return name
    return None


def record_of_row(
    row: Any,
    number: int = 0,
    needs_text: bool = True,
    options: TableOptions = DEFAULTS,
    remarks: list[str] | None = None,
) -> Record:
    """One row as a checked record.

    Args:
        row: column name -> value, see `Record`. The crystal is `atoms` (a dict, or its JSON or
            Python text), `cif`, or the three ARRAY_COLUMNS. Every other column with a number is a
            property.
        number: of the row, its name when it has no id.
        needs_text: whether it must have a text.
        options: of the table.
        remarks: gets a sentence on what is wrong with the row and was taken as the options say.

    Raises:
        DataError: it cannot be read, is without a text that it needs, or has a column that holds
            something else.
        CrystalError: without a crystal, or what it has is not one.
    """
    if isinstance(row, UnreadableRow):
        raise DataError(row.reason)
    if not isinstance(row, Mapping):
        raise DataError("it is not a JSON object with the columns as keys")
    with np.errstate(all="ignore"):  # numbers out of range are reported by the checks
        crystal, mismatch = _crystal(row, options)
        crystal = _stored(crystal)
    if mismatch and remarks is not None:
        remarks.append(mismatch)
    texts = [_text(row.get(name), name) for name in ("gpt_text", "gpt_explanation")]
    papers = _papers(row.get("text"))
    has_text = any(texts) or any(paragraph.strip() for entry in papers for paragraph in entry)
    if needs_text and not has_text:
        raise DataError("its text is empty")
    questions = {name: _strings(_parsed(row.get(name), name), name) for name in QUESTIONS}
    return Record(
        material_id=_unicode(_id(row) or f"row {number}", "id"),
        lattice=crystal.lattice,
        atomic_numbers=crystal.atomic_numbers,
        positions=crystal.positions,
        formula=_text(row.get("formula"), "formula") or crystal.formula,
        gpt_text=texts[0],
        gpt_explanation=texts[1],
        text=papers,
        questions={name: statements for name, statements in questions.items() if statements},
        properties=_properties(row),
    )


def is_missing(value: Any) -> bool:
    """Whether a value of a table stands for none: None, or NaN, which pandas writes for it."""
    return value is None or (isinstance(value, numbers.Number | Decimal) and value != value)


def _id(row: Mapping[str, Any]) -> str | None:
    for column in ID_COLUMNS:
        value = row.get(column)
        if isinstance(value, Mapping | list | tuple | bool):
            raise DataError(f"its {column} is not a text or a number")
    return row_name(row)


def _crystal(row: Mapping[str, Any], options: TableOptions) -> tuple[Crystal, str]:
    """The crystal, and how it differs from the formula sum of its CIF, if that is taken."""
    if (atoms := _parsed(row.get("atoms"), "atoms")) is not None:
        if not isinstance(atoms, Mapping):
            raise CrystalError("Its atoms are not a dict with lattice_mat, elements and coords.")
        return Crystal.from_atoms(atoms), ""
    if text := _text(row.get("cif"), "cif"):
        read = cif.read(text)
        is_taken = options.on_formula_mismatch == "take"
        return (read.crystal, read.mismatch) if is_taken else (read.checked(), "")
    if not any(is_missing(row.get(name)) for name in ARRAY_COLUMNS):
        arrays = (_parsed(row[name], name) for name in ARRAY_COLUMNS)
        return Crystal.from_arrays(*arrays), ""
    raise CrystalError(
        "It has neither atoms nor a CIF, nor all of " + ", ".join(ARRAY_COLUMNS) + "."
    )


def _stored(crystal: Crystal) -> Crystal:
    """The crystal with single precision, as it is stored and will be checked in training.

    Raises:
        CrystalError: a number is too large for that, or atoms fall together by it.
    """
    arrays = {
        name: getattr(crystal, name).astype(np.float32).astype(np.float64)
        for name in ("lattice", "positions")
    }
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise CrystalError("Its cell or coordinates are larger than 3e38. Check them and the unit.")
    return crystal.replace(**arrays)


def _parsed(value: Any, name: str) -> Any:
    """A nested value, also where a table holds it as JSON or as a Python literal; or None."""
    value = _decoded(value)
    if not isinstance(value, str):
        return None if is_missing(value) else value
    if not value.strip():
        return None
    for parse in (loads, _literal):
        try:
            parsed = parse(value)
        except RepeatedKeyError as error:
            raise DataError(f"its {name} cannot be read: {error}") from error
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue  # the two last: nested without end
        return None if is_missing(parsed) else parsed
    raise DataError(f"its {name}, {shortened(value, 40)!r}, is neither JSON nor a Python literal")


def _literal(text: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler, on what looks like a mistake
        tree = ast.parse(text.strip(), mode="eval")
        for node in ast.walk(tree):
            if isinstance(node, ast.Dict):
                keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
                if len(set(keys)) < len(keys):
                    raise repeated_key(keys)
        return ast.literal_eval(tree)


def _decoded(value: Any) -> Any:
    """Text where a table holds its UTF-8 bytes."""
    if not isinstance(value, bytes):
        return value
    return value.decode("utf-8", "surrogateescape")


def _text(value: Any, name: str) -> str:
    """A text; a list of texts is its paragraphs; "" where it is missing.

    Raises:
        DataError: it is something else.
    """
    value = _decoded(value)
    if is_missing(value):
        return ""
    if isinstance(value, list | tuple):
        return " ".join(part for part in map(str.strip, _strings(value, name)) if part)
    if not isinstance(value, str):
        raise DataError(f"its {name} is not a text ({shortened(str(value), 40)})")
    return _unicode(value.strip(), name)


def _strings(value: Any, name: str) -> tuple[str, ...]:
    if is_missing(value):
        return ()
    values = [_decoded(item) for item in value] if isinstance(value, list | tuple) else [None]
    texts = [item for item in values if isinstance(item, str)]
    if len(texts) < len(values):
        raise DataError(f"its {name} is not a list of texts")
    return tuple(_unicode(text, name) for text in texts)


def _unicode(text: str, name: str) -> str:
    """The text, if it can be stored.

    Raises:
        DataError: it was read from bytes that are not UTF-8, or has half of a surrogate pair.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        bad = text[error.start]
        what = "a byte that is not UTF-8" if "\udc80" <= bad <= "\udcff" else "half a character"
        raise DataError(f"its {name} has {what} ({bad!a}, letter {error.start})") from error
    return text


def _papers(value: Any) -> tuple[tuple[str, ...], ...]:
    """A list of paragraph lists; a plain string is one paragraph."""
    value = _decoded(value)
    if isinstance(value, str):
        value = _papers_of_text(value.strip())
    if is_missing(value):
        return ()
    if not isinstance(value, list | tuple):
        raise DataError("its text is not a list of paragraph lists")
    return tuple(
        _strings((entry,) if isinstance(entry, str | bytes) else entry, "text entry")
        for entry in value
    )


def _papers_of_text(text: str) -> list[Any]:
    if not text.startswith("["):
        return [text] if text else []
    try:
        parsed = _parsed(text, "text")
    except DataError:  # a text that begins with a citation: "[1] reports ..."
        return [text]
    return parsed if isinstance(parsed, list) else [text]


def _properties(row: Mapping[str, Any]) -> dict[str, float]:
    """Numbers by column; text counts as a number only where the column is a known property."""
    found = {}
    for name, value in row.items():
        is_number = isinstance(value, numbers.Real | Decimal)
        # A column whose name is not Unicode cannot be asked for either.
        if name in PROPERTIES or (is_number and name not in RESERVED and is_unicode(name)):
            number = _number(value)
            if number is not None:
                found[name] = number
    return found


def _number(value: Any) -> float | None:
    """A number, or None where it is not known ("na" in some public files) or is not such a number.

    Models learn with single precision, so what that cannot hold is not one.
    """
    if isinstance(value, bool | np.bool_):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and abs(number) <= _FLOAT32_MAX else None
