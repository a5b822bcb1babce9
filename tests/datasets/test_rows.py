"""Strict conversion of the rows of a table; anything unexpected makes a bad row."""

import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from helpers.user_tables import row
from hypothesis import given, settings
from hypothesis import strategies as st

from clac_jax.datasets.columns import RESERVED, UnreadableRow
from clac_jax.datasets.record import PROPERTIES, Record
from clac_jax.datasets.rows import record_of_row, row_name
from clac_jax.errors import UserError

FAULTS = Path(__file__).parents[1] / "data" / "faults"
NAN = float("nan")
ARRAYS = {
    "lattice": [[4.0, 0, 0], [0, 4, 0], [0, 0, 4]],
    "atomic_numbers": [55, 17],
    "frac_coords": [[0, 0, 0], [0.5, 0.5, 0.5]],
}


def fault(name):
    return json.loads((FAULTS / name).read_text())


def with_arrays(**changes):
    return row(0, atoms=None) | ARRAYS | changes


@pytest.mark.parametrize("missing", [None, NAN, np.float64("nan"), Decimal("NaN"), ""])
@pytest.mark.parametrize(
    "column", ["text", "gpt_explanation", "structure_question_list", "cif", "formula", "jid"]
)
def test_nan_means_missing(column, missing):
    complete = row(3, gpt_explanation=None)
    assert record_of_row(complete | {column: missing}).digest() == record_of_row(complete).digest()


@pytest.mark.parametrize("missing", [None, NAN, "NaN", "null", "None", " "])
def test_nan_in_atoms_does_not_hide_arrays_or_a_cif(missing):
    assert len(record_of_row(with_arrays(atoms=missing)).atomic_numbers) == 2


@pytest.mark.parametrize("word", ["NaN", "nan", " NaN ", "None", "null", "NULL", "NA", "<NA>"])
@pytest.mark.parametrize(
    "column", ["id", "formula", "gpt_explanation", "text", "cif", "structure_question_list"]
)
def test_a_word_for_a_missing_value_is_not_content(column, word):
    complete = row(3, gpt_explanation=None)
    for value in (word, word.encode()):
        found = record_of_row(complete | {column: value}, 7)
        assert found.digest() == record_of_row(complete | {column: None}, 7).digest()


def test_a_row_of_words_for_missing_values_has_no_text_and_no_name():
    words = row(0, id="nan", gpt_text="NaN", gpt_explanation="None")
    assert row_name(words) is None
    with pytest.raises(UserError, match="its text is empty"):
        record_of_row(words)


@pytest.mark.parametrize("formula", ["Na", "N", "None2", "NAN"])
def test_a_formula_like_a_word_for_a_missing_value_is_kept(formula):
    assert record_of_row(row(0, formula=formula)).formula == formula


def test_nan_as_text_in_a_row_of_json():
    assert record_of_row(fault("r6_text_NaN.jsonl")).text_of("narratives", None) == "x"


@pytest.mark.parametrize(
    ("value", "name"),
    [(12.0, "12"), (12, "12"), (1.5, "1.5"), ("12.0", "12.0"), (NAN, "row 7"), (None, "row 7")],
)
def test_ids_of_columns_with_missing_values(value, name):
    assert record_of_row(row(0, id=value), 7).material_id == name


@pytest.mark.parametrize("value", [["a"], {"a": 1}, True])
def test_an_id_of_the_wrong_type_is_refused(value):
    with pytest.raises(UserError, match="its id is neither a string"):
        record_of_row(row(0, id=value))


def test_a_list_of_paragraphs_is_a_text():
    assert record_of_row(row(0, gpt_text=["One.", " Two. "])).gpt_text == "One. Two."


@pytest.mark.parametrize(
    "words", [{"gpt_text": ["NaN"]}, {"text": [["NaN", " null "]]}, {"text": ["None"]}]
)
def test_a_list_of_words_for_missing_values_has_no_text(words):
    with pytest.raises(UserError, match="its text is empty"):
        record_of_row(row(0, gpt_text=None, gpt_explanation=None) | words)
    mixed = {name: [*value, "A salt."] for name, value in words.items()}
    record = record_of_row(row(0, gpt_text=None, gpt_explanation=None) | mixed)
    assert (record.gpt_text or "".join(sum(record.text, ()))) == "A salt."


def test_an_element_of_a_question_list_may_be_a_word_for_a_missing_value():
    statements = ["Its oxide is Na2O.", "None"]
    record = record_of_row(row(0, structure_question_list=statements))
    assert record.questions["structure_question_list"] == tuple(statements)


@pytest.mark.parametrize("value", [5, True, {"a": "b"}, ["One.", 5], [["One."]]])
def test_a_text_of_the_wrong_type_is_refused(value):
    with pytest.raises(UserError, match="its gpt_text is not"):
        record_of_row(row(0, gpt_text=value))


def test_bytes_of_utf8_are_text_and_others_are_a_bad_row():
    assert record_of_row(row(0, gpt_text="Å".encode())).gpt_text == "Å"
    with pytest.raises(UserError, match=r"its gpt_text has a byte that is not UTF-8"):
        record_of_row(row(0, gpt_text="Å".encode("latin-1")))


@pytest.mark.parametrize("name", ["r2_lone_surrogate.jsonl", "r3_lone_surrogate_cif.jsonl"])
def test_a_lone_surrogate_in_a_file_is_a_bad_row(name):
    with pytest.raises(UserError, match=r"has (a lone surrogate|a byte that is not UTF-8)"):
        record_of_row(fault(name))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("id", "a\ud83d"),
        ("formula", "Cs\ud83dCl"),
        ("text", [["One \ud83d."]]),
        ("oxide_question_list", ["yes", "\udc00"]),
    ],
)
def test_a_lone_surrogate_in_any_column_is_a_bad_row(column, value):
    with pytest.raises(UserError, match="a lone surrogate"):
        record_of_row(row(0, **{column: value}))


def test_a_column_whose_name_cannot_be_stored_is_not_used():
    assert record_of_row(row(0, **{"\ud83d": 5.0})).properties == {"band gap": 0.0}


@pytest.mark.parametrize("big", [10**12, 10**30, 10**400, -1])
def test_atomic_numbers_out_of_range(big):
    with pytest.raises(UserError):
        record_of_row(with_arrays(atomic_numbers=[big, 17]))


def test_the_atomic_number_of_the_known_file():
    with pytest.raises(UserError):
        record_of_row(fault("r4_atomic_number_overflow.jsonl"))


@pytest.mark.parametrize("big", [10**400, "1e400", None])
def test_cells_and_coordinates_out_of_range(big, recwarn):
    for name in ("lattice", "frac_coords"):
        values = [list(values) for values in ARRAYS[name]]
        values[1][1] = big
        with pytest.raises(UserError):
            record_of_row(with_arrays(**{name: values}))
    assert not recwarn.list


def test_properties_are_float32_numbers():
    values = {"density": True, "label": True, "x": 10**400, "y": 1e39, "z": Decimal("2.5")}
    values |= {"bulk modulus": "2e3", "poisson ratio": "na", "w": np.float32(0.5), "nan": NAN}
    values |= {"shear modulus": "1_0", "refractive index": b"1_0"}  # numbers only in Python
    properties = record_of_row(row(1, **values)).properties
    assert properties == {"band gap": 1.0, "z": 2.5, "bulk modulus": 2000.0, "w": 0.5}


def test_the_stored_crystal_is_the_checked_one():
    record = record_of_row(with_arrays(lattice=[[4.1, 0, 0], [0, 4.1, 0], [0, 0, 4.1]]))
    for array in (record.lattice, record.positions):
        np.testing.assert_array_equal(array, array.astype(np.float32))


def test_a_repeated_key_in_atoms_is_a_bad_row():
    atoms = row(0)["atoms"].replace('"cartesian"', '"elements": ["Na", "Cl"], "cartesian"')
    for text in (atoms, atoms.replace("false", "False")):  # JSON, and Python's way of writing
        with pytest.raises(UserError, match="'elements' occurs twice"):
            record_of_row(row(0, atoms=text))


def test_an_unreadable_row_keeps_its_reason():
    with pytest.raises(UserError, match="its id is not UTF-8"):
        record_of_row(UnreadableRow("its id is not UTF-8"))


def test_the_digest_depends_on_the_content():
    same = record_of_row(row(1, density=2.0)).digest()
    shuffled = dict(reversed(row(1, density=2.0).items()))
    assert record_of_row(shuffled).digest() == same
    for change in ({"id": "x"}, {"gpt_text": "Other."}, {"density": 2.5}, {"formula": "X"}):
        assert record_of_row(row(1, **{"density": 2.0} | change)).digest() != same


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
columns = st.sampled_from(sorted({*RESERVED, *PROPERTIES, "other"}))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(columns, anything, max_size=3) | anything, st.booleans())
def test_any_row_gives_a_record_or_a_bad_row(changes, has_atoms):
    values = row(0) | changes if isinstance(changes, dict) and has_atoms else changes
    assert row_name(values) is None or isinstance(row_name(values), str)
    try:
        record = record_of_row(values)
    except UserError:
        return
    assert isinstance(record, Record)
    assert json.dumps(record.to_example()["rest"], ensure_ascii=False).encode()
    record.crystal()
