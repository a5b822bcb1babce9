"""The results of the check as Markdown tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Row = Mapping[str, Any]


def report(content: Row) -> str:
    """The JSON content that tools/gpu_check.py writes, as Markdown."""
    parts = content["parts"]
    lines = [f"# GPU check, {content['size']} size", ""]
    lines += _table(
        ("part", "outcome", "seconds"),
        [(name, part["outcome"], f"{part['seconds']:.0f}") for name, part in parts.items()],
    )
    for name, part in parts.items():
        lines += ["", f"## {name.replace('_', ' ').capitalize()}", ""]
        if part["error"]:
            what, *details = part["error"].splitlines()
            lines += [f"Not finished: {what}", ""]
            lines += ["```", *details, "```", ""] if details else []
        if part["result"]:
            lines += _WRITERS.get(name, _facts)(part["result"])
    return "\n".join(lines) + "\n"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    dashes = ("---",) * len(header)
    return [f"| {' | '.join(row)} |" for row in (header, dashes, *rows)]


def _facts(result: Row) -> list[str]:
    return _table(("", ""), [(name.replace("_", " "), _cell(x)) for name, x in result.items()])


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_cell(x)}" for name, x in value.items())
    if isinstance(value, list):
        return ", ".join(map(_cell, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _parity(rows: list[Row]) -> list[str]:
    precisions = list(dict.fromkeys(row["precision"] for row in rows))
    by_fixture: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_fixture.setdefault(row["fixture"], {})[row["precision"]] = row

    def cell(row: Row | None) -> str:
        if row is None:
            return ""
        errors = (row["forward"], row["gradient"], row["all_gradients"])
        text = " / ".join(f"{error:.0e}" for error in errors)
        judged = row["precision"] == "float32" and not row["within_bars"]
        return f"**{text}** ({row['worst_gradient']})" if judged else text

    lines = [
        "Relative errors against PyTorch: largest of an output / largest of a gradient / all",
        "gradients as one vector. Bold: above the bars of the parity tests, 2e-5 and 2e-4, which",
        "are for float32; the worst gradient is named.",
        "",
    ]
    table = [
        (fixture, *(cell(cells.get(precision)) for precision in precisions))
        for fixture, cells in by_fixture.items()
    ]
    return lines + _table(("fixture", *precisions), table)


def _step(result: Row) -> list[str]:
    timed = {**result["parts"], "training step": result["step"]}
    rows = [
        (name, f"{1e3 * times['min_s']:.1f}", f"{1e3 * times['median_s']:.1f}")
        for name, times in timed.items()
    ]
    note = (
        "Random weights; 16 examples, two views of both, default precision. "
        f"Compilation {result['compile_s']:.1f} s; one large product "
        f"{result['large_product_gflop_per_s'] / 1e3:.2f} TFLOP/s."
    )
    if "floor_gflop" in result:
        note += (
            f" {result['gflop_per_s_of_floor'] / 1e3:.2f} TFLOP/s of the "
            f"{result['floor_gflop']:.0f} GFLOP floor. The text encoder has MiniLM's sizes."
        )
    return [note, "", *_table(("part", "min ms", "median ms"), rows)]


def _throughput(rows: list[Row]) -> list[str]:
    def cells(row: Row) -> tuple[str, ...]:
        start = row["precision"], str(row["examples"])
        if not row.get("fits", True):
            return (*start, "does not fit", "", "", "", "", "")
        mfu = "unknown" if row["mfu"] is None else f"{row['mfu']:.1%}"
        return (
            *start,
            f"{row['examples_per_s']:.1f}",
            f"{1e3 * row['min_s']:.1f}",
            f"{row['tflop_per_s']:.2f}",
            mfu,
            f"{row['memory_gib']:.2f}",
            f"{row['compile_s']:.1f}",
        )

    header = ("precision", "examples", "examples/s", "step, ms", "TFLOP/s in products", "MFU")
    note = (
        "MFU: operations by XLA's cost analysis, or those of the matrix products if there is none, "
        "over the device's peak in that precision; unknown where the table of peaks lacks it."
    )
    table = _table((*header, "memory, GiB", "compile, s"), [cells(row) for row in rows])
    return [note, "", *table]


_WRITERS: dict[str, Callable[[Any], list[str]]] = {
    "parity": _parity,
    "step": _step,
    "throughput": _throughput,
}
