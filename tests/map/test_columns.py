"""Columns that colour the points."""

import numpy as np
import pyarrow as pa
import pytest

from clac_jax.map.columns import FAMILY, NO_VALUE, category, columns_of, family, number


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ("Ba Ti O", "Oxides"),
        ("La O F", "Halides"),  # F is more electronegative than O
        ("Bi O Cl", "Oxides"),
        ("Cs Pb I", "Halides"),
        ("Mo S", "Chalcogenides"),
        ("Ga As", "Pnictides"),
        ("Mg B", "C, B, Si, Ge, H compounds"),
        ("Ni Al", "Intermetallics"),
        ("O", "Elements"),
        ("Fe", "Elements"),
        ("Bi Te", "Chalcogenides"),
    ],
)
def test_the_most_electronegative_non_metal_gives_the_family(elements, expected):
    assert family(elements.split()) == expected


def test_a_number_has_a_scale_without_its_outliers():
    column = number("band_gap", [*np.linspace(0, 5, 400), 1e6, None, float("inf")])
    assert column.title == "Band gap (eV)"
    assert 0 < column.low < 0.1 and 4.9 < column.high < 5.1 and not column.is_log
    assert np.isnan(column.values[-2:]).all()


def test_positive_values_over_decades_have_a_logarithmic_scale():
    ranks = [1] * 60 + [10] * 20 + [500] * 20
    assert number("own_rank", ranks).is_log
    assert not number("own_rank", [0, *ranks]).is_log


def test_one_value_only_still_has_a_scale():
    column = number("n_atoms", [4, 4, 4])
    assert (column.low, column.high) == (4, 5)


def test_categories_keep_their_order_and_unknown_is_a_code_of_its_own():
    column = category("crystal_system", ["cubic", None, "odd", "triclinic"], ("cubic", "triclinic"))
    assert column.categories == ("cubic", "triclinic", "odd")
    assert column.values.tolist() == [0, NO_VALUE, 2, 1]


def test_columns_of_a_table():
    table = pa.table(
        {
            "id": ["a", "b"],
            "formula": ["O2Ti", "AlNi"],
            "elements": [["O", "Ti"], ["Al", "Ni"]],
            "crystal_system": ["cubic", None],
            "band_gap": [1.0, None],
            "empty": pa.array([None, None], pa.float64()),
            "is_layered": [True, None],
            "comment": ["some", "other"],
        }
    )
    columns = {column.key: column for column in columns_of(table)}
    assert list(columns) == [FAMILY, "crystal_system", "band_gap", "is_layered", "comment"]
    assert columns["is_layered"].categories == ("yes",)
    assert columns[FAMILY].categories == ("Oxides", "Intermetallics")
    many = pa.table({"elements": [["O"]] * 20, "comment": [str(i) for i in range(20)]})
    assert [column.key for column in columns_of(many)] == [FAMILY]
