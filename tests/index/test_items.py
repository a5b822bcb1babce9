"""The columns of the items: formula, symmetry, density, and the properties of the data."""

import numpy as np
import pytest
from helpers.crystals import rock_salt

from clac_jax.crystals.crystal import Crystal
from clac_jax.index import filters
from clac_jax.index.items import COMPUTED, Item, column_of, property_names, table_of
from clac_jax.index.layout import BuildError


def test_the_facts_of_rock_salt():
    (row,) = table_of([Item("salt", rock_salt(5.64), "Salt.", {"band gap": 8.5})]).to_pylist()
    assert (row["id"], row["formula"], row["elements"]) == ("salt", "NaCl", ["Cl", "Na"])
    assert (row["n_atoms"], row["n_elements"]) == (8, 2)
    assert (row["crystal_system"], row["space_group"]) == ("cubic", 225)
    assert row["volume_per_atom"] == pytest.approx(5.64**3 / 8)
    assert row["density"] == pytest.approx(2.163, abs=2e-3)  # measured: 2.165 g/cm^3
    assert (row["band_gap"], row["text"]) == (8.5, "Salt.")
    back = Crystal.from_arrays(row["lattice"], row["atomic_numbers"], row["frac_coords"])
    np.testing.assert_allclose(back.positions, rock_salt(5.64).positions, atol=1e-12)


def test_every_item_has_every_property_column():
    items = [
        Item("a", rock_salt(), properties={"x": 1.0, "nan": float("nan")}),
        Item("b", rock_salt(), properties={"y": 2.0}),
    ]
    table = table_of(items)
    assert table["x"].to_pylist() == [1.0, None]
    assert table["y"].to_pylist() == [None, 2.0]
    assert "nan" not in table.column_names
    assert table["text"].to_pylist() == [None, None]


def test_columns_are_identifiers_and_computed_ones_are_kept():
    assert [column_of(name) for name in ("energy above hull", "E (eV)", "2d", "%")] == [
        "energy_above_hull", "E_eV", "p_2d", "property",
    ]  # fmt: skip
    table = table_of([Item("a", rock_salt(), properties={"density": 1.0, "n_atoms": 9.0})])
    assert table["density"].to_pylist() == pytest.approx([2.163], abs=2e-3)
    assert table["n_atoms"].to_pylist() == [8]


@pytest.mark.parametrize(
    "name", ["lambda", "class", "not", "None", "R²", "µ_total", "½", "2d", "·"]
)
def test_every_column_can_be_named_in_a_condition(name):
    table = table_of([Item("a", rock_salt(), properties={name: 4.0})])
    (column,) = set(table.column_names) - COMPUTED
    assert filters.parse(f"{column} > 3", table.schema).mask(table).tolist() == [True]


def test_properties_that_would_share_a_column_are_refused():
    for names in (["mobility (+)", "mobility (-)"], ["gap (eV)", "gap/eV"]):
        with pytest.raises(BuildError, match="would both be the column") as raised:
            property_names(names)
        assert all(repr(name) in str(raised.value) for name in names)
    with pytest.raises(BuildError, match="would both be the column"):
        table_of([Item("a", rock_salt(), properties={"band gap": 1.0, "band_gap": 2.0})])


def test_names_that_differ_in_spaces_are_one_property():
    assert list(property_names(["band gap", "band_gap", "density", "(density)"])) == ["band_gap"]


@pytest.mark.parametrize(
    ("angles", "system"),
    [((90, 90, 90), "orthorhombic"), ((90, 97, 90), "monoclinic"), ((83, 97, 92), "triclinic")],
)
def test_crystal_systems_follow_from_the_space_group(angles, system):
    atoms = {"abc": [3.1, 4.2, 5.3], "angles": angles, "elements": ["Cu"], "coords": [[0, 0, 0]]}
    (row,) = table_of([Item("a", Crystal.from_atoms(atoms))]).to_pylist()
    assert row["crystal_system"] == system
