"""How a user's table becomes records: the options that its build takes."""

from __future__ import annotations

from dataclasses import dataclass, fields

from clac_jax.datasets.record import DataError

ON_BAD_ROW = ("error", "skip")
SPLIT_BY = ("row", "formula")
ON_FORMULA_MISMATCH = ("refuse", "take")


@dataclass(frozen=True)
class TableOptions:
    """What decides, beside the content of the table, which records are written.

    Attributes:
        on_bad_row: "error" refuses the table and names its bad rows; "skip" leaves them out and
            lists them in `skipped_rows.jsonl` beside the splits.
        split_by: of a single file: "row" (seeded shuffle, the rule of the public data set) or
            "formula" (no compound on two sides).
        on_formula_mismatch: of a CIF whose sites are not the atoms of its own formula sum: "refuse"
            makes it a bad row; "take" uses the crystal as it is and lists it in
            `formula_mismatches.jsonl` beside the splits.
        label: a property; rows where it is not known are left out and counted. "": none is needed.

    Raises:
        DataError: an option has a value that does not exist.
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
                raise DataError(f"There is no {name} {value!r}. Use one of {', '.join(allowed)}.")

    def key(self) -> str:
        """A text that is different for different options."""
        return repr([(field.name, getattr(self, field.name)) for field in fields(self)])


DEFAULTS = TableOptions()
