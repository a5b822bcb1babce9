"""The page of a map in a real browser: from a folder, and from a plain file server."""

import csv
import dataclasses
import io
import re

import numpy as np
import pytest
from helpers.browser import CHROMIUM, Visit, chromium, coloured, colours, served
from helpers.cif import QUARTZ
from helpers.stub_index import COUNT, StubIndex

from clac_jax.crystals.crystal import Crystal
from clac_jax.crystals.descriptors import describe
from clac_jax.map.data import read
from clac_jax.map.page import write_page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here"),
]


@pytest.fixture(scope="module")
def index():
    return StubIndex()


@pytest.fixture(scope="module")
def data(index):
    return read(index, "pca", 0)


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("maps") / "map"
    write_page(data, path)
    return path


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def address(folder):
    return f"{folder.as_uri()}/index.html"


@pytest.fixture
def visit(browser, address):
    visits = []

    def opened(fragment="", where=address, **options):
        visits.append(Visit(browser, f"{where}{fragment}", **options))
        return visits[-1]

    yield opened
    for one in visits:
        one.page.close()
        assert one.elsewhere == [], "a request left this machine"
        assert one.failed == []
        assert one.messages == [], "the page printed or failed"


def click_on(one, row):
    left, top = one.ask("(row) => ClacMap.overlay.place(row)", row)
    one.page.locator("#overlay").click(position={"x": left, "y": top})


def test_the_folder_is_small(folder):
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) < 12e6


def test_all_points_are_drawn_from_a_folder_and_from_a_server(visit, folder, data):
    with served(folder) as server:
        pictures = []
        for where in (f"{folder.as_uri()}/index.html", f"{server}/index.html"):
            one = visit(where=where)
            one.settle()
            counts = one.ask("ClacMap.counts")
            assert counts["crystals"] == COUNT == 6317
            assert counts["texts"] == len(data.text_rows)
            assert "6,317 of 6,317 crystals" in one.page.inner_text("#shown")
            pictures.append(one.picture("#points"))
            assert coloured(pictures[-1]) > 0.05
            one.page.close()
        np.testing.assert_array_equal(*pictures)


def test_points_are_where_the_layout_says(visit, data):
    one = visit("#texts=0")
    picture = one.picture("#points")
    places = [one.ask("(row) => ClacMap.overlay.place(row)", row) for row in range(0, COUNT, 200)]
    paper = picture[2, 2]
    inside = [
        (x, y)
        for x, y in places
        if 10 < x < picture.shape[1] - 10 and 10 < y < picture.shape[0] - 10
    ]
    on_ink = [np.abs(picture[int(y), int(x)].astype(int) - paper).max() > 20 for x, y in inside]
    assert len(inside) > 25 and np.mean(on_ink) > 0.95
    (x, y) = data.layout.crystals[0]
    expected = one.ask(
        "() => { const c = ClacMap.overlay.camera(); return [c.width, c.height, c.unit]; }"
    )
    width, height, unit = expected
    assert places[0] == pytest.approx([width / 2 + x * unit, height / 2 - y * unit], abs=0.01)


def test_a_click_opens_the_crystal_with_its_structure_text_and_neighbours(visit, data, index):
    one = visit()
    # The first whose place is not covered by another point.
    row = one.ask("""() => {
      for (let r = 0; r < ClacMap.data.n; r++) {
        const [x, y] = ClacMap.overlay.place(r);
        const isSeen = x > 20 && y > 60 && ClacMap.overlay.pick(x, y) === r;
        if (isSeen && ClacMap.data.textOf[r] >= 0) return r;
      } }""")
    click_on(one, row)
    panel = one.page.locator("#crystal")
    assert data.ids[row] in panel.inner_text()
    one.page.wait_for_selector("#crystal .structure canvas")
    assert colours(one.picture("#crystal .structure")) > 100
    assert " ".join(data.sentences[row]) in re.sub(r"\s+", " ", panel.inner_text())
    assert "Its own text ranks it" in panel.inner_text()
    # The nearest crystals are those of the vectors of the index.
    vectors = np.concatenate(index.vector_shards()).astype(np.float32)
    scores = vectors @ vectors[row]
    scores[row] = -2
    nearest = [data.ids[r] for r in np.argsort(-scores)[:6]]
    shown = panel.locator("section", has_text="Nearest crystals").locator(".id").all_inner_texts()
    assert len(set(shown) & set(nearest)) >= 5
    one.page.wait_for_timeout(300)
    assert f"s={data.ids[row]}" in one.page.url


def test_a_query_changes_the_ranking_and_the_colours(visit):
    one = visit()
    assert one.page.inner_text("#mode") == "word search"
    assert not one.page.locator("#results").is_visible()
    before = one.picture("#points")
    one.search("cubic perovskite")
    first = one.hits()
    assert "no model is used" in one.page.inner_text("#results-note")
    assert one.page.input_value("#colour") == "similarity"
    assert (before != one.picture("#points")).any()
    text = one.page.inner_text("#crystal mark")
    assert "perovskite" in text.lower()
    one.search("hexagonal metal")
    assert len(first) == 50 and one.hits() != first
    one.search("perovskite -lead")
    lead = [
        row for row in one.page.locator("#hits tr td:nth-child(2)").all_inner_texts() if "Pb" in row
    ]
    assert not lead
    one.page.click("#results-clear")
    one.page.wait_for_selector("#results", state="hidden")
    assert one.page.input_value("#colour") == "family"


def test_a_formula_and_an_id_find_their_crystal(visit, data):
    one = visit()
    row = 3000
    one.search(data.ids[row])
    assert one.hits()[0] == data.ids[row]
    one.search("TiCaO3")
    assert one.page.locator("#hits tr").first.locator("td").nth(1).inner_text() == "CaTiO3"
    one.search("zzzz")
    assert one.hits() == [] and "Nothing found" in one.page.inner_text("#results-note")


def test_search_by_a_crystal_ranks_by_the_vectors(visit, data, index):
    row = 2500
    one = visit(f"#s={data.ids[row]}")
    searches = one.ask("document.documentElement.dataset.searches")
    one.page.click("#like")
    one.page.wait_for_selector(f"html:not([data-searches='{searches}'])")
    vectors = np.concatenate(index.vector_shards()).astype(np.float32)
    scores = vectors @ vectors[row]
    scores[row] = -2
    expected = [data.ids[r] for r in np.argsort(-scores)[:10]]
    assert len(set(one.hits()[:10]) & set(expected)) >= 9
    assert data.ids[row] not in one.hits()
    shown = float(one.page.locator("#hits tr").first.locator("td.num").last.inner_text())
    assert shown == pytest.approx(scores.max(), abs=0.01)


def test_the_legend_filters_and_the_address_restores_everything(visit, data, address):
    one = visit()
    one.page.click("#legend button.entry:has-text('Oxides')")
    one.page.fill("#elements", "Ti -O")
    one.page.select_option("#colour", "band_gap")
    one.page.fill("#range-from", "1")
    one.page.press("#range-from", "Enter")
    one.page.click("#zoom-in")
    one.page.uncheck("#show-texts")
    one.page.click("#theme")
    one.settle()
    shown = one.ask("ClacMap.counts.crystals")
    expected = [
        row for row in range(COUNT)
        if "Ti" in data.elements[row] and "O" not in data.elements[row]
        and data.column("band_gap").values[row] >= 1
    ]  # fmt: skip
    assert 0 < shown == len(expected) and one.ask("ClacMap.counts.texts") == 0
    one.page.wait_for_timeout(400)
    again = visit(where=one.page.url)
    again.settle()
    assert again.ask("ClacMap.view.state") == one.ask("ClacMap.view.state")
    assert again.ask("ClacMap.counts.crystals") == shown
    assert again.page.get_attribute("html", "data-theme") == "dark"
    np.testing.assert_array_equal(again.picture("#points"), one.picture("#points"))


def test_parts_that_a_map_lacks_are_left_out(visit, data, tmp_path):
    bare = dataclasses.replace(
        data,
        layout=dataclasses.replace(data.layout, texts=np.zeros((0, 2), np.float32)),
        text_rows=np.zeros(0, np.int32),
        columns=data.columns[:1],
        sentences=None,
        structures=None,
        vectors=None,
        text_vectors=None,
    )
    write_page(bare, tmp_path / "map")
    one = visit(f"#s={data.ids[3]}", where=f"{(tmp_path / 'map').as_uri()}/index.html")
    assert one.ask("ClacMap.counts") == pytest.approx(
        {"crystals": COUNT, "texts": 0, "points": COUNT, "frames": one.ask("ClacMap.counts.frames")}
    )
    shown = one.page.inner_text("#crystal")
    assert data.ids[3] in shown and "null" not in shown
    assert one.page.is_disabled("#like")


def test_a_bad_address_is_harmless(visit):
    one = visit("#s=unknown&c=nothing&f=x~in~1&f=family~in~a&v=1,b&cell=99&el=Xx&like=none")
    assert one.ask("ClacMap.counts.crystals") == COUNT
    assert one.page.input_value("#colour") == "family"


def test_the_lasso_selects_and_downloads(visit, data):
    one = visit("#texts=0")
    one.page.click("#tool-lasso")
    box = one.page.locator("#overlay").bounding_box()
    left, top = box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"]
    right, bottom = box["x"] + 0.7 * box["width"], box["y"] + 0.7 * box["height"]
    one.page.mouse.move(left, top)
    one.page.mouse.down()
    for x, y in ((right, top), (right, bottom), (left, bottom)):
        one.page.mouse.move(x, y, steps=3)
    one.page.mouse.up()
    places = np.array(
        one.ask("Array.from({ length: ClacMap.data.n }, (_, r) => ClacMap.overlay.place(r))")
    )
    origin = np.array([box["x"], box["y"]])
    corners = np.array([[left, top], [right, bottom]]) - origin
    expected = np.flatnonzero(((places > corners[0]) & (places < corners[1])).all(axis=1))
    count = int(re.sub(r"\D", "", one.page.inner_text("#selection-count")))
    assert count > 100 and abs(count - len(expected)) <= 3
    with one.page.expect_download() as download:
        one.page.click("#selection-csv")
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    assert len(rows) == count
    for row in rows[:50]:
        place = data.ids.index(row["id"])
        assert row["formula"] == data.formulas[place]
        gap = data.column("band_gap").values[place]
        assert float(row["band_gap"] or "nan") == pytest.approx(gap, nan_ok=True)


def test_the_structure_has_boundary_atoms_bonds_across_faces_and_a_supercell(visit):
    one = visit()
    # Rock salt, by its primitive cell: 2 atoms; each is bonded to six others.
    script = """(options) => {
      const crystal = { lattice: [[0, 2.82, 2.82], [2.82, 0, 2.82], [2.82, 2.82, 0]],
        numbers: [11, 17], coords: [0, 0, 0, 0.5, 0.5, 0.5] };
      const { symbols, radii } = ClacMap.data;
      const drawn = ClacMap.structure.expand(crystal, symbols, radii, options);
      return drawn.atoms.map((a) => [a.symbol, a.kind, a.bonds.length, a.x, a.y, a.z]);
    }"""
    plain = one.ask(script, {"boundary": False, "across": False})
    assert [atom[0] for atom in plain] == ["Na", "Cl"]
    faces = one.ask(script, {"boundary": True, "across": False})
    assert sum(atom[0] == "Na" for atom in faces) == 8  # the corners
    assert sum(atom[0] == "Cl" for atom in faces) == 1
    across = one.ask(script, {"boundary": True, "across": True})
    assert all(atom[2] == 6 for atom in across if atom[0] == "Na")
    assert {atom[1] for atom in across} == {"cell", "boundary", "outside"}
    assert len({tuple(np.round(atom[3:], 3)) for atom in across}) == len(across)
    double = one.ask(script, {"supercell": 2, "boundary": False, "across": False})
    assert len(double) == 16


def test_the_cif_of_a_crystal_is_that_crystal(visit, data, index):
    row = 1234
    one = visit(f"#s={data.ids[row]}&cell=2")
    one.page.wait_for_selector("#crystal .structure canvas")
    assert one.page.get_attribute("#supercell-2", "aria-pressed") == "true"
    with one.page.expect_download() as download:
        one.page.click("#cif")
    assert download.value.suggested_filename == f"{data.ids[row]}.cif"
    written = Crystal.from_cif(download.value.path().read_text())
    lattice, numbers, coords = data.structures[row]
    original = Crystal.from_arrays(lattice, numbers, coords)
    assert written.formula == original.formula
    assert written.volume == pytest.approx(original.volume, rel=1e-5)
    away = written.fractional - original.fractional
    np.testing.assert_allclose(away - np.round(away), 0, atol=2e-6)


def test_the_cif_of_a_left_handed_cell_is_not_its_mirror_image(visit):
    quartz = Crystal.from_cif(QUARTZ)
    text = visit().ask(
        "(crystal) => ClacMap.structure.cif(crystal, {8: 'O', 14: 'Si'}, 'quartz', 'SiO2')",
        {
            "lattice": quartz.lattice[[1, 0, 2]].tolist(),
            "numbers": quartz.atomic_numbers.tolist(),
            "coords": quartz.fractional[:, [1, 0, 2]].ravel().tolist(),
        },
    )
    assert describe(Crystal.from_cif(text)).space_group == describe(quartz).space_group


def test_everything_by_the_keyboard(visit, data):
    one = visit()
    keys = one.page.keyboard
    keys.press("/")
    assert one.ask("document.activeElement.id") == "query"
    one.page.keyboard.type("perovskite")
    one.search("perovskite")
    first = one.hits()
    keys.press("ArrowDown")
    assert one.ask("document.activeElement.dataset.row") == str(data.ids.index(first[0]))
    keys.press("ArrowDown")
    assert data.ids[one.ask("ClacMap.view.state.selected")] == first[1]
    keys.press("p")
    assert data.ids[one.ask("ClacMap.view.state.selected")] == first[0]
    one.page.focus("#overlay")
    start = one.ask("ClacMap.view.state.selected")
    keys.press("ArrowRight")
    moved = one.ask("ClacMap.view.state.selected")
    assert data.layout.crystals[moved, 0] > data.layout.crystals[start, 0]
    keys.press("d")
    assert one.page.get_attribute("#tool-density", "aria-pressed") == "true"
    assert colours(one.picture("#overlay")) > 8
    keys.press("?")
    assert one.page.locator("#help-dialog").is_visible()
    keys.press("Escape")
    assert not one.page.locator("#help-dialog").is_visible()
    keys.press("Escape")
    assert one.ask("ClacMap.view.state.selected") == -1
    keys.press("Escape")
    one.page.wait_for_selector("#results", state="hidden")


def test_dark_and_light_follow_the_system(visit):
    dark, light = (visit(color_scheme=name).picture("#map") for name in ("dark", "light"))
    assert dark[5, 5].max() < 60 and light[5, 5].min() > 240


def test_a_text_is_joined_with_its_crystal_on_hover(visit):
    one = visit()
    point = one.ask("""() => {
      const { n, m } = ClacMap.data;
      for (let i = n; i < n + m; i++) {
        const [x, y] = ClacMap.overlay.place(i);
        if (x > 20 && y > 60 && ClacMap.overlay.pick(x, y) === i) return i;
      } }""")
    left, top = one.ask("(i) => ClacMap.overlay.place(i)", point)
    before = one.picture("#overlay")
    one.page.locator("#overlay").hover(position={"x": left, "y": top})
    assert one.page.locator("#tooltip").is_visible()
    assert "text" in one.page.inner_text("#tooltip em")
    one.ask("document.getElementById('tooltip').style.visibility = 'hidden'")
    changed = (before != one.picture("#overlay")).any(axis=-1)
    row = one.ask("(i) => ClacMap.data.rowOfPoint(i)", point)
    x, y = one.ask("(i) => ClacMap.overlay.place(i)", row)
    middle = int((left + x) / 2), int((top + y) / 2)
    assert changed[middle[1] - 3 : middle[1] + 4, middle[0] - 3 : middle[0] + 4].any()


def test_a_small_window_keeps_everything_in_reach(visit):
    one = visit(viewport={"width": 420, "height": 800})
    assert one.ask("document.documentElement.scrollWidth") <= 420
    one.search("spinel")
    one.page.locator("#hits button").nth(1).click()
    assert one.page.locator("#crystal .structure canvas").first.is_visible()


def test_names_for_screen_readers(visit, data):
    one = visit(f"#s={data.ids[100]}")
    nameless = one.ask("""() => [...document.querySelectorAll("button, input, select")]
      .filter((e) => !(e.ariaLabel || e.textContent.trim() || e.labels?.length))
      .map((e) => e.outerHTML)""")
    assert nameless == []
    assert (
        one.page.get_by_role("application")
        .get_attribute("aria-label")
        .startswith("Map of crystals")
    )
    assert "atoms in the cell" in one.page.locator("#crystal .structure").get_attribute(
        "aria-label"
    )
    assert one.page.locator("#results-note").get_attribute("aria-live") == "polite"
    status = one.page.inner_text("#status")
    for words in (
        "model stub",
        "step 7",
        "data materials_project_mini",
        "principal components",
        "0123456789ab",
    ):
        assert words in status
