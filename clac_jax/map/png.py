"""The map as figures for papers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, Normalize, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from clac_jax.files.atomic import replacing
from clac_jax.map.columns import MODALITY, NO_VALUE, Column, category
from clac_jax.map.data import MapData
from clac_jax.map.layout import MapError

DPI = 300
# After Okabe and Ito, as on the page: distinct with any colour vision.
CATEGORY_COLOURS = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00",
    "#8a7d00", "#6a51a3", "#7f7f7f", "#8c564b", "#17a2a2", "#b2df8a",
)  # fmt: skip
UNKNOWN = "#c3c7cf"
ELEMENT = "element:"
"""Prefix of a colouring by whether a crystal contains an element, as in "element:O"."""


def write_pngs(data: MapData, path: Path, colours: Sequence[str]) -> list[Path]:
    """Draws one figure per colouring, 300 dpi.

    Args:
        data: the map.
        path: the PNG file; with several colourings, each adds its name ("map-band_gap.png").
        colours: keys of columns, "modality" (crystal or text) or "element:Fe".

    Returns:
        The files.

    Raises:
        MapError: a colouring is unknown.
        WorkdirError: a file cannot be written.
    """
    columns = [_column(data, key) for key in colours]
    files = []
    for column in columns:
        name = column.key.replace(":", "-")
        file = path if len(columns) == 1 else path.with_name(f"{path.stem}-{name}{path.suffix}")
        figure = Figure(figsize=(7.0, 5.6), layout="constrained")
        FigureCanvasAgg(figure)
        _draw(figure.subplots(), data, column)
        with replacing(file) as temporary:
            # Without the version of matplotlib, the same map has the same bytes.
            figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
        files.append(file)
    return files


def _column(data: MapData, key: str) -> Column:
    if key == MODALITY:
        return category(MODALITY, ["Crystals"] * len(data.ids))
    if key.startswith(ELEMENT):
        symbol = key.removeprefix(ELEMENT)
        has = [symbol in elements for elements in data.elements]
        if not any(has):
            raise MapError(f"No crystal of the index contains {symbol!r}. Use a symbol such as Fe.")
        return category(key, [f"With {symbol}" if h else None for h in has])
    return data.column(key)


def _draw(axes: Axes, data: MapData, column: Column) -> None:
    # The same order whatever that of the data, or the last category would cover the others.
    order = np.random.default_rng(0).permutation(len(data.ids))
    known = _known(column)[order]
    order = np.concatenate([order[~known], order[known]])
    colours, norm = _colours(column)
    size = float(np.clip(60_000 / max(len(order) + len(data.text_rows), 1), 1.5, 24))
    texts = colours[data.text_rows]
    if column.key == MODALITY:
        texts = np.broadcast_to(to_rgba_array(CATEGORY_COLOURS[1]), texts.shape)
    x, y = data.layout.texts.T
    axes.scatter(x, y, 0.8 * size, texts, marker="D", alpha=0.35, linewidths=0, rasterized=True)
    x, y = data.layout.crystals[order].T
    axes.scatter(x, y, size, colours[order], alpha=0.9, linewidths=0, rasterized=True)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if norm is not None:
        from matplotlib.cm import ScalarMappable

        with np.errstate(invalid="ignore"):
            beyond = (
                bool((column.values < column.low).any()),
                bool((column.values > column.high).any()),
            )
        extend = {(False, False): "neither", (True, False): "min", (False, True): "max"}
        bar = axes.figure.colorbar(
            ScalarMappable(norm, "viridis"),
            ax=axes,
            shrink=0.6,
            extend=extend.get(beyond, "both"),
            aspect=28,
        )
        bar.set_label(column.title)
        bar.outline.set_visible(False)
    else:
        _legend(axes, data, column)


def _known(column: Column) -> np.ndarray:
    if column.categories is not None:
        return np.asarray(column.values != NO_VALUE)
    return np.asarray(np.isfinite(column.values))


def _colours(column: Column) -> tuple[np.ndarray, Normalize | None]:
    """Colours (N, 4) of the crystals, and the scale of a number."""
    from matplotlib import colormaps

    if column.categories is not None:
        table = np.tile(to_rgba_array(UNKNOWN), (256, 1))
        count = len(column.categories)
        cycle = [CATEGORY_COLOURS[code % len(CATEGORY_COLOURS)] for code in range(count)]
        if cycle:
            table[:count] = to_rgba_array(cycle)
        return np.asarray(table[column.values]), None
    scale = LogNorm if column.is_log and column.low > 0 else Normalize
    norm = scale(column.low, column.high, clip=True)
    colours: np.ndarray = np.array(colormaps["viridis"](norm(np.ma.masked_invalid(column.values))))
    colours[~np.isfinite(column.values)] = to_rgba_array(UNKNOWN)[0]
    return colours, norm


def _legend(axes: Axes, data: MapData, column: Column) -> None:
    names = list(column.categories or ())
    if column.key == MODALITY:
        names.append("Texts")
    marks = [
        Line2D([], [], linestyle="", marker="o", color=CATEGORY_COLOURS[i % 12], label=_title(name))
        for i, name in enumerate(names)
    ]
    if not _known(column).all():
        marks.append(Line2D([], [], linestyle="", marker="o", color=UNKNOWN, label="Other"))
    if column.key == MODALITY:
        marks[-1].set_marker("D")
    axes.legend(
        handles=marks, title=column.label, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5)
    )


def _title(name: str) -> str:
    return name[:1].upper() + name[1:]
