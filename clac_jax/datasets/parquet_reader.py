"""Reader of parquet tables: in batches of rows, and only the columns in use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from clac_jax.datasets.columns import (
    ID_COLUMNS,
    READ_BYTES,
    RESERVED,
    RequiredColumns,
    UnreadableRow,
    check_columns,
    check_repeated_names,
    unreadable,
)
from clac_jax.datasets.record import PROPERTIES, DataError

BATCH_ROWS = 64  # a row may take megabytes


def parquet_rows(path: Path, required: RequiredColumns) -> Iterator[Any]:
    """The rows of a file; see `readers.read_table`."""
    try:
        # With a buffer, the column of a row group is not read completely into memory.
        with pa.parquet.ParquetFile(path, buffer_size=READ_BYTES) as file:
            schema = file.schema_arrow
            names = schema.names
            used = [field.name for field in schema if _is_used(field)]
            check_columns(path, names, required)
            check_repeated_names(path, used)
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=used):
                yield from _batch_rows(batch)
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise unreadable(path, error) from error


def _is_used(field: pa.Field) -> bool:
    kind = field.type
    is_number = any(
        test(kind) for test in (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    )
    return field.name in RESERVED or field.name in PROPERTIES or is_number


def _batch_rows(batch: pa.RecordBatch) -> Iterator[Any]:
    """The rows of a batch; row by row if some value cannot be converted."""
    try:
        yield from batch.to_pylist()
        return
    except (pa.ArrowException, ValueError, OverflowError):
        pass  # reported below, for the rows that have it
    for number in range(batch.num_rows):
        row, problem = {}, ""
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                row[name] = column[number].as_py()
            except UnicodeDecodeError:
                problem = problem or f"its {name} is not UTF-8"
            except (pa.ArrowException, ValueError, OverflowError) as error:
                problem = problem or f"its {name} cannot be read ({error})"
        named = (str(row[key]) for key in ID_COLUMNS if row.get(key) not in (None, ""))
        yield UnreadableRow(problem, next(named, None)) if problem else row
