"""What a task of the evaluation returns: figures in numbers, tables, drawings and examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clac_jax.evaluation.intervals import Estimate

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Table:
    """A table of the report; cells are text, see `percent` and `decimal`.

    Attributes:
        caption: what the table shows, in a few words.
        columns: heading of each column; the first names the rows.
        rows: the cells of each row.
        note: a sentence below the table; "": none.
        in_terminal: whether the command line prints it; the report has all tables.
    """

    caption: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""
    in_terminal: bool = True


@dataclass(frozen=True)
class Drawing:
    """A figure of the report, drawn when the report is written.

    Attributes:
        name: file name without suffix, unique in the section.
        caption: what the figure shows.
        alt: the same for readers who cannot see it, with the numbers that matter.
        draw: draws into an empty matplotlib figure.
        size: width and height, inches.
    """

    name: str
    caption: str
    alt: str
    draw: Callable[[Figure], None]
    size: tuple[float, float] = (6.4, 4.0)


@dataclass(frozen=True)
class Section:
    """The result of one task.

    Attributes:
        name: the name in `--tasks` and in eval.json.
        title: heading in the report.
        intro: what was measured and how to read it, in plain sentences.
        tables: tables, the most important first.
        figures: drawings.
        values: plain JSON for eval.json; each figure with its pool, baseline and interval.
        examples: name -> one row per example, written as `NAME.parquet`, with the columns
            `material_id` and `formula`, and `item` where a crystal has several rows. `clac-jax
            compare` joins rows by `material_id` and `item` and compares the means of all columns
            named `credit_...` (higher is better), `error_...` (lower is better) or `rank_...`
            (1 = first, next to `tied_...`).
    """

    name: str
    title: str
    intro: str
    tables: list[Table]
    figures: list[Drawing] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    examples: dict[str, pa.Table] = field(default_factory=dict)


def percent(value: Estimate | float, digits: int = 1) -> str:
    """A share as "88.1 [85.6, 90.5]" or "88.1", in percent without the sign."""
    return decimal(value.scaled(100) if isinstance(value, Estimate) else 100 * value, digits)


def decimal(value: Estimate | float, digits: int = 2) -> str:
    """A number as "0.52 [0.47, 0.57]" or "0.52"; "-" if it is not finite."""
    if not isinstance(value, Estimate):
        return _text(value, digits)
    if not value.low <= value.high:  # NaN: no intervals were computed
        return _text(value.value, digits)
    return f"{_text(value.value, digits)} [{_text(value.low, digits)}, {_text(value.high, digits)}]"


def _text(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if abs(value) < float("inf") else "-"
