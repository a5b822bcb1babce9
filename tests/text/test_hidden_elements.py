"""Texts that do not say which elements a crystal has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clac_jax.crystals.elements import name, symbol
from clac_jax.text.hidden_elements import without_elements


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("Each sodium atom has six chlorine neighbors.",
         "Each element atom has six element neighbors."),
        ("Sodium and Cesium", "Element and Element"),
        ("a germanium-centered site", "a element-centered site"),
        ("Two fluorides, a dioxide and an oxynitride", "Two compounds, a compound and an compound"),
        ("Titanates are compounds.", "Compounds are compounds."),
        ("Fe–O bonds and K-O-K angles", "element–element bonds and element-element-element angles"),
        ("sulphur, sulfur, aluminium, dinitrogen", "element, element, element, element"),
    ],
)  # fmt: skip
def test_names_classes_and_bonds_go(words, expected):
    assert without_elements(words) == expected


@pytest.mark.parametrize(
    "words",
    [
        "The space groups P-1, C2/c, I-43m, P6_3/mmc (No. 194) and Pbcn",
        "In the perovskite, as in rutile, no atom is at the cell's origin. He is at 2.08 Å.",
        "Isolated tetrahedra in a direction outside the plane",  # "ide" within a word
        "ironic, tinned, leading, goldfish",
    ],
)
def test_structure_and_other_words_stay(words):
    assert without_elements(words) == words


@given(st.lists(st.integers(1, 118), min_size=1, max_size=6))
def test_no_element_is_left(numbers):
    words = f"Made of {', '.join(name(number) for number in numbers)} atoms; bonds "
    words += "–".join(symbol(number) for number in [*numbers, 8])
    hidden = without_elements(words)
    expected = f"Made of {', '.join(['element'] * len(numbers))} atoms; bonds "
    assert hidden == expected + "–".join(["element"] * (len(numbers) + 1))
    assert without_elements(hidden) == hidden
