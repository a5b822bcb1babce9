"""The figures of a run."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from clac_jax.reporting import figures


def train_rows(epochs, per_epoch, loss):
    steps = range(1, epochs * per_epoch + 1)
    return [
        {"split": "train", "step": k, "epoch": (k - 1) // per_epoch, **loss(k - 1)} for k in steps
    ]


def drawn_losses(rows):
    axis = Figure().subplots()
    figures._draw_loss(axis, rows, [])
    return {line.get_label(): line for line in axis.lines}


def test_a_loss_that_equals_one_of_its_terms_stays_visible():
    lines = drawn_losses(train_rows(2, 8, lambda k: {"loss": 1.0, "cross_modal_loss": 1.0}))
    total, term = lines["train loss"], lines["train cross modal loss"]
    np.testing.assert_array_equal(total.get_xydata(), term.get_xydata())
    assert total.get_linewidth() > term.get_linewidth()
    assert total.get_zorder() < term.get_zorder()
    assert total.get_linestyle() == "-" != term.get_linestyle()


def test_the_saw_of_grouped_epochs_is_flattened():
    per_epoch = 40
    rows = train_rows(8, per_epoch, lambda k: {"loss": 2 - (k % per_epoch) / per_epoch})
    curve = drawn_losses(rows)["train loss"].get_ydata()[per_epoch:-per_epoch]
    assert np.ptp([row["loss"] for row in rows]) > 0.9
    assert np.ptp(curve) < 0.05


def test_a_smoothed_curve_of_one_row_is_that_row():
    np.testing.assert_array_equal(figures._smoothed([3.0], 1), [3.0])


@pytest.mark.parametrize("name", ["visual_loss", "textual_loss"])
def test_a_term_that_the_run_does_not_have_is_not_drawn(name):
    rows = train_rows(1, 8, lambda k: {"loss": 1.0, name: 0.0})
    assert not any(name.split("_")[0] in label for label in drawn_losses(rows))


def test_importing_chooses_no_backend():
    code = (
        "import matplotlib, clac_jax.reporting.figures as f, sys;"
        "print(matplotlib.rcParams._get_backend_or_none(), 'matplotlib.pyplot' in sys.modules)"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.split() == ["None", "False"]


def test_the_time_is_one_bar_of_all_of_it():
    axis = Figure().subplots()
    seconds = {"train": 60.0, "lost": 0.0, "compile": 39.0, "test": 0.5, "restore": 0.5}
    figures._draw_time(axis, seconds)
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels == ["train 60%", "compile 39%", "other 1%"]
    assert sum(bar.get_width() for bar in axis.patches) == pytest.approx(100)
    figures._draw_time(Figure().subplots(), {"train": 0.0})  # a run without events
