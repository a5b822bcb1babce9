"""Comparison of evaluated models: figures side by side, and paired bootstrap over examples.

Models are compared example by example, joined by `material_id`, never by the order of rows. The
first model is the one that the others are compared with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from clac_jax.config.schema import flatten
from clac_jax.evaluation.intervals import Difference, Estimate, Resampling, paired
from clac_jax.evaluation.results import Results, ResultsError
from clac_jax.tasks.metrics import Ranks

if TYPE_CHECKING:
    import pyarrow as pa

KS = (1, 10)
KEYS = ("material_id", "item")
"""Columns that identify a row; tables with several rows per crystal have an `item`."""

# Settings of a run that change where and how it runs, not what it computes.
_PLACES = ("distributed.", "logging.", "dataset.data_dir", "compilation_cache")


@dataclass(frozen=True)
class Comparison:
    """One measure of two models on the same examples.

    Attributes:
        table: name of the table with the examples ("ranks").
        measure: name of the measure ("text_to_crystal top1").
        higher_is_better: whether a positive difference is an improvement.
        values: the measure of the first and of the other model.
        difference: measure of the other model minus that of the first.
        other: number of the other model.
        resamples: number of draws.
    """

    table: str
    measure: str
    higher_is_better: bool
    values: tuple[float, float]
    difference: Difference
    other: int
    resamples: int

    @property
    def p_better(self) -> float:
        """Share of the draws in which the other model is better than the first."""
        p = self.difference.p_positive
        return p if self.higher_is_better else 1 - p

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON."""
        return {
            "table": self.table,
            "measure": self.measure,
            "higher_is_better": self.higher_is_better,
            "first": self.values[0],
            "other": self.values[1],
            "p_better": self.p_better,
            **self.difference.to_json(),
        }


def config_differences(models: Sequence[Results]) -> list[tuple[str, list[Any]]]:
    """(dotted key, value of each model) for the keys whose values are not all equal."""
    flat = [flatten(model.config) for model in models]
    keys = sorted(set().union(*flat))
    rows = [(key, [values.get(key) for values in flat]) for key in keys]
    return [
        (key, values)
        for key, values in rows
        if not key.startswith(_PLACES) and any(value != values[0] for value in values)
    ]


def figures_of(content: Mapping[str, Any]) -> dict[str, Estimate]:
    """Slash path in `tasks` -> each figure of an eval.json that has an interval."""

    def walk(value: Any, path: str) -> Iterator[tuple[str, Estimate]]:
        if not isinstance(value, dict):
            return
        if {"value", "low", "high", "n"} <= value.keys():
            middle, low, high = (
                float("nan") if value[k] is None else float(value[k])
                for k in ("value", "low", "high")
            )
            yield path, Estimate(middle, low, high, int(value["n"]))
            return
        for name, below in value.items():
            yield from walk(below, f"{path}/{name}" if path else name)

    return dict(walk(content["tasks"], ""))


def check_pools(models: Sequence[Results], common: bool = False) -> None:
    """Refuses models that were evaluated on different data, unless `common` is set.

    Raises:
        ResultsError: the data differ.
    """
    evaluated = [model for model in models if model.is_evaluated]
    for other in evaluated[1:]:
        first, data, new = evaluated[0], evaluated[0].content["data"], other.content["data"]
        if data["fingerprint"] != new["fingerprint"] and not common:
            raise ResultsError(
                f"{first.name} was evaluated on {_described(data)}, and {other.name} on "
                f"{_described(new)}, so their figures cannot be compared. Evaluate both on the "
                "same data, or add --common to compare them on the crystals that both have."
            )


def compare(first: Results, other: Results, number: int, how: Resampling) -> list[Comparison]:
    """Compares two models example by example.

    Args:
        first: the model to compare with.
        other: the model to compare; its differences are "other minus first".
        number: number of the other model, kept in the result.
        how: number of resamples and their seed. Entire compositions are drawn.

    Returns:
        One comparison per measure that both have; see `measures_of`.

    Raises:
        ResultsError: the tables of examples cannot be read, joined, or have no crystal in common.
    """
    tables, others = first.examples(), other.examples()
    if not tables.keys() & others.keys():
        raise ResultsError(
            f"{first.folder} has rows of examples for {_names(tables)}, and {other.folder} for "
            f"{_names(others)}, so nothing can be compared. Evaluate both models with the same "
            "tasks; models for different tasks cannot be compared."
        )
    found = []
    for name in tables:
        if name not in others:
            continue
        a, b = _rows(tables[name], first), _rows(others[name], other)
        shared = [key for key in a if key in b]
        if not shared:
            raise ResultsError(
                f"{first.name} and {other.name} have no example of {name}.parquet in common. "
                "Evaluate both on the same data."
            )
        left, right = (
            measures_of(table.take([rows[key] for key in shared]))
            for table, rows in ((tables[name], a), (others[name], b))
        )
        groups = np.asarray(tables[name].column("formula").to_pylist())[[a[k] for k in shared]]
        drawn = Resampling(how.resamples, how.seed, groups)
        for measure, (values, is_higher_better) in left.items():
            if measure in right:
                new = right[measure][0]
                found.append(
                    Comparison(
                        name,
                        measure,
                        is_higher_better,
                        (float(values.mean()), float(new.mean())),
                        paired(new, values, resampling=drawn),
                        number,
                        how.resamples,
                    )
                )
    return found


def measures_of(table: pa.Table) -> dict[str, tuple[np.ndarray, bool]]:
    """The measures that a table of examples contains, from the names of its columns.

    `rank_X` with `tied_X` give "X top1", "X top10" and "X mean rank"; `credit_X` (higher is better)
    and `error_X` (lower is better) give "X".

    Returns:
        Measure -> (value of each example, whether higher is better); means are compared.
    """
    found: dict[str, tuple[np.ndarray, bool]] = {}
    for column in table.column_names:
        kind, _, name = column.partition("_")
        if kind == "rank" and f"tied_{name}" in table.column_names:
            fair, tied = (table.column(c).to_numpy() for c in (column, f"tied_{name}"))
            ranks = Ranks(np.rint(fair - 1 - tied / 2).astype(np.int64), tied)
            found |= {f"{name} top{k}": (ranks.credit(k), True) for k in KS}
            found[f"{name} mean rank"] = (np.asarray(fair), False)
        elif kind in ("credit", "error"):
            values = np.asarray(table.column(column).to_numpy(), np.float64)
            found[name] = (values, kind == "credit")
    return found


def _rows(table: pa.Table, model: Results) -> dict[tuple[Any, ...], int]:
    """Key of each row -> its number.

    Raises:
        ResultsError: two rows have the same key, or there is no key.
    """
    if not {"material_id", "formula"} <= set(table.column_names):
        raise ResultsError(
            f"A parquet file of {model.folder} has no columns material_id and formula. Run "
            "`clac-jax evaluate` again."
        )
    keys = [table.column(key).to_pylist() for key in KEYS if key in table.column_names]
    rows = {key: number for number, key in enumerate(zip(*keys, strict=True))}
    if len(rows) != table.num_rows:
        raise ResultsError(
            f"{model.folder} has several rows with one material_id, so examples cannot be matched. "
            "Give the crystals of the data set unique ids and evaluate again."
        )
    return rows


def _names(tables: Mapping[str, Any]) -> str:
    return ", ".join(tables) or "nothing"


def _described(data: Mapping[str, Any]) -> str:
    return (
        f"the {data['split']} split of {data['name']} ({data['size']} crystals, fingerprint "
        f"{data['fingerprint'][:12]})"
    )
