"""All transforms by name, and their texts: "transpose(1, 0) | stack(0)"."""

from __future__ import annotations

import ast

from clac_jax.errors import UserError, one_line
from clac_jax.surgery.moving import Fuse, Reshape, Split, Stack, Transpose, Unstack
from clac_jax.surgery.resizing import Cut, Fill, Interpolate, Merge, Pad, Repeat, Scale
from clac_jax.surgery.rows import AddMeans, Vocabulary
from clac_jax.surgery.transform import Chain, Shape, Target, Transform
from clac_jax.surgery.widening import Widen

__all__ = ["TRANSFORMS", "Chain", "Shape", "Target", "Transform", "TransformError", "parse"]

TRANSFORMS: dict[str, type[Transform]] = {
    kind.name: kind
    for kind in (
        Transpose,
        Reshape,
        Pad,
        Cut,
        Repeat,
        Merge,
        Scale,
        Fill,
        Interpolate,
        AddMeans,
        Vocabulary,
        Widen,
        Stack,
        Unstack,
        Fuse,
        Split,
    )
}


class TransformError(UserError, ValueError):
    """The text of a transform cannot be read."""


def parse(text: str) -> Transform:
    """The transform that a text describes, such as "transpose(1, 0)" or "pad(0) | stack(0)".

    Raises:
        TransformError: it cannot be read; the message names the text and what there is.
    """
    try:
        body = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _error(text, "it is not of the form name(numbers)") from error
    members: list[ast.expr] = []
    while isinstance(body, ast.BinOp) and isinstance(body.op, ast.BitOr):
        members.append(body.right)
        body = body.left
    members.append(body)
    found = tuple(_single(text, member) for member in reversed(members))
    return found[0] if len(found) == 1 else Chain(found)


def _single(text: str, call: ast.expr) -> Transform:
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.keywords:
        raise _error(text, "it is not of the form name(numbers)")
    if call.func.id not in TRANSFORMS:
        raise _error(text, f"there is no transform {one_line(call.func.id, 40)}")
    kind = TRANSFORMS[call.func.id]
    try:
        arguments = [ast.literal_eval(argument) for argument in call.args]
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise _error(text, "its arguments are not plain numbers") from error
    try:
        return kind.of(*arguments)
    except (TypeError, ValueError) as error:
        reason = one_line(error)
        raise _error(text, f"{reason}, as in {kind.example}") from error


def _error(text: str, reason: str) -> TransformError:
    known = ", ".join(kind.example for kind in TRANSFORMS.values())
    return TransformError(
        f"The transform {one_line(repr(text), 120)} cannot be used: {reason}. "
        f"Use one of {known}, or several separated by |."
    )
