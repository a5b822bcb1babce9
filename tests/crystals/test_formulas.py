"""Formulas in the order in which chemists write them."""

import pytest

from clac_jax.crystals import elements
from clac_jax.crystals.formulas import _SEQUENCE, conventional


@pytest.mark.parametrize(
    ("counts", "formula"),
    [
        ({"O": 6, "Ti": 2, "Ba": 2}, "BaTiO3"),
        ({"As": 4, "Ga": 4}, "GaAs"),
        ({"C": 1, "Si": 1}, "SiC"),
        ({"H": 3, "N": 1}, "NH3"),
        ({"O": 1, "H": 2}, "H2O"),
        ({"Cl": 3, "Cs": 1, "Pb": 1}, "CsPbCl3"),
        ({"O": 12, "P": 3, "Ca": 5, "F": 1}, "Ca5P3O12F"),
        ({"N": 1, "Na": 1, "O": 3}, "NaNO3"),
        ({"Fe": 4}, "Fe"),
    ],
)
def test_the_order_is_the_one_that_chemists_write(counts, formula):
    assert conventional(counts) == formula


def test_every_element_has_a_place_and_only_one():
    symbols = _SEQUENCE.split()
    assert len(symbols) == len(set(symbols))
    known = {elements.symbol(z) for z in range(1, elements.MAX_ATOMIC_NUMBER + 1)}
    assert known <= set(symbols)
