"""Pages of HTML: nothing from outside, tables and drawings that can be read without seeing them."""

import re
from html.parser import HTMLParser

import pytest

from clac_jax.evaluation.intervals import Estimate
from clac_jax.evaluation.page import page, plain_table, svg_of
from clac_jax.evaluation.section import Drawing, Section, Table, decimal, percent


def draw(figure):
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], ".", rasterized=True)
    axis.imshow([[0.0, 1.0]])
    axis.set(xlabel="x < y", title="a & b")


@pytest.fixture(scope="module")
def written():
    table = Table("A <caption>", ("who", "top-1 (%)"), [("a & b", "50.0 [40.0, 60.0]")], "A note.")
    drawing = Drawing("curve", "What it shows.", 'Rises to "1".', draw, (3, 2))
    sections = [
        Section("first", "First & foremost", "Read <this>.", [table], [drawing]),
        Section("second", "Second", "And this.", [table], [drawing]),
    ]
    return page("A <title>", [("Model", "outputs/<base>")], sections)


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.ids, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag in ("table", "section", "svg", "figure", "td", "th", "main"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and tag in ("table", "section", "svg", "figure", "td", "th", "main"):
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def reader(written):
    reader = Reader()
    reader.feed(written)
    assert reader.open == []
    return reader


def test_a_page_refers_to_nothing_outside_itself(written, reader):
    assert not re.search(r"https?:|//\w|@import|<script|<link", written)
    for _, attributes in reader.tags:
        for name in ("href", "src"):
            assert attributes.get(name, "#").startswith(("#", "data:"))


def test_ids_are_unique_and_every_reference_has_its_target(written, reader):
    assert len(set(reader.ids)) == len(reader.ids)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', written))
    assert used and used <= set(reader.ids)


def test_what_users_wrote_is_shown_and_not_interpreted(written):
    assert "A &lt;title&gt;" in written and "outputs/&lt;base&gt;" in written
    assert "Read &lt;this&gt;." in written and "a &amp; b" in written


def test_tables_and_drawings_can_be_read_without_seeing_them(reader):
    scopes = [attributes.get("scope") for tag, attributes in reader.tags if tag == "th"]
    assert scopes.count("col") == 4 and scopes.count("row") == 2 and None not in scopes
    assert sum(tag == "caption" for tag, _ in reader.tags) == 2
    drawings = [attributes for tag, attributes in reader.tags if tag == "svg"]
    assert [(d["role"], d["aria-label"]) for d in drawings] == [("img", 'Rises to "1".')] * 2


def test_colours_follow_the_page(written):
    assert "prefers-color-scheme: dark" in written
    assert "currentColor" in written and "#010203" not in written


def test_a_drawing_is_the_same_bytes_each_time():
    drawing = Drawing("curve", "", "", draw, (3, 2))
    assert svg_of(drawing, "a") == svg_of(drawing, "a") != svg_of(drawing, "b")


def test_a_table_for_the_terminal_is_aligned():
    table = Table("Title", ("name", "a", "b"), [("x", "1.0 [0.5, 1.5]", "2"), ("longer", "3", "4")])
    assert plain_table(table).splitlines() == [
        "Title",
        "  name                 a  b",
        "  x       1.0 [0.5, 1.5]  2",
        "  longer               3  4",
    ]


def test_numbers_are_shown_with_their_intervals():
    assert percent(Estimate(0.881, 0.8562, 0.905, 9)) == "88.1 [85.6, 90.5]"
    assert percent(0.25) == "25.0"
    assert decimal(Estimate(0.5, float("nan"), float("nan"), 9)) == "0.50"
    assert decimal(float("nan")) == "-"
