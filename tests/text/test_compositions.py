"""The compositions that formulas state, and the tokens of a text that they belong to."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clac_jax.crystals import elements
from clac_jax.text.compositions import formulas_in, fractions
from clac_jax.text.sentences import Tokenizer
from clac_jax.text.token_facts import token_formulas


def named(values):
    """Fractions as a dictionary of symbols."""
    return {elements.symbol(int(z)): float(values[z]) for z in np.flatnonzero(values)}


@pytest.mark.parametrize(
    ("formula", "counts"),
    [
        ("NaCl", {"Na": 1, "Cl": 1}),
        ("La2MoO6", {"La": 2, "Mo": 1, "O": 6}),
        ("Ca3(PO4)2", {"Ca": 3, "P": 2, "O": 8}),
        ("K2[PtCl6]", {"K": 2, "Pt": 1, "Cl": 6}),
        ("Ba2{Mg(OH)2}3", {"Ba": 2, "Mg": 3, "O": 6, "H": 6}),
        ("Li0.5CoO2", {"Li": 0.5, "Co": 1, "O": 2}),
        ("CaSO4·2H2O", {"Ca": 1, "S": 1, "O": 6, "H": 4}),
        ("2H2O", {"H": 2, "O": 1}),
        ("D2O", {"H": 2, "O": 1}),
        ("Al₂O₃", {"Al": 2, "O": 3}),
        ("SiO$_2$", {"Si": 1, "O": 2}),
        ("Bi_{2}Se_{3}", {"Bi": 2, "Se": 3}),
        ("Fe<sub>3</sub>O<sub>4</sub>", {"Fe": 3, "O": 4}),
        ("Ti~2~O~3~", {"Ti": 2, "O": 3}),
        ("CH3NH3PbI3", {"C": 1, "H": 6, "N": 1, "Pb": 1, "I": 3}),
    ],
)
def test_a_formula_states_these_fractions(formula, counts):
    total = sum(counts.values())
    expected = {symbol: pytest.approx(count / total) for symbol, count in counts.items()}
    assert named(fractions(formula)) == expected


@pytest.mark.parametrize(
    "formula",
    [
        "",
        "La2-xSrxCuO4",
        "NaCl)",
        "(NaCl",
        "Xx2O",
        "Na0Cl",
        "□2O",
        "na",
        "(" * 100,
        "H" * 300,
    ],
)
def test_variables_and_errors_state_no_composition(formula):
    assert fractions(formula) is None


SYMBOLS = st.sampled_from([elements.symbol(number) for number in range(1, 101)])


@given(st.dictionaries(SYMBOLS, st.integers(1, 30), min_size=1, max_size=6), st.integers(2, 9))
def test_groups_order_and_multiples_do_not_matter(counts, factor):
    terms = [symbol + (str(count) if count > 1 else "") for symbol, count in counts.items()]
    plain = fractions("".join(terms))
    assert plain is not None and plain.sum() == pytest.approx(1, abs=1e-6)
    for other in (f"({''.join(terms)}){factor}", "".join(reversed(terms))):
        np.testing.assert_allclose(fractions(other), plain, rtol=1e-6)


def test_formulas_in_a_text_are_found_in_their_order():
    text = "La2MoO6 is an oxide, unlike rutile TiO2 and La2-xSrxCuO4 of the space group P6_3/mmc."
    found = formulas_in(text)
    assert [text[each.start : each.end] for each in found] == ["La2MoO6", "TiO2"]
    assert named(found[1].fractions) == {"Ti": pytest.approx(1 / 3), "O": pytest.approx(2 / 3)}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_folder("minilm")


def test_the_tokens_of_a_formula_are_its_own(tokenizer):
    text = "In La2MoO6, as in TiO2, oxygen is bonded. TiO2 is rutile."
    ids, offsets = tokenizer.encode_with_offsets(text, 64)
    tokens, values = token_formulas(text, offsets, most=2)
    words = [tokenizer.decode(ids[first:end]).replace(" ", "") for first, end in tokens]
    assert words == ["la2moo6", "tio2"]
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, [fractions("La2MoO6"), fractions("TiO2")])


def test_a_formula_that_is_cut_states_nothing(tokenizer):
    text = "TiO2 and La2MoO6"
    for length in range(3, len(tokenizer.encode(text, 64)) + 1):
        _, offsets = tokenizer.encode_with_offsets(text, length)
        tokens, values = token_formulas(text, offsets, most=4)
        complete = sum(end <= offsets[:, 1].max() for end in (len("TiO2"), len(text)))
        assert len(tokens) == len(values) == complete
    assert complete == 2
