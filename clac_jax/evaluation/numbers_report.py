"""The section on numbers: tables and drawings of what `numbers` measures."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from clac_jax.evaluation.estimates import plain
from clac_jax.evaluation.numbers import (
    MIN_SENTENCES,
    OTHER_CRYSTALS,
    SIZES,
    Compared,
    Grid,
    joined,
    measure,
)
from clac_jax.evaluation.pool import Pool
from clac_jax.evaluation.quantities import Quantity
from clac_jax.evaluation.section import Drawing, Section, Table, decimal, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ALL = "all"


def numbers_understood(pool: Pool) -> Section:
    """The task: similarity of sentences that differ in one number, and which a crystal prefers."""
    measured = measure(pool)
    place = {"split": pool.split, "crystals": len(pool.records)}
    if not measured:
        return Section(
            "numbers",
            "Numbers understood?",
            f"Fewer than {MIN_SENTENCES} texts of the {pool.split} split state a number that the "
            "data know, for any property, so there is nothing to change.",
            tables=[],
            values={"pool": place, "properties": {}},
        )
    how = pool.by_formula
    parts = {name: compared for name, (_, compared, _) in measured.items()}
    estimates = {name: compared.estimates(how) for name, compared in parts.items()}
    together = joined(list(parts.values())).estimates(how)
    grids = {name: grid for name, (_, _, grid) in measured.items() if grid is not None}
    for name, grid in grids.items():
        estimates[name]["grid"] = {"values": grid.values, "spearman": grid.spearman}
    intro = (
        "In sentences of the texts that state a property, only the number is changed, by "
        f"{SIZES[0]} to {SIZES[-1]:g} standard deviations of the property (of the values between "
        "its 5th and 95th percentile) up or down, within the range of the data. If numbers are "
        "understood, the cosine of the two sentences falls as the change grows (Spearman ρ near "
        "-1; 0 if there is no order), and the crystal prefers the sentence with its own number "
        f"(chance 50 %). Other crystals: the same sentences and {OTHER_CRYSTALS} other crystals "
        f"each; what they prefer, the wording reveals. Pool: {len(pool.records)} crystals of the "
        f"{pool.split} split. Intervals (95 %) from a bootstrap over compositions."
    )
    return Section(
        "numbers",
        "Numbers understood?",
        intro,
        tables=[_property_table(estimates, together), _size_table(together)],
        figures=[
            _drawing(measured, together),
            *([_grid_drawing(measured, grids)] if grids else []),
        ],
        values={
            "pool": place,
            "sizes": list(SIZES),
            "chance": 0.5,
            "other_crystals": OTHER_CRYSTALS,
            "all": plain(together),
            "properties": plain(estimates),
        },
    )


def _property_table(estimates: dict[str, Any], together: dict[str, Any]) -> Table:
    def row(name: str, values: dict[str, Any]) -> tuple[str, ...]:
        grid = values.get("grid")
        return (
            name,
            str(values["sentences"]),
            decimal(values["spearman"]),
            "-" if grid is None else decimal(grid["spearman"]),
            percent(values["accuracy"]),
            percent(values["other_crystals"].value),
            percent(values["by_size"][SIZES[-1]]["accuracy"].value),
        )

    return Table(
        "By property",
        (
            "property", "texts", "ρ of cosine and change", "ρ, queries", "own number preferred (%)",
            "by other crystals (%)", f"at {SIZES[-1]:g} standard deviations (%)",
        ),
        [*(row(name, values) for name, values in estimates.items()), row(_ALL, together)],
        note="ρ, queries: the same for “The ... of this material is ...” with evenly spaced "
        "values, over all pairs. Chance: ρ = 0, 50 %.",
    )  # fmt: skip


def _size_table(together: dict[str, Any]) -> Table:
    return Table(
        "By size of the change, all properties",
        (
            "standard deviations", "changes", "median cosine", "own number preferred (%)",
            "by other crystals (%)",
        ),
        [
            (
                f"{size:g}",
                str(values["accuracy"].n),
                decimal(values["median_similarity"], 3),
                percent(values["accuracy"]),
                percent(values["other_crystals"].value),
            )
            for size, values in together["by_size"].items()
        ],
        note="A change that is less than the last decimal of a sentence is left out, so small "
        "changes have fewer sentences.",
    )  # fmt: skip


def _drawing(
    measured: dict[str, tuple[Quantity, Compared, Grid | None]], together: dict[str, Any]
) -> Drawing:
    described = ", ".join(
        f"{size:g}: {percent(values['accuracy'].value)} %"
        for size, values in together["by_size"].items()
    )
    return Drawing(
        "changes",
        "Left: cosine of a sentence and the same with another number, by the change; medians per "
        "property. Right: how often the crystal prefers its own number, all properties, with 95 % "
        "intervals.",
        f"Curves by size of the change. Own number preferred at {described}.",
        functools.partial(_draw, measured=measured, together=together),
        size=(9.0, 4.0),
    )


def _draw(
    figure: Figure,
    measured: dict[str, tuple[Quantity, Compared, Grid | None]],
    together: dict[str, Any],
) -> None:
    left, right = figure.subplots(1, 2)
    for number, (name, (_, compared, _)) in enumerate(measured.items()):
        sizes = [size for size in SIZES if (compared.sizes == size).any()]
        medians = [np.median(compared.similarity[compared.sizes == size]) for size in sizes]
        left.plot(
            sizes, medians, marker="o", ms=3, lw=1, label=name, color=f"C{number % 10}",
            ls="-" if number < 10 else "--",
        )  # fmt: skip
    left.set(xscale="log", xlabel="change (standard deviations)", ylabel="cosine of the sentences")
    left.legend(frameon=False, fontsize=6)
    sizes = list(SIZES)
    for key, label, color in (
        ("accuracy", "its own crystal", "#3b7dd8"),
        ("other_crystals", "other crystals", "#e07b39"),
    ):
        estimates = [together["by_size"][size][key].scaled(100) for size in sizes]
        middle = np.array([e.value for e in estimates])
        ends = [middle - [e.low for e in estimates], [e.high for e in estimates] - middle]
        right.errorbar(
            sizes, middle, np.maximum(ends, 0), fmt="o-", ms=3, capsize=3, color=color, label=label
        )  # fmt: skip
    right.axhline(50, color="#8a8f98", ls=":", label="chance")
    right.set(
        xscale="log", xlabel="change (standard deviations)", ylabel="own number preferred (%)",
        ylim=(30, 100),
    )  # fmt: skip
    right.legend(frameon=False, fontsize=8)


def _grid_drawing(
    measured: dict[str, tuple[Quantity, Compared, Grid | None]], grids: dict[str, Grid]
) -> Drawing:
    described = "; ".join(f"{name}: ρ = {decimal(grid.spearman)}" for name, grid in grids.items())
    columns = min(4, len(grids))
    lines = -(-len(grids) // columns)
    return Drawing(
        "grids",
        "Cosine of queries that differ in their number only (“The ... of this material is ...”).",
        f"One matrix of cosines per property, by the two values. {described}.",
        functools.partial(_draw_grids, measured=measured, grids=grids, shape=(lines, columns)),
        size=(2.4 * columns, 2.4 * lines),
    )


def _draw_grids(
    figure: Figure,
    measured: dict[str, tuple[Quantity, Compared, Grid | None]],
    grids: dict[str, Grid],
    shape: tuple[int, int],
) -> None:
    axes = figure.subplots(*shape, squeeze=False)
    for axis in axes.ravel()[len(grids) :]:
        axis.set_axis_off()
    for axis, (name, grid) in zip(axes.ravel(), grids.items(), strict=False):
        quantity = measured[name][0]
        axis.imshow(grid.cosines, origin="lower", cmap="viridis")
        ends = [0, len(grid.values) - 1]
        labels = [f"{grid.values[k]:.{quantity.decimals}f}" for k in ends]
        axis.set_xticks(ends, labels, fontsize=7)
        axis.set_yticks(ends, labels, fontsize=7)
        axis.set_title(f"{quantity.noun}\nρ = {decimal(grid.spearman)}", fontsize=7)
