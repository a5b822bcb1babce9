"""`report.png`: a summary of a run in one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clac_jax.files.atomic import replacing
from clac_jax.reporting.goodput import format_time

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GRAY = "#3465a4", "#e07b39", "#4e9a58", "#8a8f98"
SHOWN_PAIRS = 100
TIME_COLORS = {
    "train": BLUE,
    "lost": "#c0392b",
    "down": "#d6d8db",
    "compile": ORANGE,
    "validation": GREEN,
    "test": "#9cc9a3",
    "save_wait": "#8e6bbf",
    "data_wait": "#c9a227",
    "restore": "#5fb3b3",
    "start": "#5b5f66",
}
MIN_SHOWN = 0.01
"""Smallest share of a run's time that is drawn on its own."""
MAX_SMOOTHED = 0.2
"""Largest fraction of a run's rows averaged in one point of a smoothed curve."""


def write_report(
    path: Path,
    rows: Sequence[dict[str, Any]],
    seconds: Mapping[str, float],
    *,
    similarity: np.ndarray,
) -> None:
    """Draws losses, retrieval by epoch and on the test pool, similarities, and where time went.

    Args:
        path: the PNG file.
        rows: the rows of metrics.jsonl.
        seconds: what the run's time went into; see `clac_jax.reporting.goodput`.
        similarity: (N, N) scores of test texts (rows) against test crystals (columns).
    """
    by_split = {
        split: [r for r in rows if r["split"] == split] for split in ("train", "val", "test")
    }
    figure = new_figure(11, 9.3)
    grid = figure.add_gridspec(3, 2, height_ratios=(10, 10, 1))
    axes = [[figure.add_subplot(grid[row, column]) for column in (0, 1)] for row in (0, 1)]
    _draw_time(figure.add_subplot(grid[2, :]), seconds)
    _draw_loss(axes[0][0], by_split["train"], by_split["val"])
    _draw_validation(axes[0][1], by_split["val"])
    if by_split["test"]:
        _draw_test(axes[1][0], by_split["test"][-1])
    _draw_similarity(axes[1][1], similarity[:SHOWN_PAIRS, :SHOWN_PAIRS])
    save_figure(figure, path)


def write_property_report(
    path: Path,
    rows: Sequence[dict[str, Any]],
    seconds: Mapping[str, float],
    *,
    name: str,
    predicted: np.ndarray,
    labels: np.ndarray,
) -> None:
    """Draws the loss curves, the measure by epoch, predictions against labels, and the time.

    Args:
        path: the PNG file.
        rows: the rows of metrics.jsonl.
        seconds: what the run's time went into; see `clac_jax.reporting.goodput`.
        name: name of the property.
        predicted: (N,) predicted values or classes of the test split.
        labels: (N,) values or classes in the data set.
    """
    by_split = {split: [r for r in rows if r["split"] == split] for split in ("train", "val")}
    figure = new_figure(13, 5.0)
    grid = figure.add_gridspec(2, 3, height_ratios=(10, 1))
    axes = [figure.add_subplot(grid[0, column]) for column in range(3)]
    _draw_time(figure.add_subplot(grid[1, :]), seconds)
    _draw_loss(axes[0], by_split["train"], by_split["val"], "validation loss")
    measure = "mae" if any("val_mae" in row for row in by_split["val"]) else "accuracy"
    points = [
        (row["epoch"], row[f"val_{measure}"]) for row in _with(by_split["val"], f"val_{measure}")
    ]
    if points:  # none if the rows of the run were lost
        axes[1].plot(*zip(*points, strict=True), "o-", color=BLUE, ms=4)
    axes[1].set(title=f"Validation {measure.upper()}, {name}", xlabel="epoch")
    if measure == "mae":
        axes[2].plot(labels, predicted, ".", color=BLUE, ms=3)
        axes[2].axline((float(labels.mean()),) * 2, slope=1, color=GRAY, lw=1)
    else:
        size = int(max(labels.max(), predicted.max())) + 1
        table = np.zeros((size, size), int)
        np.add.at(table, (predicted.astype(int), labels.astype(int)), 1)
        image = axes[2].imshow(table, cmap="viridis")
        figure.colorbar(image, ax=axes[2], shrink=0.8)
    axes[2].set(title=f"{len(labels)} unseen crystals", xlabel=f"{name}", ylabel="predicted")
    save_figure(figure, path)


def new_figure(width: float, height: float) -> Figure:
    """A figure with its own canvas; pyplot would also choose a backend for the caller's program."""
    # Slow to import, and most programs draw nothing.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # needs no display
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Writes the PNG atomically.

    Raises:
        WorkdirError: it cannot be written.
    """
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _with(rows: Sequence[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    """The rows that have an epoch and a number under each of the names."""
    return [
        row
        for row in rows
        if all(isinstance(row.get(name), int | float) for name in ("epoch", *names))
    ]


def _smoothed(values: Sequence[float], per_epoch: int) -> np.ndarray:
    """A moving average over the rows of one epoch, with a smaller window at the ends.

    If batches hold similar crystals (`input.group_by`), the loss depends on which crystals they
    hold, and large groups come early in every epoch: the curve is a sawtooth, which averaging over
    an epoch flattens.

    Args:
        values: one value per row.
        per_epoch: number of rows per epoch.
    """
    half = int(min(per_epoch, MAX_SMOOTHED * len(values)) / 2)
    total = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    reach = np.minimum(half, np.minimum(places, places[::-1]))
    return np.asarray((total[places + reach + 1] - total[places - reach]) / (2 * reach + 1))


def _draw_loss(
    axis: Axes,
    train: list[dict[str, Any]],
    val: list[dict[str, Any]],
    label_of_val: str = "validation loss (full texts)",
) -> None:
    """Draws the training loss and its terms, smoothed, and the validation losses."""
    terms = {"loss": BLUE, "cross_modal_loss": ORANGE, "visual_loss": GREEN, "textual_loss": GRAY}
    for name, color in terms.items():
        rows = _with(train, name)
        steps, values = [row["step"] for row in rows], [row[name] for row in rows]
        is_total = name == "loss"
        if not values or not (is_total or any(values)):
            continue
        if is_total:
            axis.plot(steps, values, color=color, lw=0.8, alpha=0.35, zorder=1)
        # The terms are dashed and on top, so that a term that equals the loss leaves both visible.
        style = {"lw": 2.5, "zorder": 2} if is_total else {"lw": 1.2, "ls": "--", "zorder": 3}
        smooth = _smoothed(values, len(rows) // len({row["epoch"] for row in rows}))
        axis.plot(steps, smooth, color=color, label="train " + name.replace("_", " "), **style)
    val = _with(val, "val_loss")
    axis.plot(
        [row["step"] for row in val],
        [row["val_loss"] for row in val],
        "o-",
        color="black",
        ms=4,
        lw=1,
        label=label_of_val,
        zorder=4,
    )
    axis.set(title="Loss (mean over an epoch; single steps in light blue)", xlabel="step")
    axis.set_ylim(0, None)
    axis.legend(frameon=False, fontsize=8)


def _draw_validation(axis: Axes, val: list[dict[str, Any]]) -> None:
    directions = ("text_to_crystal", "crystal_to_text")
    val = _with(val, *(f"{name}_top{k}" for name in directions for k in (1, 3, 10)))
    epochs = [row["epoch"] + 1 for row in val]
    for name, style in (("text_to_crystal", "o-"), ("crystal_to_text", "s--")):
        for k, color in ((1, BLUE), (3, GREEN), (10, ORANGE)):
            values = [100 * row[f"{name}_top{k}"] for row in val]
            label = f"{' → '.join(name.split('_to_'))}, Recall@{k}"
            axis.plot(epochs, values, style, color=color, ms=4, lw=1, label=label)
    pool = val[-1].get("pool_size", 0) if val else 0
    axis.set(
        title=f"Validation retrieval among {pool} crystals",
        xlabel="epochs done",
        ylabel="Recall@k (%)",
        ylim=(0, 101),
        xticks=epochs,
    )
    axis.legend(frameon=False, fontsize=8, loc="lower right")


def _draw_test(axis: Axes, test: dict[str, Any]) -> None:
    variants = (("", "full text", BLUE), ("_no_formula", 'formulas read "material"', ORANGE))
    labels = []
    for group, direction in enumerate(("text_to_crystal", "crystal_to_text")):
        for place, k in enumerate((1, 3, 10)):
            center = group * 3.6 + place
            arrow = " → ".join(direction.split("_to_")) if place == 1 else ""
            labels.append((center, f"@{k}\n{arrow}"))
            for offset, (suffix, label, color) in zip((-0.2, 0.2), variants, strict=True):
                value = 100 * test[f"{direction}_top{k}{suffix}"]
                first_bar = group == place == 0
                axis.bar(center + offset, value, 0.38, color=color, label=label * first_bar)
                axis.text(center + offset, value + 1, f"{value:.0f}", ha="center", fontsize=7)
    centers, names = zip(*labels, strict=True)
    axis.set_xticks(centers, names)
    axis.set(
        title=f"Test retrieval among {test['pool_size']} unseen crystals",
        ylabel="Recall@k (%)",
        ylim=(0, 118),
        yticks=range(0, 101, 20),
    )
    axis.legend(frameon=False, fontsize=8, ncols=2, loc="upper center")


def _draw_time(axis: Axes, seconds: Mapping[str, float]) -> None:
    """Draws what the run's time went into as one bar; small parts are drawn as one."""
    total = sum(seconds.values())
    shown = {name: value for name, value in seconds.items() if value >= MIN_SHOWN * total > 0}
    if rest := total - sum(shown.values()):
        shown["other"] = rest
    left = 0.0
    for name, value in shown.items():
        share = 100 * value / total
        label = f"{name.replace('_', ' ')} {share:.0f}%"
        color = TIME_COLORS.get(name, GRAY)
        axis.barh(0, share, left=left, color=color, ec="white", lw=0.5, label=label)
        left += share
    axis.set(xlim=(0, 100), yticks=[], xticks=[], title=f"Wall-clock time, {format_time(total)}")
    axis.spines[["left", "bottom"]].set_visible(False)
    if shown:
        handles = axis.get_legend_handles_labels()
        axis.legend(
            *handles,
            frameon=False,
            fontsize=8,
            ncols=len(shown),
            loc="upper center",
            bbox_to_anchor=(0.5, 0.05),
        )


def _draw_similarity(axis: Axes, similarity: np.ndarray) -> None:
    image = axis.imshow(similarity, cmap="viridis")
    title = f"Scores (logits), first {len(similarity)} test pairs"
    axis.set(title=title, xlabel="crystal", ylabel="text")
    axis.figure.colorbar(image, ax=axis, shrink=0.8)
