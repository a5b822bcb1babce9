"""Conversion of the rows of a user's table to records; errors are reported per row.

Rows are untrusted, so every value is parsed strictly. None, NaN (which pandas writes for None) and
such words as text mean that a value is missing; any other value of the wrong type makes the row a
bad row.
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
from clac_jax.datasets.columns import ARRAY_COLUMNS, ID_COLUMNS, MISSING, RESERVED, UnreadableRow
from clac_jax.datasets.json_reader import RepeatedKeyError, loads, repeated_key
from clac_jax.datasets.options import DEFAULTS, TableOptions
from clac_jax.datasets.record import PROPERTIES, QUESTIONS, DataError, Record, is_unicode, shortened

# Integers up to this size are exact in a float64 column.
_MAX_EXACT = 2**53
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def row_name(row: Any) -> str | None:
    """The id of a row; None if it is missing or unreadable."""
    if isinstance(row, UnreadableRow):
        return row.id
    if not isinstance(row, Mapping):
        return None
    for column in ID_COLUMNS:
        value = _decoded(row.get(column))
        if isinstance(value, float) and value.is_integer() and abs(value) < _MAX_EXACT:
            return str(int(value))  # an integer id in a column with missing values
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
    """Converts one row to a checked record.

    The coordinates are rounded to float32, as they are used in training.

    Args:
        row: column name -> value, see `Record`. The crystal is in `atoms` (a dict, or a dict as
            JSON or Python literal), in `cif`, or in the three ARRAY_COLUMNS. Every other column
            with numbers is a property.
        number: index of the row, which names it if it has no id.
        needs_text: whether a text is required.
        options: options of the table.
        remarks: receives a sentence on a problem that the options tolerate.

    Raises:
        DataError: the row is unreadable, lacks a required text, or has a value of the wrong type.
        CrystalError: the crystal is missing or invalid.
    """
    if isinstance(row, UnreadableRow):
        raise DataError(row.reason)
    if not isinstance(row, Mapping):
        raise DataError("it is not a JSON object with the columns as keys")
    with np.errstate(all="ignore"):  # numbers out of range are reported by the checks
        crystal, mismatch = _crystal(row, options)
        crystal = _rounded(crystal)
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
    """Whether a value of a table is missing: None, NaN, or a text that stands for them."""
    if isinstance(value, str):
        return value.strip() in MISSING
    return value is None or (isinstance(value, numbers.Number | Decimal) and value != value)


def _id(row: Mapping[str, Any]) -> str | None:
    for column in ID_COLUMNS:
        value = row.get(column)
        if isinstance(value, Mapping | list | tuple | bool):
            raise DataError(f"its {column} is neither a string nor a number")
    return row_name(row)


def _crystal(row: Mapping[str, Any], options: TableOptions) -> tuple[Crystal, str]:
    """The crystal, and how it differs from the formula sum of its CIF if that is tolerated."""
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


def _rounded(crystal: Crystal) -> Crystal:
    """The crystal rounded to float32, the precision of training.

    Raises:
        CrystalError: a number overflows, or atoms coincide after rounding.
    """
    arrays = {
        name: getattr(crystal, name).astype(np.float32).astype(np.float64)
        for name in ("lattice", "positions")
    }
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise CrystalError("Its cell or coordinates are larger than 3e38. Check them and the unit.")
    return crystal.replace(**arrays)


def _parsed(value: Any, name: str) -> Any:
    """A nested value, decoded if it is text with JSON or a Python literal; None if missing."""
    value = _decoded(value)
    if is_missing(value):
        return None
    if not isinstance(value, str):
        return value
    for parse in (loads, _literal):
        try:
            parsed = parse(value)
        except RepeatedKeyError as error:
            raise DataError(f"its {name} cannot be read: {error}") from error
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue  # the last two: nested too deeply
        return None if is_missing(parsed) else parsed
    raise DataError(f"its {name}, {shortened(value, 40)!r}, is neither JSON nor a Python literal")


def _literal(text: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler, about suspicious literals
        tree = ast.parse(text.strip(), mode="eval")
        for node in ast.walk(tree):
            if isinstance(node, ast.Dict):
                keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
                if len(set(keys)) < len(keys):
                    raise repeated_key(keys)
        return ast.literal_eval(tree)


def _decoded(value: Any) -> Any:
    """The value, decoded from UTF-8 if it is bytes."""
    if not isinstance(value, bytes):
        return value
    return value.decode("utf-8", "surrogateescape")


def _text(value: Any, name: str) -> str:
    """A text; a list of strings is joined as paragraphs; "" if the value is missing.

    Raises:
        DataError: the value has the wrong type.
    """
    value = _decoded(value)
    if is_missing(value):
        return ""
    if isinstance(value, list | tuple):
        return " ".join(part for part in map(str.strip, _paragraphs(value, name)) if part)
    if not isinstance(value, str):
        raise DataError(f"its {name} is not a string ({shortened(str(value), 40)})")
    return _unicode(value.strip(), name)


def _strings(value: Any, name: str) -> tuple[str, ...]:
    if is_missing(value):
        return ()
    values = [_decoded(item) for item in value] if isinstance(value, list | tuple) else [None]
    texts = [item for item in values if isinstance(item, str)]
    if len(texts) < len(values):
        raise DataError(f"its {name} is not a list of strings")
    return tuple(_unicode(text, name) for text in texts)


def _paragraphs(value: Any, name: str) -> tuple[str, ...]:
    """The strings of a text; those that stand for a missing value are left out."""
    return tuple(text for text in _strings(value, name) if not text.strip() or not is_missing(text))


def _unicode(text: str, name: str) -> str:
    """The text, if it can be encoded as UTF-8.

    Raises:
        DataError: it was decoded from bytes that are not UTF-8, or has a lone surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        bad = text[error.start]
        what = "a byte that is not UTF-8" if "\udc80" <= bad <= "\udcff" else "a lone surrogate"
        raise DataError(f"its {name} has {what} ({bad!a} at position {error.start})") from error
    return text


def _papers(value: Any) -> tuple[tuple[str, ...], ...]:
    """Entries of paragraphs; a plain string is a single paragraph."""
    value = _decoded(value)
    if is_missing(value):
        return ()
    if isinstance(value, str):
        value = _papers_of_text(value.strip())
    if not isinstance(value, list | tuple):
        raise DataError("its text is not a list of lists of paragraphs")
    return tuple(
        _paragraphs((entry,) if isinstance(entry, str | bytes) else entry, "text entry")
        for entry in value
    )


def _papers_of_text(text: str) -> list[Any]:
    if not text.startswith("["):
        return [text]
    try:
        parsed = _parsed(text, "text")
    except DataError:  # a text that begins with a citation: "[1] reports ..."
        return [text]
    return parsed if isinstance(parsed, list) else [text]


def _properties(row: Mapping[str, Any]) -> dict[str, float]:
    """Numeric columns by name; numbers written as text count only in known property columns."""
    found = {}
    for name, value in row.items():
        is_number = isinstance(value, numbers.Real | Decimal)
        # A name that is not valid Unicode could not be selected in the config.
        if name in PROPERTIES or (is_number and name not in RESERVED and is_unicode(name)):
            number = _number(value)
            if number is not None:
                found[name] = number
    return found


def _number(value: Any) -> float | None:
    """A number that is finite in float32; None for anything else, such as "na" in JARVIS."""
    value = _decoded(value)
    # Python accepts "1_000"; data files do not mean it.
    if isinstance(value, bool | np.bool_) or (isinstance(value, str) and "_" in value):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and abs(number) <= _FLOAT32_MAX else None
