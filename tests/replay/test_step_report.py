"""A step in words, as JSON and as a picture."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from clac_jax.input_pipeline.example import TokenView
from clac_jax.input_pipeline.views import DrawnText
from clac_jax.replay.errors import ReplayError
from clac_jax.replay.examination import Displacement, Examination, Example, largest_elements
from clac_jax.replay.picture import check_drawable, draw
from clac_jax.replay.report import (
    as_plain,
    examination_lines,
    example_table,
    robust_deviations,
    view_lines,
)


def example(number, loss, finite=True):
    strain = np.diag([0.01, 0.0, -0.02]) if number else np.zeros((3, 3))
    tokens = TokenView(np.zeros(12, np.int32))
    return Example(
        index=number,
        name=f"mp-{number}",
        formula="CsCl",
        batch=0,
        slot=number,
        atoms=2,
        crystals=(Displacement(0.0, strain),),
        texts=(DrawnText(("One.", "Two.", "Three."), (2, 0), True, "Three. One.", tokens),),
        terms={"loss": loss},
        finite=finite,
        own_score=1.0,
        rank=3,
        rival=("mp-9", 2.5),
    )


@pytest.fixture
def step():
    losses = [0.5, 0.6, 0.4, 0.5, 9.0, 0.55]
    return Examination(
        step=28,
        examples=[example(number, loss) for number, loss in enumerate(losses)],
        similarity=np.arange(36.0).reshape(1, 6, 6),
        gradients={},
        gradient_norms={"text_encoder": 1.5, "graph_encoder": math.nan},
        largest=[("params/graph_encoder/bias", (3,), math.nan)],
    )


def test_deviations_are_robust_and_ignore_what_is_not_finite():
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 1e9]
    assert robust_deviations([1e9], values)[0] > 1e8
    assert robust_deviations([3.5], values) == [0.0]
    assert robust_deviations([math.nan], [1.0, math.inf, 2.0]) == [math.inf]
    assert math.isnan(robust_deviations([1.0], [])[0])


def test_the_worst_example_comes_first_and_is_marked(step):
    title, _, first, *others = example_table(step.examples, is_complete=True)
    assert title == "examples  all 6, by their part of the loss, the largest first"
    assert first.startswith("!  mp-4") and "2.50 mp-9" in first
    assert not any(line.startswith("!") for line in others)


def test_an_example_that_is_not_finite_is_named_even_if_its_loss_is_small(step):
    broken = [*step.examples, example(7, 0.1, finite=False)]
    lines = example_table(broken, is_complete=True)
    assert lines[-1] == "NOT FINITE already in the model's own vectors: mp-7"
    assert any(line.startswith("!  mp-7") for line in lines)


def test_a_part_that_is_not_finite_comes_first(step):
    lines = examination_lines(step, with_examples=False)
    assert lines[0].split() == ["by", "part", "nan", "graph_encoder"]
    assert lines[2].endswith("params/graph_encoder/bias[3]")


def test_views_are_shown_as_they_were_drawn(step):
    assert view_lines(step.examples[0])[1] == "  crystal 1  as in the data set"
    _, crystal, text = view_lines(step.examples[1])
    assert crystal.endswith("strained by +1.00 %, +0.00 %, -2.00 %")
    assert text.endswith("sentences 3 1 of 3, formulas replaced, 12 tokens: Three. One.")


def test_the_largest_elements_are_found_over_all_arrays():
    arrays = {"a": np.array([[1.0, -5.0]]), "b": np.array([np.nan, 3.0])}
    (nan, *rest) = largest_elements(arrays, 3)
    assert nan[:2] == ("b", (0,)) and math.isnan(nan[2])
    assert rest == [("a", (0, 1), -5.0), ("b", (1,), 3.0)]


def test_json_has_no_numbers_that_json_lacks():
    plain = as_plain({"a": (1, math.nan), 3: [math.inf], "b": None})
    assert json.loads(json.dumps(plain, allow_nan=False)) == {
        "a": [1, "nan"],
        "3": ["inf"],
        "b": None,
    }


def test_the_picture_is_drawn_also_of_losses_that_are_not_finite(step, tmp_path):
    step.examples[2] = example(2, math.nan)
    draw(step, tmp_path / "step.png")
    assert (tmp_path / "step.png").read_bytes().startswith(b"\x89PNG")


def test_an_example_that_is_left_out_has_no_place_in_the_picture(step, monkeypatch):
    del step.examples[2]
    figures = []
    monkeypatch.setattr(
        "clac_jax.replay.picture.save_figure", lambda figure, path: figures.append(figure)
    )
    draw(step, Path("step.png"))
    matrix = figures[0].axes[0]
    present = [example.slot for example in step.examples]
    np.testing.assert_array_equal(
        matrix.images[0].get_array(), step.similarity[0][np.ix_(present, present)]
    )
    names = [label.get_text() for label in matrix.get_yticklabels()]
    assert names == [example.name for example in step.examples]


def test_a_check_before_the_picture_leaves_nothing(step, tmp_path):
    check_drawable(tmp_path / "step.SVG", "contrastive")
    assert list(tmp_path.iterdir()) == []
    draw(step, tmp_path / "step.SVG")
    assert b"<svg" in (tmp_path / "step.SVG").read_bytes()


@pytest.mark.parametrize(
    ("name", "task", "words"),
    [
        ("step.png", "property", "Leave out --figure"),
        ("step.txt", "contrastive", r"step\.txt does not end in \.png, \.pdf or \.svg"),
        ("step", "contrastive", "Name a file that does"),
        ("none/step.png", "contrastive", "is in .*none, which is not a folder"),
        ("folder.png", "contrastive", r"folder\.png is a folder"),
    ],
)
def test_a_figure_that_cannot_be_drawn_is_refused(tmp_path, name, task, words):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ReplayError, match=words):
        check_drawable(tmp_path / name, task)
