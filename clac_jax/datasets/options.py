"""Options for building a data set from a table of the user."""

from __future__ import annotations

from dataclasses import dataclass, fields

from clac_jax.datasets.record import DataError

ON_BAD_ROW = ("error", "skip")
SPLIT_BY = ("row", "formula")
ON_FORMULA_MISMATCH = ("refuse", "take")


@dataclass(frozen=True)
class TableOptions:
    """Options that, together with the table, determine the records.

    Attributes:
        on_bad_row: "error" rejects the table and lists its bad rows; "skip" omits them and lists
            them in `skipped_rows.jsonl` next to the splits.
        split_by: how to split a single file: "row" shuffles the rows with a fixed seed, as the
            public data set does; "formula" keeps all rows of a compound in one split.
        on_formula_mismatch: how to handle a CIF whose sites do not match its formula sum: "refuse"
            treats it as a bad row; "take" uses the crystal and lists it in
            `formula_mismatches.jsonl` next to the splits.
        label: name of a property; rows without it are omitted and counted. "" requires none.

    Raises:
        DataError: an option has an unknown value.
    """

    on_bad_row: str = "error"
    split_by: str = "row"
    label: str = ""
    on_formula_mismatch: str = "refuse"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("on_bad_row", ON_BAD_ROW),
            ("split_by", SPLIT_BY),
            ("on_formula_mismatch", ON_FORMULA_MISMATCH),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise DataError(f"Unknown {name} {value!r}. Use one of {', '.join(allowed)}.")

    def key(self) -> str:
        """A string that identifies the values of all options."""
        return repr([(field.name, getattr(self, field.name)) for field in fields(self)])


DEFAULTS = TableOptions()
