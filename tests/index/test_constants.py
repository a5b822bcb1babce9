"""Constants of conditions: formulas and arithmetic."""

import ast
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clac_jax.crystals.crystal import Crystal
from clac_jax.crystals.elements import symbol
from clac_jax.crystals.formulas import conventional
from clac_jax.index.constants import constant_of, reduced_formula


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        ("O2Ti", "TiO2"),
        ("Ti2O4", "TiO2"),
        ("Ca3(PO4)2", "Ca3P2O8"),
        ("[Fe(CN)6]K3", "K3FeC6N6"),
        ("Na Cl", "NaCl"),
        ("Si", "Si"),
        ("CO", "CO"),
        ("Co", "Co"),
        ("", None),
        ("Tio2", None),
        ("TiO2x", None),
        ("(TiO2", None),
        ("TiO2)", None),
        ("Ti0O2", None),
        ("TiO2.5", None),
        ("TiO2-", None),
        ("(" * 20 + "O" + ")" * 20, None),
    ],
)
def test_a_formula_is_reduced_and_in_the_conventional_order(text, formula):
    assert reduced_formula(text) == formula


@given(st.lists(st.sampled_from([8, 22, 11, 17]), min_size=1, max_size=9))
def test_the_order_in_a_formula_does_not_matter(numbers):
    lattice = [[40.0, 0, 0], [0, 4.0, 0], [0, 0, 4.0]]
    places = [[k / len(numbers), 0, 0] for k in range(len(numbers))]
    formula = Crystal.from_arrays(lattice, numbers, places).formula
    assert reduced_formula(formula) == conventional(Counter(map(symbol, numbers)))


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("-3", -3), ("'a'", "a"), ("True", True), ("2 * 3 + 1", 7), ("2 ** -1", 0.5)],
)
def test_constants(text, value):
    assert constant_of(ast.parse(text, mode="eval").body) == value


@pytest.mark.parametrize(
    "text",
    ["x", "1 / 0", "9 ** 9 ** 9", "'a' + 'b'", "-True", "1j", "b'a'", "(-8) ** 0.5", "5 % 2"],
)
def test_everything_else_is_refused(text):
    with pytest.raises(ValueError, match=r"\w"):
        constant_of(ast.parse(text, mode="eval").body)
