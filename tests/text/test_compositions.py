"""The compositions that formulas state, and the tokens of a text that they belong to."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clac_jax.crystals import elements
from clac_jax.text.compositions import elements_in, formulas_in, fractions
from clac_jax.text.hidden_elements import without_elements
from clac_jax.text.sentences import Tokenizer
from clac_jax.text.token_facts import token_composition


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
    ("formula", "plain"),
    [
        ("Fe(II)Fe(III)2O4", "Fe3O4"),
        ("Cu(I)2O", "Cu2O"),
        ("Mn(IV)O2", "MnO2"),
        ("V(V)2O5", "V2O5"),
        ("Fe(III)$_2$O$_3$", "Fe2O3"),
        ("Ni(0)2Ge", "Ni2Ge"),
        ("FeIIFeIII2O4", "Fe3O4"),
        ("CuII(OH)2", "Cu(OH)2"),
    ],
)
def test_oxidation_states_are_not_elements(formula, plain):
    np.testing.assert_array_equal(fractions(formula), fractions(plain))


@pytest.mark.parametrize(
    ("formula", "dotted"),
    [
        ("CuSO4.5H2O", "CuSO4·5H2O"),
        ("Na2CO3.10H2O", "Na2CO3·10H2O"),
        ("Ca(NO3)2.4H2O", "Ca(NO3)2·4H2O"),
        ("KF.2H2O", "KF·2H2O"),
        ("LiOH.H2O", "LiOH·H2O"),
        ("CuSO4.5D2O", "CuSO4·5H2O"),
        ("CuSO_4.5H_2O", "CuSO4·5H2O"),
        ("CuSO₄.5H₂O", "CuSO4·5H2O"),
        ("CaSO4.0.5H2O", "CaSO4·0.5H2O"),
        ("CaSO4.1/2H2O", "CaSO4·0.5H2O"),
        ("CaSO4·1/2H2O", "CaSO4·0.5H2O"),
        ("CaSO4·½H2O", "CaSO4·0.5H2O"),
        ("FeSO4·1½H2O", "FeSO4·1.5H2O"),
        ("CuSO4×5H2O", "CuSO4·5H2O"),
        (r"CuSO4\cdot5H2O", "CuSO4·5H2O"),
        ("Na0.35CoO2.1.3H2O", "Na0.35CoO2·1.3H2O"),
    ],
)
def test_the_parts_of_a_hydrate_are_separated_by_any_dot(formula, dotted):
    (found,) = formulas_in(f"the salt {formula}.")
    assert found.end - found.start == len(formula)
    np.testing.assert_allclose(found.fractions, fractions(dotted), rtol=1e-6)


@pytest.mark.parametrize(
    ("formula", "multiple"),
    [
        ("Ba0.5Sr0.5TiO3", "BaSrTi2O6"),
        ("WO2.9", "W10O29"),
        ("H0.5H2O", "H5O2"),
        ("CoO2·1.3H2O", "Co10O33H26"),
        ("La1.5H2OF", "La3H4O2F2"),
    ],
)
def test_other_full_stops_are_decimal_points(formula, multiple):
    np.testing.assert_allclose(fractions(formula), fractions(multiple), rtol=1e-6)


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
    text = (
        "La2MoO6 is an oxide, unlike TiO2 and La2-xSrxCuO4 of the space group P6_3/mmc. It is of "
        "the Cu3Au (L1_2) structure type, not of the BaNiO3) type or of the NaCl prototype."
    )
    found = formulas_in(text)
    assert [text[each.start : each.end] for each in found] == ["La2MoO6", "TiO2"]
    assert named(found[1].fractions) == {"Ti": pytest.approx(1 / 3), "O": pytest.approx(2 / 3)}


@pytest.mark.parametrize(
    "words",
    [
        "of the CsCl\u2010type structure",
        "of the CsCl\u2011type structure",
        "of the CsCl–type structure",
        "of the Th3P4 structural type",
        "of the Th3P4 structural prototype",
        "of the $Cu_3Au$-type",
        "of the $Cu_3$Au-type",
        "of the Cu<sub>3</sub>Au type",
    ],
)
def test_a_formula_that_names_a_structure_type_states_no_composition(words):
    assert not formulas_in(f"It is {words}.")


@pytest.mark.parametrize(
    "words",
    [
        "CaTiO3 perovskite",
        "CaTiO3–SrTiO3",
        "CaTiO3 structural data",
        "BaTiO3 perovskite structure",
        "TiO2 rutile structure with a large gap",
        "Y3Al5O12 garnet structure",
        "CaTiO3 perovskite-type oxide",
    ],
)
def test_other_words_about_structures_do_not_make_it_a_type(words):
    assert formulas_in(f"It is {words}.")


def test_elements_are_found_by_their_names():
    text = "Lead, Sulphur and aluminium lead to ironclad tin; caesium."
    assert [number for _, _, number in elements_in(text)] == [82, 16, 13, 50, 55]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("the lead to tin ratio", [82, 50]),
        ("charge goes from lead to iodine", [82, 53]),
        ("a ratio of lead to tin", [82, 50]),
        ("sodium to chlorine", [11, 17]),
        ("It can lead to a gap.", []),
        ("It can lead to tin vacancies.", [50]),
    ],
)
def test_lead_is_an_element_or_a_verb_by_the_words_around_it(words, expected):
    assert [number for _, _, number in elements_in(words)] == expected
    assert without_elements(words).count("element") == len(expected)


# --- by tokens


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_folder("minilm")


def stated(tokenizer, text, max_length=64, shown=None):
    """Fractions and named elements that a text states."""
    _, offsets = tokenizer.encode_with_offsets(text, max_length)
    fractions_, present = token_composition(text, offsets, shown)
    return named(fractions_), set(named(present))


def test_a_text_states_the_mean_of_its_formulas_and_the_elements_it_names(tokenizer):
    assert stated(tokenizer, "A salt.") == ({}, set())
    assert stated(tokenizer, "A salt of sodium.") == ({}, {"Na"})
    found, present = stated(tokenizer, "TiO2 and SrTiO3, and again TiO2, with iron.")
    assert found == {
        "Ti": pytest.approx((1 / 3 + 1 / 5 + 1 / 3) / 3),
        "O": pytest.approx((2 / 3 + 3 / 5 + 2 / 3) / 3),
        "Sr": pytest.approx(1 / 15),
    }
    assert present == {"Ti", "O", "Sr", "Fe"}


def test_a_formula_that_is_cut_states_nothing(tokenizer):
    text = "TiO2 and La2MoO6"
    seen = set()
    for length in range(3, len(tokenizer.encode(text, 64)) + 1):
        _, offsets = tokenizer.encode_with_offsets(text, length)
        end = offsets[:, 1].max()
        _, present = stated(tokenizer, text, length)
        assert present == {
            *({"Ti", "O"} if end >= len("TiO2") else ()),
            *({"La", "Mo", "O"} if end >= len(text) else ()),
        }
        seen.add(len(present))
    assert seen == {0, 2, 4}


def test_masked_tokens_state_nothing(tokenizer):
    text = "TiO2 is named for titanium and oxygen."
    ids, offsets = tokenizer.encode_with_offsets(text, 64)
    for token in range(len(ids)):
        shown = np.arange(len(ids)) != token
        found, present = stated(tokenizer, text, shown=shown)
        assert bool(found) == (offsets[token, 0] >= len("TiO2") or offsets[token, 1] == 0)
        assert present == {"Ti", "O"}  # the formula or the names remain
    assert stated(tokenizer, text, shown=np.zeros(len(ids), bool)) == ({}, set())
