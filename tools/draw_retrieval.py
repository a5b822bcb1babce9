"""Draws docs/pictures/retrieval.png: descriptions and the crystals they retrieve.

Every formula in a description is replaced with "material". The crystal that it describes is framed.

python tools/draw_retrieval.py outputs/base@best
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import spglib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

import clac_jax
from clac_jax.crystals.elements import covalent_radii, symbol
from clac_jax.datasets.prepare import load as load_records
from clac_jax.text.formula import replace_formulas

ROOT = Path(__file__).resolve().parents[1]
ASKED = ("mp-3163", "mp-5693", "mp-16376")
"""Crystals of the test split whose descriptions are the queries: a perovskite, a layered sulfide,
a half-Heusler compound. They were chosen for their chemistry, not for what a model retrieves."""
SHOWN = 190  # characters of a description
NUM_FOUND = 4
BOND = 1.15  # bonds are drawn up to this times the sum of the covalent radii
INK, GRAY, FRAME = "#1d2430", "#6b7280", "#3f8049"

# Colors of common elements, and of the others by their atomic number, so that neighbours differ.
OTHERS = ("#7f9bb3", "#9b7fd1", "#3aa58f", "#b98f5f", "#6f86c9", "#b9798f", "#7da06a")
COLORS = {
    "H": "#d9d9d9", "B": "#f2b5a7", "C": "#5b5b5b", "N": "#4c6fd1", "O": "#d8413a",
    "F": "#9fd86b", "Si": "#d9b38c", "P": "#f08a24", "S": "#e6c229", "Cl": "#4db14d",
    "Se": "#c98b1b", "Br": "#a5502a", "Te": "#b06d10", "I": "#7a3f99",
}  # fmt: skip


def colors_of(numbers: np.ndarray) -> dict[int, str]:
    """A color for each element of a crystal; no two of them share one."""
    colors: dict[int, str] = {}
    for number in sorted(set(numbers.tolist())):
        start = number % len(OTHERS)
        free = [c for c in (*OTHERS[start:], *OTHERS[:start]) if c not in colors.values()]
        colors[number] = COLORS.get(symbol(number)) or free[0]
    return colors


def atoms_to_draw(crystal: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The conventional cell with the images of its atoms on faces, edges and corners.

    Returns:
        The lattice (3, 3), positions (n, 3) in angstrom, and atomic numbers (n,).
    """
    cell = (crystal.lattice, crystal.fractional, crystal.atomic_numbers)
    lattice, fractional, numbers = spglib.standardize_cell(cell, symprec=1e-2) or cell
    fractional = fractional % 1
    fractional[fractional > 1 - 1e-4] = 0
    images, of = [], []
    for shift in np.ndindex(2, 2, 2):
        moved = fractional + shift
        inside = (moved <= 1 + 1e-4).all(axis=1)
        images.append(moved[inside])
        of.append(numbers[inside])
    return lattice, np.concatenate(images) @ lattice, np.concatenate(of)


def view_of(lattice: np.ndarray) -> np.ndarray:
    """(3, 3): rows are the axes to the right, upwards and towards the viewer."""
    up = lattice[2] / np.linalg.norm(lattice[2])
    right = lattice[0] - (lattice[0] @ up) * up
    right /= np.linalg.norm(right)
    upright = np.stack([right, up, np.cross(right, up)])
    turn, tilt = np.deg2rad(22), np.deg2rad(13)
    about_up = [[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]]
    about_right = [[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]]
    return np.array(about_right) @ np.array(about_up) @ upright


def draw_crystal(axes: Axes, crystal: Any) -> None:
    """Spheres, bonds and the cell, from far to near."""
    lattice, positions, numbers = atoms_to_draw(crystal)
    axis = view_of(lattice)
    seen, radii = positions @ axis.T, covalent_radii()[numbers]
    colors = colors_of(numbers)
    metals = np.array([gemmi.Element(int(number)).is_metal for number in numbers])
    items: list[tuple[float, Any]] = []
    corners = np.array(list(np.ndindex(2, 2, 2)))
    for a in corners:
        for b in corners:
            if tuple(a) < tuple(b) and abs(a - b).sum() == 1:
                line = np.stack([a, b]) @ lattice @ axis.T
                items.append((line[:, 2].min() - 1e-3, ("edge", line)))
    for i, j in zip(*np.triu_indices(len(seen), 1), strict=True):
        is_bond = np.linalg.norm(seen[i] - seen[j]) < BOND * (radii[i] + radii[j])
        if is_bond and not (metals[i] and metals[j] and not metals.all()):
            middle = (seen[i] + seen[j]) / 2
            items.append((min(seen[i, 2], seen[j, 2]) + 1e-3, ("bond", (i, j, middle))))
    items += [(seen[k, 2], ("atom", k)) for k in range(len(seen))]
    for depth, (kind, what) in sorted(items, key=lambda item: item[0]):
        if kind == "edge":
            axes.plot(what[:, 0], what[:, 1], color=GRAY, lw=0.7, zorder=depth)
        elif kind == "bond":
            i, j, middle = what
            for k in (i, j):
                line = np.stack([seen[k], middle])
                axes.plot(line[:, 0], line[:, 1], color=colors[numbers[k]], lw=2.2, zorder=depth)
        else:
            _sphere(axes, seen[what], 0.42 * radii[what], colors[numbers[what]], depth)
    drawn = np.concatenate([seen, corners @ lattice @ axis.T])[:, :2]
    low, high = drawn.min(axis=0), drawn.max(axis=0)
    center, half = (low + high) / 2, max((high - low).max() / 2, 1.5) + 0.9
    left = center[0] - 1.3 * half  # space for the names of the elements
    axes.set(xlim=(left, center[0] + half), ylim=(center[1] - half, center[1] + half))
    axes.set_aspect("equal")
    axes.axis("off")
    for row, (number, color) in enumerate(colors.items()):
        style = {"color": color, "fontsize": 10, "fontweight": "bold", "va": "top"}
        axes.text(0, 1 - 0.11 * row, symbol(number), transform=axes.transAxes, **style)


def _sphere(axes: Axes, place: np.ndarray, radius: float, color: str, depth: float) -> None:
    edge = {"facecolor": color, "edgecolor": INK, "linewidth": 0.5, "zorder": depth}
    axes.add_patch(Circle((place[0], place[1]), radius, **edge))
    light = (place[0] - 0.3 * radius, place[1] + 0.3 * radius)
    shine = {"facecolor": "white", "edgecolor": "none", "alpha": 0.45, "zorder": depth}
    axes.add_patch(Circle(light, 0.35 * radius, **shine))


def with_subscripts(formula: str) -> str:
    """A formula for matplotlib: Al2O3 with its numbers as subscripts."""
    return re.sub(r"([A-Za-z)])(\d+)", r"\1$_{\2}$", formula)


def space_group(crystal: Any) -> str:
    """The Hermann-Mauguin symbol, for matplotlib."""
    cell = (crystal.lattice, crystal.fractional, crystal.atomic_numbers)
    name = spglib.get_spacegroup(cell, symprec=1e-2).split(" ")[0]
    name = re.sub(r"(\d)_(\d)", r"\1$_\2$", name)
    return re.sub(r"-(\d)", r"$\\overline{\1}$", name)


def draw(
    path: Path,
    records: Sequence[Any],
    scores: np.ndarray,
    texts: Sequence[str],
    own: Sequence[int | None],
) -> None:
    """Draws one row per text: the text and the best crystals.

    Args:
        path: the PNG file.
        records: the crystals that were ranked.
        scores: (texts, records) cosines.
        texts: the descriptions.
        own: for each text, the index of the record that it was written for, if there is one.
    """
    figure = Figure(figsize=(11, 2.3 * len(texts)), layout="constrained")
    FigureCanvasAgg(figure)
    ratios = [1.25, *[1] * NUM_FOUND]
    grid = figure.subplots(len(texts), 1 + NUM_FOUND, squeeze=False, width_ratios=ratios)
    for row, text in enumerate(texts):
        words = "“" + textwrap.fill(textwrap.shorten(text, SHOWN, placeholder=" …"), 32) + "”"
        grid[row, 0].text(0.97, 0.5, words, fontsize=10, color=INK, ha="right", va="center")
        grid[row, 0].axis("off")
        for place, index in enumerate(np.argsort(-scores[row])[:NUM_FOUND]):
            axes = grid[row, 1 + place]
            crystal = records[index].crystal()
            draw_crystal(axes, crystal)
            axes.set_title(with_subscripts(records[index].formula), fontsize=12, color=INK, pad=2)
            caption = f"{space_group(crystal)}    score {scores[row, index]:.2f}"
            below = {"transform": axes.transAxes, "ha": "center", "fontsize": 9, "color": GRAY}
            axes.text(0.5, -0.06, caption, **below)
            if index == own[row]:
                frame = {"transform": axes.transAxes, "fill": False, "clip_on": False}
                axes.add_patch(Rectangle((-0.03, -0.1), 1.06, 1.24, ec=FRAME, lw=2, **frame))
    figure.savefig(path, dpi=110)


def main() -> None:
    """Ranks the crystals of a split for each text, and draws the best."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="RUN@best, as for clac_jax.load")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/pictures/retrieval.png")
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--split", default="test")
    parser.add_argument("--texts", nargs="+", help="texts of your own, instead of descriptions")
    options = parser.parse_args()
    model = clac_jax.load(options.run)
    records = load_records("materials_project_mini", options.data_dir, options.split, None)
    own: list[int | None] = []
    texts = options.texts or []
    if texts:
        own = [None] * len(texts)
    else:
        places = {record.material_id: k for k, record in enumerate(records)}
        own = [places[name] for name in ASKED]
        asked = [records[k] for k in own]
        texts = [
            replace_formulas(each.text_of("narratives", None), "material", also=(each.formula,))
            for each in asked
        ]
    crystals = model.embed_crystals([record.crystal() for record in records])
    scores = model.embed_texts(texts) @ crystals.T
    for text, row in zip(texts, scores, strict=True):
        best = np.argsort(-row)[:NUM_FOUND]
        found = (f"  {row[k]:.3f}  {records[k].formula} {records[k].material_id}" for k in best)
        print(text, *found, sep="\n")
    draw(options.output, records, scores, texts, own)


if __name__ == "__main__":
    main()
