"""The page of a sweep in a real browser, from its file."""

import pytest
from helpers.browser import CHROMIUM, HERE, chromium
from helpers.sweep_views import population, thirty_trials

from clac_jax.sweeps.page import write_page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here"),
]


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture
def opened(browser, tmp_path):
    """(view, scheme="light") -> its page; fails at the end if it complained or left the file."""
    complaints, pages = [], []

    def requested(request):
        if not request.url.startswith(HERE):
            complaints.append(request.url)

    def show(view, scheme="light"):
        page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
        pages.append(page)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", requested)
        page.goto(write_page(view, tmp_path).as_uri())
        return page

    yield show
    for page in pages:
        page.close()
    assert complaints == []


def column(page, place):
    return page.locator(f"#trials-table tbody tr > :nth-child({place})").all_inner_texts()


def test_the_table_is_sorted_by_a_click_and_empty_cells_stay_last(opened):
    page = opened(thirty_trials())
    heading = page.locator("#trials-table thead button", has_text="val_loss")
    heading.click()
    up = column(page, 3)
    numbers = [float(text) for text in up if text != "–"]
    assert len(numbers) == 29
    assert numbers == sorted(numbers)
    assert up[-1] == "–"
    heading.click()
    down = column(page, 3)
    assert [float(text) for text in down[:-1]] == numbers[::-1]
    assert down[-1] == "–"
    assert page.locator("th[aria-sort=descending]").inner_text().startswith("val_loss")


def test_a_click_on_a_row_marks_the_trial_in_every_figure(opened):
    page = opened(thirty_trials())
    page.locator('#trials-table tr[data-trial="3"] th').click()
    for figure in ("parallel-chart", "curves-chart"):
        assert page.locator(f"#{figure} .trial.on").get_attribute("data-trial") == "3"
    page.locator('#trials-table tr[data-trial="3"] th').click()
    assert page.locator(".on").count() == 0


def test_a_part_of_an_axis_keeps_only_the_trials_within_it(opened):
    view = thirty_trials()
    page = opened(view)
    chart = page.locator("#parallel-chart svg")
    chart.scroll_into_view_if_needed()
    grip = page.locator("#parallel-chart .grip").first.bounding_box()
    x, top = grip["x"] + grip["width"] / 2, grip["y"]
    page.mouse.move(x, top + 2)
    page.mouse.down()
    page.mouse.move(x, top + grip["height"] / 3)
    page.mouse.up()
    kept = page.locator("#trials-table tr[data-trial]:not(.out)")
    numbers = [int(kept.nth(k).get_attribute("data-trial")) for k in range(kept.count())]
    rates = {trial.number: trial.params["learning_rate"] for trial in view.trials}
    assert 0 < len(numbers) < 30
    assert min(rates[k] for k in numbers) > max(rates[k] for k in rates if k not in numbers)
    page.locator("#parallel-chart .grip").first.dblclick()
    assert page.locator("tr.out").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_population_shows_its_tree_and_the_keys_that_an_exploit_changed(opened, scheme):
    view = population()
    page = opened(view, scheme)
    exploits = [trial for trial in view.trials if trial.changed]
    assert page.locator("#lineage-chart circle").count() == 30
    assert page.locator("#lineage-chart path.exploit").count() == len(exploits)
    page.locator(f'#lineage-chart circle[data-trial="{exploits[0].number}"]').hover()
    said = page.locator("#tip").inner_text()
    assert "changed learning_rate: " in said
    assert f"generation {exploits[0].generation}" in said
