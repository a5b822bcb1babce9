"""Constants in the conditions of `--where`: numbers, texts, and chemical formulas."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable

from clac_jax.crystals.formulas import conventional, counts_in

Constant = float | int | str | bool

_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


def constant_of(node: ast.expr) -> Constant:
    """The value of a literal, or of arithmetic with numbers (`2 * 1.5`).

    Arithmetic is that of float64, so no expression takes long.

    Raises:
        ValueError: the node is anything else, or its value is not a finite number.
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | str):
        value = node.value
        return value if isinstance(value, bool | str) else _finite(value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        number = _number(node.operand)
        return -number if isinstance(node.op, ast.USub) else number
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        left, right = _number(node.left), _number(node.right)
        try:
            result = _ARITHMETIC[type(node.op)](left, right)
        except (OverflowError, ZeroDivisionError) as error:
            raise ValueError("this number cannot be computed") from error
        if isinstance(result, complex):
            raise ValueError("this number cannot be computed")
        return _finite(result)
    raise ValueError("this is not a constant")


def _number(node: ast.expr) -> float:
    value = constant_of(node)
    if isinstance(value, bool | str):
        raise ValueError("this is arithmetic with something that is not a number")
    return float(value)


def _finite(value: float) -> float:
    try:
        number = float(value)
    except OverflowError as error:
        raise ValueError("this number is too large") from error
    if not math.isfinite(number):
        raise ValueError("this number is too large")
    return number


def reduced_formula(text: str) -> str | None:
    """A formula in the form of the column `formula` of an index.

    This is `clac_jax.crystals.formulas.conventional`: "O2Ti" gives "TiO2", "Ca3(PO4)2" gives
    "Ca3P2O8". Counts are integers and groups are in () or []; None if it is not such a formula.
    """
    counts = counts_in("".join(text.split()), r"\d{0,6}")
    if counts is None:
        return None
    return conventional({symbol: int(count) for symbol, count in counts.items()})
