"""Property models: errors of their predictions beside those of simple baselines."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from clac_jax.evaluation.baselines import element_fractions, nearest_class, ridge
from clac_jax.evaluation.intervals import Estimate, bootstrap
from clac_jax.evaluation.pool import PropertyPool
from clac_jax.evaluation.section import Drawing, Section, Table, decimal, percent
from clac_jax.input_pipeline.labels import CRYSTAL_SYSTEM, CRYSTAL_SYSTEMS

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

_RASTERIZED = 2000  # points from which a plot is drawn as an image

Measure = Callable[[np.ndarray], float]
"""(m, 2) predictions and labels -> a measure."""


def mae(pairs: np.ndarray) -> float:
    """Mean absolute error of (m, 2) predictions and labels."""
    return float(np.mean(np.abs(pairs[:, 0] - pairs[:, 1])))


def rmse(pairs: np.ndarray) -> float:
    """Root of the mean squared error of (m, 2) predictions and labels."""
    return float(np.sqrt(np.mean((pairs[:, 0] - pairs[:, 1]) ** 2)))


def r2(pairs: np.ndarray) -> float:
    """Coefficient of determination: 1 - squared error / variance of the labels; NaN if that is 0.

    It is 0 for the mean of these labels, and negative for what is worse.
    """
    total = float(np.sum((pairs[:, 1] - pairs[:, 1].mean()) ** 2))
    error = float(np.sum((pairs[:, 0] - pairs[:, 1]) ** 2))
    return 1 - error / total if total > 0 else float("nan")


def accuracy(pairs: np.ndarray) -> float:
    """Share of (m, 2) predicted classes that equal the labels."""
    return float(np.mean(pairs[:, 0] == pairs[:, 1]))


def macro_f1(pairs: np.ndarray) -> float:
    """Mean over classes of the harmonic mean of precision and recall.

    Over the classes that occur among the labels or predictions; each counts the same, however
    rare it is.
    """
    classes = np.unique(pairs)
    right = pairs[:, 0] == pairs[:, 1]
    scores = []
    for name in classes:
        hits = np.sum(right & (pairs[:, 1] == name))
        scores.append(2 * hits / (np.sum(pairs[:, 0] == name) + np.sum(pairs[:, 1] == name)))
    return float(np.mean(scores))


def confusion(predicted: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """(count, count) int64: number of examples by label (row) and predicted class (column)."""
    table = np.zeros((count, count), np.int64)
    np.add.at(table, (labels.astype(int), predicted.astype(int)), 1)
    return table


def prediction(pool: PropertyPool) -> Section:
    """The task of a property model: its errors, beside a constant and the composition only."""
    return _regression(pool) if pool.is_regression else _classification(pool)


def _regression(pool: PropertyPool) -> Section:
    train = pool.train_labels
    fitted = ridge(element_fractions(pool.train), train, element_fractions(pool.records))
    rows = {
        "model": ("model", pool.predicted),
        "mean": ("mean of the training", np.full(len(pool), train.mean())),
        "composition": ("composition only (ridge regression)", fitted),
    }
    measures: dict[str, Measure] = {"mae": mae, "rmse": rmse, "r2": r2}
    values, tables = _compared(pool, rows, measures, ("MAE", "RMSE", "R²"))
    found = values["by_example"]["model"]
    drawing = Drawing(
        "parity",
        f"Predicted against known {pool.property_name} of {len(pool)} crystals; the line is "
        "equality.",
        f"Parity plot of {len(pool)} crystals: mean absolute error "
        f"{found['mae']['value']:.3g}, R² {_shown(found['r2']['value'])}.",
        functools.partial(_draw_parity, pool=pool),
        (5.0, 4.6),
    )
    return _section(pool, values, tables, drawing, {"composition": fitted})


def _classification(pool: PropertyPool) -> Section:
    train = pool.train_labels
    classes, counts = np.unique(train, return_counts=True)
    major = float(classes[counts.argmax()])
    x, new = element_fractions(pool.train), element_fractions(pool.records)
    near = nearest_class(x, train, new)
    names = _class_names(pool)
    rows = {
        "model": ("model", pool.predicted),
        "majority": (
            f"always {names[int(major)]}, the commonest class",
            np.full(len(pool), major),
        ),
        "composition": ("composition only (5 nearest)", near),
    }
    measures: dict[str, Measure] = {"accuracy": accuracy, "macro_f1": macro_f1}
    values, tables = _compared(pool, rows, measures, ("accuracy (%)", "macro F1 (%)"))
    table = confusion(pool.predicted, pool.labels, len(names))
    values["classes"], values["confusion"] = names, table.tolist()
    tables.append(
        Table(
            "Confusion: number of crystals by known class (row) and predicted class (column)",
            ("known class", *names, "recall (%)"),
            [
                (name, *map(str, row), percent(row[k] / row.sum()) if row.sum() else "-")
                for k, (name, row) in enumerate(zip(names, table, strict=True))
            ],
        )
    )
    drawing = Drawing(
        "confusion",
        "Share of each known class (row) that is predicted as each class (column).",
        "Confusion matrix; the table above has its numbers.",
        functools.partial(_draw_confusion, table=table, names=names),
        (5.6, 4.8),
    )
    return _section(pool, values, tables, drawing, {"composition": near})


def _compared(
    pool: PropertyPool,
    rows: dict[str, tuple[str, np.ndarray]],
    measures: dict[str, Measure],
    headings: tuple[str, ...],
) -> tuple[dict[str, Any], list[Table]]:
    values: dict[str, Any] = {
        "property": pool.property_name,
        "kind": str(pool.model.config.property.kind),
        "size": len(pool),
        "train_size": len(pool.train),
    }
    tables = []
    for key, caption, how in (
        ("by_example", "intervals over examples", pool.resampling),
        ("by_composition", "intervals over compositions", pool.by_formula),
    ):
        values[key], cells = {}, []
        for name, (words, predicted) in rows.items():
            pairs = np.stack([predicted, pool.labels], axis=1)
            found = {
                measure: bootstrap(pairs, function, how.groups, how.resamples, how.seed)
                for measure, function in measures.items()
            }
            values[key][name] = {measure: e.to_json() for measure, e in found.items()}
            cells.append((words, *(_cell(pool, e) for e in found.values())))
        title = f"{pool.property_name} of {len(pool)} crystals, {caption}"
        is_main = how.groups is None
        tables.append(Table(title, ("prediction", *headings), cells, in_terminal=is_main))
    return values, tables


def _section(
    pool: PropertyPool,
    values: dict[str, Any],
    tables: list[Table],
    drawing: Drawing,
    baselines: dict[str, np.ndarray],
) -> Section:
    return Section(
        name="property",
        title=f"Prediction of {pool.property_name}",
        intro=(
            f"Predictions for the {len(pool)} crystals of the {pool.split} split whose "
            f"{pool.property_name} is known. The baselines are fitted on the {len(pool.train)} "
            "labelled crystals of the training split: a constant, and the shares of the elements "
            "without any structure. Intervals are 95 % bootstrap intervals."
        ),
        tables=tables,
        figures=[drawing],
        values=values,
        examples={"predictions": _examples(pool, baselines)},
    )


def _examples(pool: PropertyPool, baselines: dict[str, np.ndarray]) -> pa.Table:
    import pyarrow as pa

    columns: dict[str, Any] = {
        "material_id": [record.material_id for record in pool.records],
        "formula": pool.formulas,
        "label": pool.labels,
        "predicted": pool.predicted,
        **{f"predicted_by_{name}": values for name, values in baselines.items()},
    }
    if pool.is_regression:
        columns["error_prediction"] = np.abs(pool.predicted - pool.labels)
    else:
        columns["credit_prediction"] = (pool.predicted == pool.labels).astype(np.float64)
    return pa.table(columns)


def _class_names(pool: PropertyPool) -> list[str]:
    if pool.property_name == CRYSTAL_SYSTEM:
        return list(CRYSTAL_SYSTEMS)
    count = int(max(pool.labels.max(), pool.predicted.max(), pool.train_labels.max())) + 1
    return [f"class {k}" for k in range(count)]


def _cell(pool: PropertyPool, estimate: Estimate) -> str:
    return decimal(estimate, 3) if pool.is_regression else percent(estimate)


def _shown(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def _draw_parity(figure: Figure, pool: PropertyPool) -> None:
    axis = figure.subplots()
    rasterized = len(pool) > _RASTERIZED
    axis.plot(
        pool.labels, pool.predicted, ".", color="#3b7dd8", ms=4, alpha=0.6, rasterized=rasterized
    )
    axis.axline((float(pool.labels.mean()),) * 2, slope=1, color="#8a8f98", lw=1)
    axis.set(xlabel=f"{pool.property_name} in the data", ylabel="predicted")
    axis.set_aspect("equal", adjustable="datalim")


def _draw_confusion(figure: Figure, table: np.ndarray, names: list[str]) -> None:
    axis = figure.subplots()
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel="predicted", ylabel="in the data")
    if len(names) <= 12:
        for (row, column), value in np.ndenumerate(table):
            ink = "white" if share[row, column] > 0.5 else "#20252c"
            axis.text(column, row, str(value), ha="center", va="center", color=ink, fontsize=8)
    figure.colorbar(image, ax=axis, shrink=0.8, label="share of the known class")
