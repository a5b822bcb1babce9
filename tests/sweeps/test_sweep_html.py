"""The text of `sweep.html`; `browser/test_sweep_page.py` opens it."""

import dataclasses
import json
import math
import re

import pytest
from helpers.sweep_views import population, thirty_trials

from clac_jax.sweeps.page import page_of, write_page
from clac_jax.sweeps.view import SweepView, TrialView


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page)[1])


def test_every_trial_is_in_the_table_and_in_the_figures():
    view = thirty_trials()
    page = page_of(view)
    assert re.findall(r'<tr data-trial="(\d+)"', page) == [str(k) for k in range(30)]
    shown = data_of(page)["trials"]
    assert [trial["number"] for trial in shown] == list(range(30))
    assert shown[3]["curve"] == [[epoch + 1, value] for _, epoch, value in view.trials[3].values]
    assert shown[11]["value"] is None  # it is NaN, which JSON has not


def test_the_head_counts_the_states_and_names_the_best_trial():
    view = thirty_trials()
    best = min((t for t in view.trials if t.has_value), key=lambda trial: trial.value)
    page = page_of(view)
    assert re.search(r"30: \d+ complete, \d+ pruned, 1 failed, 2 running", page)
    assert f"<dd>{best.number}: {best.value:.5g} with learning_rate=" in page


def test_nothing_outside_the_page_is_referred_to():
    for view in (thirty_trials(), population()):
        page = page_of(view).replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//cdn|<link|<img|@import|url\((?!#)", page)


def test_a_population_has_its_exploits_with_their_changed_keys():
    view = population()
    page = page_of(view)
    assert page.count(" → ") == sum(len(trial.changed) for trial in view.trials)
    exploits = [trial for trial in view.trials if trial.changed]
    assert f"{len(exploits)} exploits" in page
    assert [t["parent"] for t in data_of(page)["trials"]] == [t.parent for t in view.trials]


@pytest.mark.parametrize("text", ["</script><script>alert(1)</script>", '"><img src=x>', "a&amp;b"])
def test_names_and_values_cannot_become_markup(text):
    trial = TrialView(0, "failed", {text: text}, value=math.inf, workdir=text, note=text)
    view = SweepView(text, text, "max", [trial], {}, [(text, text)])
    page = page_of(view)
    assert page.count("<script") == 2
    assert "<img" not in page
    assert data_of(page)["trials"][0]["params"] == {text: text}


def test_a_sweep_without_trials_has_a_page():
    assert "none yet" in page_of(SweepView("new", "val_loss", "min", []))


def test_equal_sweeps_have_equal_pages(tmp_path):
    first = write_page(thirty_trials(), tmp_path).read_bytes()
    assert write_page(thirty_trials(), tmp_path).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.html"]


def test_the_best_trial_is_the_earlier_one_of_a_tie():
    trials = [TrialView(k, "complete", {}, value=value) for k, value in enumerate((2.0, 1.0, 1.0))]
    view = SweepView("s", "m", "min", trials)
    assert [trial.number for trial in view.best_first()] == [1, 2, 0]
    assert [t.number for t in dataclasses.replace(view, mode="max").best_first()] == [0, 1, 2]
