"""The language of `--where`: conditions on the columns of an index.

    band_gap > 3 and not has('Pb') and n_atoms < 20
    1 < band_gap <= 3 and crystal_system in ['cubic', 'hexagonal'] or formula == 'TiO2'

The text is parsed as a Python expression, of which a short list of forms is accepted and translated
to Arrow's compute functions; nothing is evaluated as Python. A missing value (null or NaN) makes a
comparison neither true nor false, as in SQL: `not (band_gap > 3)` does not match a row without a
band gap. Only rows for which the entire condition is true match.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clac_jax.crystals.elements import atomic_number, is_symbol, symbol
from clac_jax.errors import UserError, one_line
from clac_jax.index.columns import contains, kind_of, kind_of_type, known
from clac_jax.index.constants import Constant, constant_of, reduced_formula
from clac_jax.input_pipeline.labels import CRYSTAL_SYSTEMS

MAX_CHARACTERS = 20_000
FUNCTIONS = "has('O'), only('Li', 'O') and is_null(column)"

MAX_DEPTH = 100
"""Conditions inside conditions; also protects the stack from hostile text."""

_TOO_DEEP = "The condition is nested too deeply. Write it with fewer parentheses."
_ELEMENTS = "elements"
_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "equal",
    ast.NotEq: "not_equal",
    ast.Lt: "less",
    ast.LtE: "less_equal",
    ast.Gt: "greater",
    ast.GtE: "greater_equal",
}
_MIRRORED = {
    "less": "greater",
    "less_equal": "greater_equal",
    "greater": "less",
    "greater_equal": "less_equal",
}

Compute = Callable[[pa.Table], Any]
"""A table -> (rows,) Arrow array; of bool for a condition, null where neither true nor false."""


class FilterError(UserError, ValueError):
    """A condition cannot be parsed, or does not fit the columns of the index."""


@dataclasses.dataclass(frozen=True)
class Filter:
    """A condition that fits the columns of an index.

    Attributes:
        text: the condition as given.
        columns: names of the columns that it reads.
    """

    text: str
    columns: tuple[str, ...]
    _compute: Compute

    def mask(self, table: pa.Table) -> np.ndarray:
        """(rows,) bool, whether the condition is true for each row of a table with `columns`."""
        truth = self._compute(table)
        return np.asarray(pc.fill_null(truth, False).to_numpy(zero_copy_only=False), bool)


def parse(text: str, schema: pa.Schema) -> Filter:
    """Parses a condition.

    Args:
        text: the condition, such as "band_gap > 3 and not has('Pb')".
        schema: columns of the index with their types: numbers, booleans, strings, and the list of
            strings `elements`.

    Raises:
        FilterError: it is not a condition, names an unknown column, or compares a column with a
            value of a different type; the message shows where.
    """
    if len(text) > MAX_CHARACTERS:
        raise FilterError(
            f"The condition has {len(text):,} characters. Use at most {MAX_CHARACTERS:,}."
        )
    if not text.strip():
        raise FilterError("The condition is empty. Write one such as band_gap > 3.")
    source = re.sub(r"[\r\n\f]", " ", text.strip())  # line breaks would end the expression
    try:
        tree = ast.parse(source, mode="eval")
        translator = _Translator(source, schema)
        compute = translator.condition(tree.body)
    except SyntaxError as error:
        # Offset 0 is that of an expression that ends too early.
        column = min(error.offset - 1, len(source)) if error.offset else len(source)
        reason = "write == to compare" if source[column : column + 1] == "=" else _reason(error)
        problem = f"this is not a condition ({reason})"
        advice = "Write comparisons joined by and, or, not."
        raise _located(source, column, problem, advice) from error
    except (RecursionError, MemoryError) as error:  # from the parser
        raise FilterError(_TOO_DEEP) from error
    except ValueError as error:
        if isinstance(error, FilterError):
            raise
        # ast.parse: null characters, or integers of thousands of digits
        raise FilterError(
            f"The condition cannot be read: {one_line(error)}. Correct it."
        ) from error
    return Filter(text, tuple(sorted(translator.used)), compute)


def _reason(error: SyntaxError) -> str:
    """The parser's words, without its advice on Python's operators."""
    words = str(error.msg)
    return "the number is too long" if "digits" in words else words.split(". ")[0]


def _located(source: str, column: int, problem: str, advice: str) -> FilterError:
    """The error for a place in a condition, which is shown with a caret below it."""
    start = max(0, column - 60)
    shown = source[start : column + 20]
    return FilterError(
        f"The condition is wrong at character {column + 1}: {problem}. {advice}\n"
        f"  {shown}\n  {' ' * (column - start)}^"
    )


class _Translator:
    """Translates the tree of one condition to functions of a table."""

    def __init__(self, source: str, schema: pa.Schema):
        self._source = source
        self._schema = schema
        self.used: set[str] = set()

    def condition(self, node: ast.expr, depth: int = 0) -> Compute:
        if depth > MAX_DEPTH:
            raise FilterError(_TOO_DEEP)
        if isinstance(node, ast.BoolOp):
            join = pc.and_kleene if isinstance(node.op, ast.And) else pc.or_kleene
            return _joined(join, [self.condition(value, depth + 1) for value in node.values])
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self.condition(node.operand, depth + 1)
            return lambda table: pc.invert(inner(table))
        if isinstance(node, ast.Compare):
            return self._comparisons(node)
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.Name) and self._kind(node) == "true or false":
            return self._column(node)
        if isinstance(node, ast.Name):
            problem = f"{node.id} is {self._kind(node)}, not true or false"
            raise self._error(node, problem, f"Compare it, as in {self._example(node)}.")
        raise self._error(
            node, "this is not a condition", f"Use comparisons, and, or, not, {FUNCTIONS}."
        )

    def _comparisons(self, node: ast.Compare) -> Compute:
        """`a < b < c` is `a < b and b < c`."""
        sides = [node.left, *node.comparators]
        parts = [
            self._comparison(sides[place], operator, sides[place + 1])
            for place, operator in enumerate(node.ops)
        ]
        return _joined(pc.and_kleene, parts)

    def _comparison(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> Compute:
        if isinstance(operator, ast.In | ast.NotIn):
            return self._membership(left, isinstance(operator, ast.NotIn), right)
        if isinstance(operator, ast.Is | ast.IsNot):
            raise self._error(
                left,
                "`is` is not supported",
                "Use == to compare, or is_null(column) for missing values.",
            )
        name = _COMPARISONS[type(operator)]
        if isinstance(left, ast.Name) and isinstance(right, ast.Name):
            return self._two_columns(left, name, right)
        if isinstance(right, ast.Name):
            left, name, right = right, _MIRRORED.get(name, name), left
        if not isinstance(left, ast.Name):
            raise self._error(
                left, "a comparison needs a column", f"The columns are {self._names()}."
            )
        value = self._value(left, right)
        if isinstance(value, str | bool) and name in _MIRRORED:
            raise self._error(
                left, f"{left.id} is {self._kind(left)}, which has no order", "Use ==, != or in."
            )
        column, scalar = self._column(left), pa.scalar(value)
        return lambda table: pc.call_function(name, [column(table), scalar])

    def _two_columns(self, left: ast.Name, name: str, right: ast.Name) -> Compute:
        kinds = self._kind(left), self._kind(right)
        if kinds[0] != kinds[1] or _ELEMENTS in (left.id, right.id):
            raise self._error(
                left,
                f"{left.id} is {kinds[0]} and {right.id} is {kinds[1]}",
                "Compare columns of one kind.",
            )
        if kinds[0] != "a number" and name in _MIRRORED:
            raise self._error(left, f"{left.id} is {kinds[0]}, which has no order", "Use == or !=.")
        first, second = self._column(left), self._column(right)
        return lambda table: pc.call_function(name, [first(table), second(table)])

    def _membership(self, left: ast.expr, is_negated: bool, right: ast.expr) -> Compute:
        if isinstance(right, ast.Name) and right.id == _ELEMENTS:
            raise self._error(right, "elements is a list", "Write has('O').")
        if not isinstance(left, ast.Name):
            raise self._error(
                left,
                "`in` needs a column on its left",
                "Write it as in crystal_system in ['cubic', 'hexagonal'].",
            )
        if not isinstance(right, ast.List | ast.Tuple | ast.Set) or not right.elts:
            raise self._error(
                right,
                "`in` needs a list of values on its right",
                "Write it as in crystal_system in ['cubic', 'hexagonal'].",
            )
        values = [self._value(left, item) for item in right.elts]
        column = self._column(left)
        # The type of the column decides: 2 and 2.0 are the same band gap.
        value_set = pa.array(values, pa.float64()) if self._is_number(left) else pa.array(values)

        def compute(table: pa.Table) -> Any:
            found = column(table)
            known = pc.is_in(found, value_set=value_set)
            known = pc.invert(known) if is_negated else known
            return pc.if_else(pc.is_valid(found), known, pa.scalar(None, pa.bool_()))

        return compute

    def _call(self, node: ast.Call) -> Compute:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in ("has", "only", "is_null") or node.keywords:
            raise self._error(
                node, "this function is not supported", f"The functions are {FUNCTIONS}."
            )
        if name == "is_null":
            if len(node.args) != 1 or not isinstance(node.args[0], ast.Name):
                raise self._error(
                    node, "is_null takes one column", f"The columns are {self._names()}."
                )
            self._kind(node.args[0])
            column = self._column(node.args[0])
            return lambda table: pc.is_null(column(table))
        if _ELEMENTS not in self._schema.names:
            raise self._error(
                node, "this index has no column elements", f"The columns are {self._names()}."
            )
        symbols = frozenset(self._symbol(argument) for argument in node.args)
        if not symbols:
            raise self._error(node, f"{name} needs an element", f"Write {name}('O').")
        self.used.add(_ELEMENTS)
        return lambda table: contains(table.column(_ELEMENTS), symbols, is_only=name == "only")

    def _symbol(self, node: ast.expr) -> str:
        """An element's symbol, in quotes or without."""
        text = node.id if isinstance(node, ast.Name) else getattr(node, "value", None)
        if not isinstance(text, str) or not is_symbol(text):
            shown = ast.get_source_segment(self._source, node) or "this"
            advice = "Write a symbol such as 'Ti'; several are separated by commas."
            if isinstance(text, str) and is_symbol(text.capitalize()):
                advice = f"Write '{text.capitalize()}'."
            raise self._error(node, f"{one_line(shown, 40)} is not an element", advice)
        return symbol(atomic_number(text))  # deuterium is stored as hydrogen

    def _value(self, column: ast.Name, node: ast.expr) -> Constant:
        """A constant of the column's type."""
        kind = self._kind(column)
        if column.id == _ELEMENTS:
            raise self._error(column, "elements is a list", "Write has('O') or only('O').")
        try:
            value = constant_of(node)
        except ValueError as error:
            raise self._error(
                node,
                str(error),
                "Compare a column with a number, a text in quotes, or another column.",
            ) from error
        if kind != kind_of(value):
            problem = f"{column.id} is {kind}, and is compared with {kind_of(value)}"
            raise self._error(node, problem, f"Write it as in {self._example(column)}.")
        if column.id == "formula":
            formula = reduced_formula(str(value))
            if formula is None:
                raise self._error(
                    node,
                    f"{one_line(value, 40)!r} is not a formula",
                    "Write one such as 'TiO2' or 'Ca3(PO4)2'.",
                )
            return formula
        if column.id == "crystal_system":
            return self._crystal_system(node, str(value))
        if isinstance(value, float | int) and not isinstance(value, bool):
            return float(value)
        return value

    def _crystal_system(self, node: ast.expr, value: str) -> str:
        if value.lower() in CRYSTAL_SYSTEMS:
            return value.lower()
        raise self._error(
            node,
            f"{one_line(value, 40)!r} is not a crystal system",
            f"There are {', '.join(CRYSTAL_SYSTEMS)}.",
        )

    def _column(self, node: ast.Name) -> Compute:
        self._kind(node)
        self.used.add(node.id)
        return lambda table: known(table.column(node.id))

    def _kind(self, node: ast.Name) -> str:
        """The kind of a column's values, in words.

        Raises:
            FilterError: there is no such column.
        """
        if node.id not in self._schema.names:
            close = difflib.get_close_matches(node.id.lower(), self._schema.names, 2, 0.6)
            hint = f"Did you mean {' or '.join(close)}? " if close else ""
            if is_symbol(node.id):
                hint = f"Did you mean has('{node.id}')? "
            raise self._error(
                node,
                f"there is no column {one_line(node.id, 40)}",
                f"{hint}The columns are {self._names()}.",
            )
        kind = kind_of_type(self._schema.field(node.id).type)
        if kind is None and node.id != _ELEMENTS:
            raise self._error(
                node, f"{node.id} is a list of numbers", f"Use one of the columns {self._names()}."
            )
        return kind or "a list"

    def _is_number(self, node: ast.Name) -> bool:
        return self._kind(node) == "a number"

    def _names(self) -> str:
        return ", ".join(
            field.name
            for field in self._schema
            if kind_of_type(field.type) is not None or field.name == _ELEMENTS
        )

    def _example(self, node: ast.Name) -> str:
        examples = {"formula": "formula == 'TiO2'", "crystal_system": "crystal_system == 'cubic'"}
        by_kind = {"a number": " > 3", "text": " == 'mp-149'", "a list": ""}
        if node.id == _ELEMENTS:
            return "has('O')"
        return examples.get(node.id, node.id + by_kind.get(self._kind(node), " == True"))

    def _error(self, node: ast.expr, problem: str, advice: str) -> FilterError:
        # Offsets of the tree count bytes of UTF-8.
        column = len(self._source.encode()[: node.col_offset].decode(errors="ignore"))
        return _located(self._source, column, problem, advice)


def _joined(join: Callable[[Any, Any], Any], parts: Sequence[Compute]) -> Compute:
    def compute(table: pa.Table) -> Any:
        truth = parts[0](table)
        for part in parts[1:]:
            truth = join(truth, part(table))
        return truth

    return compute
