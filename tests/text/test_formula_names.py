"""Formulas of queries are spelled out."""

import pytest

from clac_jax.text.formula_names import MAX_WORDS, spelled_out


@pytest.mark.parametrize(
    ("text", "added"),
    [
        ("GaN", ". GaN is a compound made of gallium and nitrogen."),
        (
            "LiFePO4 cathode.",
            " LiFePO4 is a compound made of lithium, iron, phosphorus and oxygen.",
        ),
        (
            "TiO2 on Al2O3",
            ". TiO2 is a compound made of titanium and oxygen. "
            "Al2O3 is a compound made of aluminum and oxygen.",
        ),
        ("is Cs2SnI6 stable? ", ". Cs2SnI6 is a compound made of cesium, tin and iodine."),
        ("Mn(IV)O2", ". Mn(IV)O2 is a compound made of manganese and oxygen."),
        ("0.7BiFeO3", ". 0.7BiFeO3 is a compound made of bismuth, iron and oxygen."),
        ("Al2 O3", ". Al2 O3 is a compound made of aluminum and oxygen."),
        ("FAPbI3 and (BA)2PbI4", ""),  # FA and BA are cations without symbols
        ("PEA2PbI4 or Ti3C2T_x", ""),
        ("TiO2, a titanium oxide with oxygen", ""),
        ("a layered oxide", ""),
        ("In a layered oxide, I found no lead", ""),
        ("word " * MAX_WORDS + "TiO2", ""),
    ],
)
def test_names_are_added(text, added):
    start = text.rstrip() if added else text
    expected = start + (added if not start.endswith("?") else added[1:])
    assert spelled_out(text) == expected
