"""Symmetry of CIF texts: how it is declared, its operations and special positions."""

import numpy as np
import pytest
from helpers.cif import NA_AND_CL, QUARTZ, cell, fault, operations, sites, text_of
from helpers.crystals import NACL, rock_salt

from clac_jax.crystals.crystal import Crystal, CrystalError
from clac_jax.crystals.numbers import MAX_ATOMS

# A refused input raises its error without a prior warning.
pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("number", ["'P1'", "225a", "''", "1e999", "231"])
def test_a_number_is_not_needed_where_the_operations_are_listed(number):
    text = fault("01").replace("'225'", number) + operations("x,y,z", "-x,-y,-z")
    assert Crystal.from_cif(text).num_atoms == 2


def test_magnetic_operations_and_centrings_are_applied_without_their_time_reversal():
    crystal = Crystal.from_cif(fault("03"))
    expected = [[0.1, 0.2, 0.3], [0.9, 0.8, 0.7], [0.6, 0.7, 0.8], [0.4, 0.3, 0.2]]
    np.testing.assert_allclose(crystal.fractional, expected, atol=1e-12)


def test_superspace_operations_are_refused():
    with pytest.raises(CrystalError, match="modulated"):
        Crystal.from_cif(fault("04"))
    with pytest.raises(CrystalError, match="modulated"):
        Crystal.from_cif(NACL + "_cell_modulation_dimension 1\n")


@pytest.mark.parametrize(
    "symmetry",
    [
        "_space_group.name_H-M_alt 'F m -3 m'",
        "_SPACE_GROUP_NAME_H-M_ALT 'F m -3 m'",
        "_space_group_name_H-M_full 'F 4/m -3 2/m'",
        "_space_group_name_H-M_full 'F4/m-32/m'",
        "_space_group_name_H-M_ref 'Fm-3m'",
        "_symmetry.space_group_name_H-M 'F m 3 m'",
        "_space_group.IT_number 225",
        "_space_group.name_Hall '-F 4 2 3'",
        "_space_group_name_Schoenflies Oh^5",
        "_space_group.name_Schoenflies 'O_h.5'",
        "_symmetry_Int_Tables_number '225'",
    ],
)
def test_symmetry_is_applied_for_every_tag_that_declares_it(symmetry):
    text = fault("05").replace("_space_group.name_H-M_alt 'F m -3 m'", symmetry)
    assert Crystal.from_cif(text).num_atoms == 8


@pytest.mark.parametrize(
    "symmetry",
    [
        "_symmetry_cell_setting cubic",
        "_space_group_crystal_system cubic",
        "_space_group_magn.name_BNS 'F m -3 m'",
        "_space_group_magn.number_BNS 225.116",
        "_space_group_centring_type F",
        "_symmetry_equiv_pos_as_mystery x,y,z",
        "_space_group_name_Schoenflies Q7",
        "_space_group_name_Hall mystery",
        "_parent_space_group.IT_number 225",
    ],
)
def test_symmetry_that_cannot_be_applied_is_refused(symmetry):
    text = fault("05").replace("_space_group.name_H-M_alt 'F m -3 m'", symmetry)
    with pytest.raises(CrystalError):
        Crystal.from_cif(text)


def test_symmetry_declared_in_a_different_block_is_detected():
    text = text_of(cell(5.64), NA_AND_CL)
    assert Crystal.from_cif(text).num_atoms == 2
    with pytest.raises(CrystalError, match="declares a symmetry"):
        Crystal.from_cif("data_global\n_space_group_IT_number 225\n" + text)


@pytest.mark.parametrize(
    "tag",
    ["_spacegroup_name_H-M", "_Int_Tables_number", "_cod_original_sg_symbol_H-M", "_sg_number"],
)
def test_symmetry_under_an_unknown_tag_is_detected(tag):
    with pytest.raises(CrystalError, match="declares a symmetry"):
        Crystal.from_cif(text_of(cell(5.64), f"{tag} 225", NA_AND_CL))
    assert Crystal.from_cif(text_of(cell(5.64), f"{tag} 'P 1'", NA_AND_CL)).num_atoms == 2


@pytest.mark.parametrize(
    "symmetry",
    ["_symmetry_cell_setting triclinic", "_space_group_IT_number 1", "_space_group_id 7"],
)
def test_p1_is_p1_however_it_is_declared(symmetry):
    assert Crystal.from_cif(text_of(cell(5.64), symmetry, NA_AND_CL)).num_atoms == 2


@pytest.mark.parametrize(
    "symmetry",
    [
        "_space_group_IT_number 225\n_space_group_name_H-M_alt 'P m -3 m'",
        "_space_group_IT_number 225\n_space_group_name_Hall '-P 4 2 3'",
        "_space_group_IT_number 225\n_symmetry_Int_Tables_number 221",
        "_space_group_IT_number 225\n_space_group_name_Schoenflies Oh^1",
        operations("x,y,z") + operations("x,y,z", "-x,-y,-z", tag="_symmetry_equiv_pos_as_xyz"),
    ],
)
def test_declarations_that_contradict_each_other_are_refused(symmetry):
    with pytest.raises(CrystalError):
        Crystal.from_cif(text_of(cell(5.64), symmetry, NA_AND_CL))


def test_operations_take_precedence_over_a_symbol_that_the_atoms_contradict():
    p1_of_all = operations("x,y,z")
    symbol = "_symmetry_space_group_name_H-M 'F m -3 m'\n"
    salt = rock_salt()
    names = ["Na"] * 4 + ["Cl"] * 4
    every_atom = sites(
        *(f"{n} {x} {y} {z}" for n, (x, y, z) in zip(names, salt.fractional, strict=True))
    )
    assert Crystal.from_cif(text_of(cell(5.64), symbol, p1_of_all, every_atom)).num_atoms == 8
    with pytest.raises(CrystalError, match="lists 1 operations"):
        Crystal.from_cif(text_of(cell(5.64), symbol, p1_of_all, NA_AND_CL))


def test_images_of_two_digit_coordinates_are_one_atom_on_its_special_position():
    crystal = Crystal.from_cif(fault("11"))
    expected = [[1 / 3, 2 / 3, 0.2], [2 / 3, 1 / 3, 0.8]]
    np.testing.assert_allclose(crystal.fractional, expected, atol=1e-9)


@pytest.mark.parametrize("digits", range(2, 8))
@pytest.mark.parametrize("a", [4.0, 12.0, 18.0])
def test_thirds_of_any_number_of_digits_are_special_positions(digits, a):
    third, two_thirds = f"{1 / 3:.{digits}f}", f"{2 / 3:.{digits}f}"
    text = text_of(
        cell(a, angles=(90, 90, 120)),
        "_symmetry_space_group_name_H-M 'P -3 m 1'",
        sites(f"C1 {third} {two_thirds} 0.2"),
    )
    assert Crystal.from_cif(text).num_atoms == 2


def test_atoms_as_close_as_in_a_hydrogen_molecule_are_not_merged():
    molecule = text_of(cell(10.0), operations("x,y,z", "-x,-y,-z"), sites("H1 0.04 0.0 0.0"))
    assert Crystal.from_cif(molecule).num_atoms == 2


@pytest.mark.parametrize(
    "triplets",
    [
        ("x,y,z", "x,x,z"),
        ("x,y,z", "2x,y,z"),
        ("x,y,z", "x+y,y,z"),
        ("x,y,z", "-y,x,z"),  # without -x,-y,z
        ("x,y,z", "x+1/3,y,z"),
        ("-x,-y,-z",),
        ("x,y,z", "x+1/0,y,z"),
        ("x,y,z", "x+0.12345,y,z"),
        ("x,y,z", "a,b,c"),
        ("x,y,z", "x;y;z"),
        ("x,y,z", "1e9x,y,z"),
        ("x,y,z", ""),
        ("x,y",),
        tuple(f"x+{i}/1999,y,z" for i in range(1999)),
    ],
)
def test_operations_that_are_not_a_crystallographic_group_are_refused(triplets):
    if triplets[-1]:
        with pytest.raises(CrystalError, match=r"operation|CIF"):
            Crystal.from_cif(text_of(cell(), operations(*triplets), sites("Cu1 .1 .2 .3")))


@pytest.mark.parametrize(
    "triplets",
    [
        ("x,y,z", "1/2+x,1/2-y,-z", "-x,1/2+y,1/2-z", "1/2-x,-y,1/2+z"),
        ("X,Y,Z", "0.5+X, 0.5-Y, -Z", "-X, 0.5+Y, 0.5-Z", "0.5-X, -Y, 0.5+Z"),
        ("+x,+y,+z", "x+1/2,-y+3/2,-z", "-x,y-1/2,-z+1/2", "-x+1/2,-y+1,z+1/2"),
    ],
)
def test_operations_are_read_in_any_notation(triplets):
    crystal = Crystal.from_cif(text_of(cell(), operations(*triplets), sites("Cu1 .1 .2 .3")))
    expected = [[0.1, 0.2, 0.3], [0.6, 0.3, 0.7], [0.9, 0.7, 0.2], [0.4, 0.8, 0.8]]
    np.testing.assert_allclose(crystal.fractional, expected, atol=1e-12)


def test_thirds_as_decimals_are_thirds():
    decimals = QUARTZ.replace("2/3", "0.6667").replace("1/3", ".33333")
    np.testing.assert_array_equal(
        Crystal.from_cif(decimals).positions, Crystal.from_cif(QUARTZ).positions
    )


def test_more_atoms_than_the_limit_are_refused_before_they_are_generated():
    rows = [f"Cu{i} {i / 3001:.6f} 0.1234 0.2345" for i in range(3000)]
    text = text_of(cell(400.0), "_symmetry_space_group_name_H-M 'F m -3 m'", sites(*rows))
    with pytest.raises(CrystalError, match=f"{MAX_ATOMS:,}"):
        Crystal.from_cif(text)


def test_a_very_long_tag_is_shortened_in_the_message():
    tag = f"_symmetry_space_group_name_{'9' * 5000}"
    with pytest.raises(CrystalError, match="declares a symmetry") as error:
        Crystal.from_cif(text_of(cell(5.64), f"{tag} 'P m -3 m'", NA_AND_CL))
    assert len(str(error.value)) < 300
