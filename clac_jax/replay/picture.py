"""A step as a picture: the scores of its texts with its crystals, and the loss of each example."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clac_jax.files.atomic import check_writable
from clac_jax.replay.errors import ReplayError
from clac_jax.replay.examination import Examination
from clac_jax.replay.report import OUTLIER, robust_deviations
from clac_jax.reporting.figures import BLUE, ORANGE, new_figure, save_figure

FORMATS = (".png", ".pdf", ".svg")
"""The suffixes of pictures that can be written."""
MOST_NAMES = 40
"""Examples up to which every one is named; beyond, only those that stand out."""


def check_drawable(path: Path, task: str) -> None:
    """Checks, before the step is computed, that it can be drawn.

    Args:
        path: the file to be written.
        task: the run's `config.task`.

    Raises:
        ReplayError: the run contrasts nothing, or the name is not that of a picture.
        WorkdirError: the file cannot be written.
    """
    if task == "property":
        raise ReplayError(
            "This run learns a property, and has no scores of texts with crystals. Leave out "
            "--figure; the table of examples has the predictions."
        )
    if path.suffix.lower() not in FORMATS:
        raise ReplayError(
            f"--figure={path} does not end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}. Name a "
            "file that does."
        )
    if path.is_dir() or not path.parent.is_dir():
        problem = "is a folder" if path.is_dir() else f"is in {path.parent}, which is not a folder"
        raise ReplayError(f"--figure={path} {problem}. Name a file in a folder that exists.")
    check_writable(path.parent)


def draw(examination: Examination, path: Path) -> None:
    """Draws the contrastive batch with the largest loss of an example.

    Args:
        examination: the step.
        path: the file; its suffix is one of `FORMATS`.

    Raises:
        WorkdirError: the file cannot be written.
    """
    assert examination.similarity is not None, "see `check_drawable`"
    worst = max(examination.examples, key=lambda each: np.nan_to_num(each.loss, nan=np.inf))
    examples = [each for each in examination.examples if each.batch == worst.batch]
    slots = [each.slot for each in examples]  # without those of examples that are left out
    scores = np.asarray(examination.similarity[worst.batch], np.float64)[np.ix_(slots, slots)]
    losses = [example.loss for example in examples]
    deviations = robust_deviations(losses, losses)
    stands_out = [
        deviation > OUTLIER or example is worst
        for deviation, example in zip(deviations, examples, strict=True)
    ]
    figure = new_figure(11.5, 6.2)
    grid = figure.add_gridspec(1, 2, width_ratios=(10, 5))
    matrix, bars = (figure.add_subplot(grid[0, column]) for column in (0, 1))
    image = matrix.imshow(scores, cmap="viridis")
    figure.colorbar(image, ax=matrix, shrink=0.8, label="score (logit)")
    places = np.arange(len(examples))
    named = [k for k in places if len(examples) <= MOST_NAMES or stands_out[k]]
    names = [examples[k].name for k in named]
    matrix.set_xticks(named, names, rotation=90, fontsize=6)
    matrix.set_yticks(named, names, fontsize=6)
    matrix.set(title=f"Step {examination.step:,}: scores", xlabel="crystal", ylabel="text")
    colors = [ORANGE if is_outlier else BLUE for is_outlier in stands_out]
    bars.barh(places, np.nan_to_num(losses, nan=0.0, posinf=0.0), color=colors)
    bars.set_yticks(named, names, fontsize=6)
    bars.set(ylim=(len(examples) - 0.5, -0.5))
    label = f"loss (orange: largest, or > {OUTLIER:g} deviations)"
    bars.set(title="Loss by example", xlabel=label)
    save_figure(figure, path)
