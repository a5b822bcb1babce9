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
    ("words", "expected"),
    [
        ("Li1+ is bonded to six O2- atoms; Ni²⁺, Cl⁻, Na¹⁺, Fe(III), Co^{3+} and Fe<sup>3+</sup>",
         "element is bonded to six element atoms; element, element, element, element, element "
         "and element"),
        ("In the first Ni(1) site, Ni(1) has two O(2).",
         "In the first element site, element has two element."),
        ("Fe1–O1–Fe2, Fe3+–O2- and Ti–O2-",
         "element–element–element, element–element and element–element"),
        ("the Fe1 and O1 sites", "the element and element sites"),
        ("Ti-based, O-rich, As-doped", "element-based, element-rich, element-doped"),
        ("Na is bonded to six equivalent Cl and one K; O and F atoms, In atoms",
         "element is bonded to six equivalent element and one element; element and element atoms, "
         "element atoms"),
        ("cuprate nickelate iridate ruthenate cobaltate cerates aluminide", "compound " * 5 +
         "compounds compound"),
        ("ferrous, Cupric and uranyl", "element, Element and compound"),
        ("It can lead to a gap; from lead to oxygen",
         "It can lead to a gap; from element to element"),
    ],
)  # fmt: skip
def test_ions_labels_symbols_and_more_classes_go(words, expected):
    assert without_elements(words) == expected


@pytest.mark.parametrize("symbol_", ["O", "K", "In", "As", "B", "Fe"])
def test_the_elements_of_numbered_and_inequivalent_sites_go(symbol_):
    words = (
        "There are three inequivalent {0} sites and one inequivalent {0} site. In the first {0} "
        "site, {0} is bonded to six {0} atoms. The tenth and the twenty-first {0} sites"
    )
    assert without_elements(words.format(symbol_)) == words.format("element")


@pytest.mark.parametrize(
    "ion",
    [
        *("V+4.50+", "O+1.50-", "Fe2.67+", "O1.5-", "Fe+2.67", "O−1.5", "In0.333+"),
        *("Mn^3.5+", "V^{3.5+}", "V$^{3.5+}$", "V^3.5+^", "V<sup>3.5+</sup>"),
    ],
)
def test_ions_go_with_their_fractional_charges(ion):
    words = f"{ion} is bonded to six {ion} atoms; {ion}, {ion}–O2- and {ion}."
    assert without_elements(words) == words.replace(ion, "element").replace("O2-", "element")


@pytest.mark.parametrize(
    "kind",
    ["oxide", "oxyfluoride", "ammine", "hydrate", "carbonyl", "ammonium", "oxyacid", "manganite"],
)
def test_a_class_goes_whatever_its_ending(kind):
    assert without_elements(f"Two {kind}s, a {kind}.") == "Two compounds, a compound."


@pytest.mark.parametrize(
    "words",
    [
        "The space groups P-1, C2/c, I-43m, P6_3/mmc (No. 194) and Pbcn",
        "In the perovskite, as in rutile, no atom is at the cell's origin. He is at 2.08 Å.",
        "Isolated tetrahedra in a direction outside the plane",  # "ide" within a word
        "ironic, tinned, leading, goldfish, macerate, glyceric, ferromagnetic",
        "Pm3\u0305m, Pa-3, Cm, C2 symmetry, the S4 axis, Cs symmetry, C- and F-centered",
        "the B-site, K-points, V-shaped, Co-planar, type I and II, at 5 Pa, 300 K and 3 V",
        "the B site, the first site, its first O-site, V-0.5x and I–1.5–2.5",
        "We elaborate, and they collaborate and corroborate; monochromates",
        "Li et al., Ho, et al. and W. Ba et al.",
        "As a result, no atoms move; I see one. At 300 K, it is stable.",
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
