"""The section on inverse design: tables and drawings of what `inverse_design` measures."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from clac_jax.evaluation.estimates import plain
from clac_jax.evaluation.inverse_design import PAIR_TARGETS, TARGET_RANGE, Found, K, measure
from clac_jax.evaluation.pool import Pool
from clac_jax.evaluation.quantities import MIN_KNOWN, Quantity, quantities_of
from clac_jax.evaluation.section import Drawing, Section, Table, decimal, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SEARCHERS = ("crystals", "text only")
_COLORS = {"crystals": "#3b7dd8", "text only": "#e07b39", "best possible": "#4e9a58"}
_PAIR_COLUMNS = {
    "both": "both",
    "sum": "sum",
    "first only": "first only",
    "second only": "second only",
    "both, text only": "both, text only",
    "random": "random",
    "best possible": "best possible",
}


def design(pool: Pool) -> Section:
    """The task: retrieval of crystals by target values, thresholds and pairs of values."""
    results = measure(pool)
    quantities = {quantity.name: quantity for quantity in quantities_of(pool.records)}
    place = {"split": pool.split, "crystals": len(pool.records), "k": K}
    if not quantities:
        return Section(
            "inverse_design",
            "Inverse design",
            f"No numeric property is known for at least {MIN_KNOWN} crystals of the {pool.split} "
            f"split, which has {len(pool.records)}, so there is nothing to ask for.",
            tables=[],
            values={"pool": place},
        )
    intro = (
        f"Queries such as “A material with a band gap of 2.00 eV.” rank the crystals of the "
        f"{pool.split} split whose value is known ({len(pool.records)} crystals in all), and the "
        f"values of the first {K} are compared with the target. Scores are averaged over three "
        "wordings; all state a number, also where it is zero. Random: any crystals of the same "
        f"pool. Best possible: the {K} crystals that are closest to the target. Text only: the "
        "same queries compared with the crystals' own texts, which state the numbers, instead of "
        "the crystals. Intervals (95 %) from a bootstrap over the compositions retrieved."
    )
    return Section(
        "inverse_design",
        "Inverse design",
        intro,
        tables=[
            _target_table(results["targets"], quantities),
            _threshold_table(results["thresholds"], quantities),
            *([_pair_table(results["pairs"])] if results["pairs"] else []),
        ],
        figures=[_target_drawing(results["targets"], quantities)],
        values={"pool": place, **plain(_without_objects(results))},
    )


def _target_table(targets: dict[str, Any], quantities: dict[str, Quantity]) -> Table:
    rows = []
    for name, result in targets.items():
        digits = quantities[name].decimals
        found = [result.get(searcher) for searcher in _SEARCHERS]
        rows.append(
            (
                _with_unit(quantities[name]),
                str(result["crystals_known"]),
                *("-" if f is None else decimal(f["mae"], digits) for f in found),
                decimal(result["random"]["mae"], digits),
                decimal(result["best possible"]["mae"].value, digits),
                *("-" if f is None else decimal(f["pearson"]) for f in found),
            )
        )
    low, high = TARGET_RANGE
    return Table(
        f"Target values: mean absolute error of the first {K} to the target, and correlation",
        (
            "property", "crystals", "error", "text only", "random", "best possible",
            "r", "r, text only",
        ),
        rows,
        note=f"Targets are evenly spaced from the {low}th to the {high}th percentile of the pool. "
        f"r: Pearson correlation of the targets with the mean value of the first {K}; at random it "
        "is 0 on average. Rank correlations are in eval.json.",
    )  # fmt: skip


def _threshold_table(thresholds: dict[str, Any], quantities: dict[str, Quantity]) -> Table:
    rows = []
    for name, result in thresholds.items():
        if not result["queries"]:
            continue
        found = [result.get(searcher) for searcher in _SEARCHERS]
        by_kind = [
            [q for q in result["queries"] if q["kind"] == kind]
            for kind in ("greater than", "less than")
        ]
        rows.append(
            (
                quantities[name].noun,
                str(len(result["queries"])),
                *("-" if f is None else percent(f["precision"]) for f in found),
                percent(result["base_rate"]),
                percent(result["best possible"]),
                *(
                    f"{percent(_mean(queries, 'precision, crystals'))} / "
                    f"{percent(_mean(queries, 'base_rate'))}"
                    if queries
                    else "-"
                    for queries in by_kind
                ),
            )
        )
    return Table(
        f"Thresholds: share of the first {K} that satisfy “greater than” or “less than”, percent",
        (
            "property", "queries", f"precision at {K}", "text only", "base rate", "best",
            "greater than / base rate", "less than / base rate",
        ),
        rows,
        note="Thresholds at the 50th, 75th and 90th percentile (greater than) and the 50th, 25th "
        "and 10th (less than); those that all or no crystals satisfy are left out.",
    )  # fmt: skip


def _pair_table(pairs: dict[str, Any]) -> Table:
    names = [name for name in _PAIR_COLUMNS if any(name in result for result in pairs.values())]

    def cell(result: dict[str, Any], name: str) -> str:
        if name not in result:
            return "-"
        error = result[name]["error"]
        return decimal(error if name == "both" or isinstance(error, float) else error.value)

    low, middle, high = PAIR_TARGETS
    return Table(
        f"Two values in a query: error of the first {K}, in standard deviations, mean of both",
        ("properties", "crystals", *(_PAIR_COLUMNS[name] for name in names)),
        [
            (pair, str(result["crystals_known"]), *(cell(result, name) for name in names))
            for pair, result in pairs.items()
        ],
        note="Both: a sentence with both values. Sum: the scores of two sentences with one value "
        "each. First only, second only: the query states one of the values. Targets: all "
        f"combinations of the {low}th, {middle}th and {high}th percentile of both, also those that "
        "hardly any crystal has; the best possible shows this. The errors of each property in its "
        "unit are in eval.json.",
    )


def _target_drawing(targets: dict[str, Any], quantities: dict[str, Quantity]) -> Drawing:
    columns = min(3, len(targets))
    lines = math.ceil(len(targets) / columns)
    described = "; ".join(
        f"{name}: r = {decimal(result['crystals']['pearson'].value)}, MAE "
        f"{decimal(result['crystals']['mae'].value, quantities[name].decimals)} (random "
        f"{decimal(result['random']['mae'], quantities[name].decimals)})"
        for name, result in targets.items()
    )
    return Drawing(
        "targets",
        f"Mean and standard deviation of the first {K} crystals by target value. Dashed: equal to "
        "the target. Grey: all crystals, mean and standard deviation.",
        f"One panel per property, retrieved against target. {described}.",
        functools.partial(
            _draw_targets, targets=targets, quantities=quantities, shape=(lines, columns)
        ),
        size=(3.2 * columns, 2.7 * lines),
    )


def _draw_targets(
    figure: Figure,
    targets: dict[str, Any],
    quantities: dict[str, Quantity],
    shape: tuple[int, int],
) -> None:
    axes = figure.subplots(*shape, squeeze=False)
    for axis in axes.ravel()[len(targets) :]:
        axis.set_axis_off()
    for axis, (name, result) in zip(axes.ravel(), targets.items(), strict=False):
        wanted = result["targets"]
        mean, spread = result["random"]["mean"], result["random"]["std"]
        axis.axhspan(mean - spread, mean + spread, color="#8a8f98", alpha=0.15, lw=0)
        axis.axhline(mean, color="#8a8f98", lw=1)
        axis.plot(wanted, wanted, color="#444444", ls="--", lw=1)
        shift = 0.01 * float(np.ptp(wanted))
        for searcher, sign in (("crystals", -1), ("text only", 1)):
            if searcher not in result:
                continue
            found: Found = result[searcher]["found"]
            axis.errorbar(
                wanted + sign * shift, found.mean, found.spread, fmt="o-", ms=3, lw=1, capsize=2,
                color=_COLORS[searcher], label=searcher,
            )  # fmt: skip
        axis.set_title(_with_unit(quantities[name]), fontsize=9)
        axis.tick_params(labelsize=8)
        top = max(float(np.ptp(wanted)), 1e-9)
        axis.set_ylim(wanted.min() - 0.45 * top, wanted.max() + 0.45 * top)
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.supxlabel("target", fontsize=9)
    figure.supylabel("retrieved", fontsize=9)


def _without_objects(results: dict[str, Any]) -> dict[str, Any]:
    """The results for eval.json: `found` as the mean and spread at each target."""
    targets = {
        name: {
            searcher: (
                {**{k: v for k, v in result.items() if k != "found"},
                 "mean": result["found"].mean, "std": result["found"].spread}
                if isinstance(result, dict) and "found" in result
                else result
            )
            for searcher, result in by_searcher.items()
        }
        for name, by_searcher in results["targets"].items()
    }  # fmt: skip
    return {**results, "targets": targets}


def _mean(queries: list[dict[str, Any]], key: str) -> float:
    return float(np.mean([query[key] for query in queries]))


def _with_unit(quantity: Quantity) -> str:
    return f"{quantity.noun} ({quantity.unit})" if quantity.unit else quantity.noun
