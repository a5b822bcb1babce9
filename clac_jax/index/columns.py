"""Columns of an index as the conditions of `--where` see them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def known(column: pa.ChunkedArray) -> Any:
    """A column with null in place of NaN."""
    if not pa.types.is_floating(column.type):
        return column
    return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)


def contains(column: pa.ChunkedArray, symbols: frozenset[str], is_only: bool) -> Any:
    """Whether each list has all of the symbols; with `is_only`, none besides them."""
    value_set = pa.array(sorted(symbols))
    parts = [pa.array([], pa.bool_())]
    for chunk in column.chunks:
        is_listed = pc.is_in(pc.list_flatten(chunk), value_set=value_set)
        parents = pc.list_parent_indices(chunk).to_numpy(zero_copy_only=False)
        counts = np.bincount(parents[np.asarray(is_listed)], minlength=len(chunk))
        if is_only:
            lengths = pc.fill_null(pc.list_value_length(chunk), 0)
            matches = counts == lengths.to_numpy(zero_copy_only=False)
        else:
            matches = counts == len(symbols)
        parts.append(pa.array(matches, pa.bool_(), mask=np.asarray(pc.is_null(chunk))))
    return pa.chunked_array(parts)


def kind_of(value: Any) -> str:
    """The kind of a constant, in the words of `kind_of_type`."""
    if isinstance(value, bool):
        return "true or false"
    return "text" if isinstance(value, str) else "a number"


def kind_of_type(kind: pa.DataType) -> str | None:
    """The kind of a column's values, in words; None if they cannot be compared."""
    if pa.types.is_boolean(kind):
        return "true or false"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "a number"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    return None
