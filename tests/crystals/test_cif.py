"""Reading CIF texts: values, elements, symmetry, special positions and the formula."""

import random
import warnings
from pathlib import Path

import gemmi
import numpy as np
import pyarrow.parquet as pq
import pytest
import spglib
from helpers.crystals import NACL, rock_salt
from hypothesis import given, settings
from hypothesis import strategies as st

from clac_jax.crystals import cif
from clac_jax.crystals.crystal import Crystal, CrystalError
from clac_jax.crystals.graph import build_graph
from clac_jax.crystals.numbers import MAX_ATOMS
from clac_jax.datasets.materials_project_mini.builder import PARQUET

FAULTS = Path(__file__).parents[1] / "data" / "faults"

# A refused input raises its error without a prior warning.
pytestmark = pytest.mark.filterwarnings("error")

QUARTZ = """data_comment_only
_journal_year 2020
data_quartz
_cell_length_a 4.9137
_cell_length_b 4.9137
_cell_length_c 5.4047
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 120
loop_
_symmetry_equiv_pos_as_xyz
'x, y, z'
'-y, x-y, z+2/3'
'-x+y, -x, z+1/3'
'y, x, -z+2/3'
'x-y, -y, -z'
'-x, -x+y, -z+1/3'
loop_
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Si1 0.4697 0.0000 0.0000 1.0
O1 0.4133 0.2672 0.1188 1.0
"""


def test_cif_with_a_space_group_name():
    crystal = Crystal.from_cif(NACL)
    assert crystal.formula == "ClNa"
    assert crystal.num_atoms == 8
    lengths = np.linalg.norm(build_graph(crystal, 3.0).edge_vectors, axis=1)
    np.testing.assert_allclose(lengths, 5.6402 / 2, rtol=1e-6)
    assert len(lengths) == 48


def test_cif_with_written_symmetry_and_no_type_symbols():
    crystal = Crystal.from_cif(QUARTZ)
    assert crystal.formula == "O2Si"
    assert crystal.num_atoms == 9
    graph = build_graph(crystal, 1.8)
    oxygens = np.bincount(graph.receivers, minlength=9)
    assert sorted(oxygens.tolist()) == [2] * 6 + [4] * 3
    np.testing.assert_allclose(np.linalg.norm(graph.edge_vectors, axis=1), 1.61, atol=0.02)


def test_cif_without_symmetry_is_p1():
    text = QUARTZ.split("loop_")[0] + "loop_" + QUARTZ.split("loop_")[2]
    assert Crystal.from_cif(text).num_atoms == 2


@pytest.mark.parametrize(
    "symmetry",
    [
        "_symmetry_Int_Tables_number 225",
        "_space_group_IT_number 225",
        "_symmetry_space_group_name_Hall '-F 4 2 3'",
        "_symmetry_space_group_name_H-M 'Fm-3m'",
    ],
)
def test_a_space_group_by_other_tags(symmetry):
    text = NACL.replace("_space_group_name_H-M_alt 'F m -3 m'", symmetry)
    assert Crystal.from_cif(text).num_atoms == 8


PEROVSKITE = (
    NACL.split("Na1 Na1+")[0].replace("'F m -3 m'", "'P m -3 m'").replace("5.6402", "3.905")
    + """Sr1 Sr2+ 0.5 0.5 0.5
Ti1 Ti4+ 0 0 0
O1 O2- 0.5 0 0
"""
)


def test_perovskite():
    crystal = Crystal.from_cif(PEROVSKITE)
    assert crystal.formula == "O3SrTi"
    graph = build_graph(crystal, 2.0)
    titanium = int(np.flatnonzero(crystal.atomic_numbers == 22)[0])
    assert np.sum(graph.receivers == titanium) == 6
    np.testing.assert_allclose(np.linalg.norm(graph.edge_vectors, axis=1), 3.905 / 2, rtol=1e-6)


def test_deuterium_is_hydrogen():
    assert 1 in Crystal.from_cif(NACL.replace("Cl1 Cl1-", "D1 D")).atomic_numbers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", "does not parse"),
        ("", "no atom sites"),
        (NACL.replace("Na1 Na1+", "Xq1 Xq"), "is not an element"),
        (NACL.replace("_cell_length_a 5.6402(3)\n", ""), "_cell_length_a is missing"),
        (NACL.replace("_cell_length_b 5.6402", "_cell_length_b ?"), "_cell_length_b is missing"),
        (NACL.replace("_cell_angle_gamma 90\n", ""), "_cell_angle_gamma is missing"),
        (NACL.replace("F m -3 m", "F q -3 m"), "'F q -3 m', which is unknown"),
        (QUARTZ.replace("-y, x-y", "-y, q"), "symmetry operation"),
        (NACL.replace("_cell_length_a 5.6402(3)", "_cell_length_a 0"), "length a is 0"),
        (NACL + "Cl2 Cl 0.51 0.51 0.51\n", "apart"),
        (
            NACL.replace("0.5 0.5 0.5", "? 0.5 0.5"),
            "Site 'Cl1' of the CIF has no _atom_site_fract_x",
        ),
        (QUARTZ.replace("0.1188 1.0", "0.1188 0.5"), "the occupancy 0.5"),
    ],
)
def test_bad_cifs(text, message):
    with pytest.raises(CrystalError, match=message):
        Crystal.from_cif(text)


def fault(name):
    (path,) = FAULTS.glob(f"{name}_*.cif")
    return path.read_text(encoding="utf-8")


def cell(a=6.0, b=None, c=None, angles=(90, 90, 90)):
    values = (a, b or a, c or a, *angles)
    tags = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    return "".join(f"_cell_{tag} {value}\n" for tag, value in zip(tags, values, strict=True))


def sites(*rows, columns=("label", "fract_x", "fract_y", "fract_z")):
    tags = "".join(f"_atom_site_{column}\n" for column in columns)
    return "loop_\n" + tags + "".join(f"{row}\n" for row in rows)


def operations(*triplets, tag="_space_group_symop_operation_xyz"):
    return f"loop_\n{tag}\n" + "".join(f"'{triplet}'\n" for triplet in triplets)


def text_of(*parts):
    return "data_x\n" + "".join(part if part.endswith("\n") else part + "\n" for part in parts)


NA_AND_CL = sites("Na1 0 0 0", "Cl1 0.5 0.5 0.5")


@pytest.mark.parametrize("number", ["225", "'225'", '"225"', "225.0", "\n;225\n;"])
def test_a_space_group_number_in_quotes_is_the_number(number):
    text = fault("01").replace("'225'", number)
    assert Crystal.from_cif(text).num_atoms == 8


@pytest.mark.parametrize("number", ["'P1'", "'225a'", "0", "231", "-1", "1e999", "22.5", "9" * 30])
def test_an_invalid_space_group_number_is_refused(number):
    with pytest.raises(CrystalError, match="number"):
        Crystal.from_cif(fault("01").replace("'225'", number))


@pytest.mark.parametrize("number", ["'P1'", "225a", "''", "1e999", "231"])
def test_a_number_is_not_needed_where_the_operations_are_listed(number):
    text = fault("01").replace("'225'", number) + operations("x,y,z", "-x,-y,-z")
    assert Crystal.from_cif(text).num_atoms == 2


@pytest.mark.parametrize("kind", ["Fe/Mn", "Fe3+,Mn", "Al2,Si", "(Fe,Mg)"])
def test_a_site_of_several_elements_is_refused(kind):
    columns = ("label", "type_symbol", "fract_x", "fract_y", "fract_z")
    with pytest.raises(CrystalError, match=r"has several elements|not an element"):
        Crystal.from_cif(text_of(cell(), sites(f"Q1 '{kind}' 0 0 0", columns=columns)))
    with pytest.raises(CrystalError, match=r"has several elements|not an element"):
        Crystal.from_cif(text_of(cell(), sites(f"'{kind}' 0 0 0")))


def test_disorder_groups_are_refused_even_with_full_occupancies():
    columns = ("label", "fract_x", "fract_y", "fract_z", "disorder_group")
    text = text_of(cell(), sites("O1 0 0 0 1", "O2 0.3 0 0 2", "Cu 0 0 .5 .", columns=columns))
    with pytest.raises(CrystalError, match="disorder"):
        Crystal.from_cif(text)
    assert Crystal.from_cif(text.replace("0.3 0 0 2", "0.3 0 0 1")).num_atoms == 3
    columns = ("label", "fract_x", "fract_y", "fract_z", "occupancy")
    for occupancy in ("0.5", "2", "0", "-1", "1e308", "x"):
        with pytest.raises(CrystalError, match="occup"):
            Crystal.from_cif(text_of(cell(), sites(f"O1 0 0 0 {occupancy}", columns=columns)))


@pytest.mark.parametrize("angle", ["0", "180", "360", "-90", "1e-9", "1e308", "nan", "(3)"])
def test_an_impossible_cell_angle_is_refused(angle):
    with pytest.raises(CrystalError, match=r"alpha|angles"):
        Crystal.from_cif(fault("02").replace("alpha 0", f"alpha {angle}"))


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


@pytest.mark.parametrize("name", ["Li+Na", "FeNi", "Fe0.5Ni0.5", "Fe2+Fe3+", "Na|Ca", "(Mg;Fe)"])
def test_a_site_of_two_elements_is_not_read_as_the_first(name):
    columns = ("type_symbol", "fract_x", "fract_y", "fract_z")
    for column in ("type_symbol", "label"):
        text = text_of(cell(), sites(f"{name} 0 0 0", columns=(column, *columns[1:])))
        with pytest.raises(CrystalError, match="has several elements"):
            Crystal.from_cif(text)


@pytest.mark.parametrize("name", ["NH4", "H2O", "CH3", "PO4", "Vac", "Va"])
def test_groups_of_atoms_and_vacancies_are_not_elements(name):
    columns = ("type_symbol", "fract_x", "fract_y", "fract_z")
    with pytest.raises(CrystalError, match="is not an element"):
        Crystal.from_cif(text_of(cell(), sites(f"{name} 0 0 0", columns=columns)))


@pytest.mark.parametrize(
    "symmetry",
    ["_symmetry_cell_setting triclinic", "_space_group_IT_number 1", "_space_group_id 7"],
)
def test_p1_is_p1_however_it_is_declared(symmetry):
    assert Crystal.from_cif(text_of(cell(5.64), symmetry, NA_AND_CL)).num_atoms == 2


DIAMOND = cell(3.567) + "_symmetry_space_group_name_H-M 'F d -3 m'\n"


@pytest.mark.parametrize(
    ("symmetry", "site", "num_atoms"),
    [
        ("_space_group_IT_coordinate_system_code 1", "C1 0 0 0", 8),
        ("_space_group.IT_coordinate_system_code '2'", "C1 0.125 0.125 0.125", 8),
        ("_space_group_name_Hall 'F 4d 2 3 -1d'", "C1 0 0 0", 8),
        ("_chemical_formula_sum C\n_cell_formula_units_Z 8", "C1 0 0 0", 8),
        ("_chemical_formula_sum C\n_cell_formula_units_Z 8", "C1 0.125 0.125 0.125", 8),
    ],
)
def test_the_origin_is_that_of_the_code_or_of_the_formula(symmetry, site, num_atoms):
    crystal = Crystal.from_cif(text_of(DIAMOND, symmetry, sites(site)))
    assert crystal.num_atoms == num_atoms
    lengths = np.linalg.norm(build_graph(crystal, 1.7).edge_vectors, axis=1)
    np.testing.assert_allclose(lengths, 3.567 * np.sqrt(3) / 4, rtol=1e-6)


@pytest.mark.parametrize("symbol", ["F d -3 m:1", "F d -3 m S", "F d -3 m (origin choice 1)"])
def test_the_origin_is_that_of_the_symbol(symbol):
    text = text_of(DIAMOND.replace("F d -3 m", symbol), sites("C1 0 0 0"))
    assert Crystal.from_cif(text).num_atoms == 8
    text = text_of(DIAMOND.replace("F d -3 m", symbol.replace("1", "2").replace("m S", "m Z")))
    assert Crystal.from_cif(text + sites("C1 0.125 0.125 0.125")).num_atoms == 8


def test_an_origin_is_chosen_only_if_the_crystal_decides():
    # Spinel: only one of the two origins gives its formula.
    spinel = text_of(
        cell(8.08),
        "_symmetry_space_group_name_H-M 'F d -3 m'\n_chemical_formula_sum 'Mg Al2 O4'",
        sites("Mg1 0.125 0.125 0.125", "Al1 0.5 0.5 0.5", "O1 0.2624 0.2624 0.2624"),
    )
    crystal = Crystal.from_cif(spinel)
    assert (crystal.formula, crystal.num_atoms) == ("Al2MgO4", 56)
    for text in (
        fault("07"),
        fault("07").replace(
            "_symmetry_space_group_name_H-M 'F d -3 m'", "_space_group_IT_number 227"
        ),
    ):
        with pytest.raises(CrystalError, match="F d -3 m:1 or F d -3 m:2"):
            Crystal.from_cif(text)


@pytest.mark.parametrize(
    ("number", "code", "angles", "setting"),
    [
        (59, "1cab", (90, 90, 90), "P n m m:1"),
        (59, "2bca", (90, 90, 90), "P m n m:2"),
        (62, "a-cb", (90, 90, 90), "P n a m"),
        (14, "b2", (90, 100, 90), "P 1 21/n 1"),
        (14, "2", (90, 90, 100), "P 1 1 21/n"),
    ],
)
def test_a_code_selects_the_axes_and_the_origin(number, code, angles, setting):
    symmetry = f"_space_group_IT_number {number}\n_space_group_IT_coordinate_system_code {code}"
    text = text_of(cell(9, 10, 11, angles), symmetry, sites("Cu1 0.11 0.18 0.32"))
    group = next(group for group in gemmi.spacegroup_table() if group.xhm() == setting)
    images = [op.apply_to_xyz([0.11, 0.18, 0.32]) for op in group.operations()]
    crystal = Crystal.from_cif(text)
    assert crystal.num_atoms == len(images)
    steps = np.array(images)[:, None] - crystal.fractional[None]
    assert (np.abs(steps - np.round(steps)).max(axis=2).min(axis=1) < 1e-6).all()


def test_a_code_that_contradicts_the_symbol_is_detected():
    box = text_of(cell(9, 10, 11, (90, 100, 90)), sites("Cu1 0.11 0.18 0.32"))
    text = box + "_space_group_IT_coordinate_system_code {}\n_space_group_name_H-M_alt 'P 21/c'\n"
    assert Crystal.from_cif(text.format("b1")).num_atoms == 4
    with pytest.raises(CrystalError, match="P 1 21/c 1 or P 1 21/n 1"):
        Crystal.from_cif(text.format("b2"))
    with pytest.raises(CrystalError, match="in the setting 'xyz', which is unknown"):
        Crystal.from_cif(
            box + "_space_group_IT_coordinate_system_code xyz\n_space_group_IT_number 14\n"
        )


@pytest.mark.parametrize(
    "symbols",
    [
        "_symmetry_space_group_name_H-M 'P 1 21/n 1'\n_symmetry_space_group_name_Hall '-P 2ybc'",
        "_symmetry_space_group_name_H-M 'P 1 21/n 1'\n_space_group_name_H-M_alt 'P 1 21/c 1'",
    ],
)
def test_two_symbols_that_name_different_settings_are_refused(symbols):
    box = text_of(cell(9, 10, 11, (90, 100, 90)), sites("Cu1 0.11 0.18 0.32"))
    with pytest.raises(CrystalError, match="do not decide"):
        Crystal.from_cif(box + symbols)
    # The reference symbol names the standard setting, whatever the setting of the file.
    text = box + symbols.replace("H-M_alt", "H-M_ref").replace("-P 2ybc", "-P 2yn")
    assert Crystal.from_cif(text).num_atoms == 4


def test_a_setting_with_two_symbols_does_not_contradict_itself():
    symbols = "_space_group_name_H-M_alt 'A c a a'\n_space_group_name_Hall 'A 2 2 -1ab'\n"
    box = text_of(cell(9, 10, 11), symbols, sites("Cu1 0.11 0.18 0.32"))
    assert Crystal.from_cif(box).num_atoms == 16


def test_the_more_specific_of_two_symbols_gives_the_origin():
    text = "_space_group_name_H-M_full 'F d -3 m:1'\n"
    assert Crystal.from_cif(text_of(DIAMOND, text, sites("C1 0 0 0"))).num_atoms == 8


def test_a_primitive_cell_may_have_the_symbol_of_the_conventional_one():
    # As written by programs that keep the cell and list the operations in its basis.
    group = gemmi.SpaceGroup("F m -3 m")
    to_primitive = gemmi.Op("-x+y+z,x-y+z,x+y-z")
    triplets = {
        gemmi.Op(op.triplet()).wrap().triplet()
        for one in group.operations().sym_ops
        if (op := to_primitive * one * to_primitive.inverse())
    }
    length = 5.64 / np.sqrt(2)
    text = "_symmetry_space_group_name_H-M Fm-3m\n" + operations(*triplets)
    primitive = cell(length, angles=(60, 60, 60))
    crystal = Crystal.from_cif(text_of(primitive, text, NA_AND_CL))
    assert crystal.num_atoms == 2
    lengths = np.linalg.norm(build_graph(crystal, 3.0).edge_vectors, axis=1)
    np.testing.assert_allclose(lengths, 5.64 / 2, rtol=1e-6)
    with pytest.raises(CrystalError, match="of a different one"):  # not even all rotations
        text = "_symmetry_space_group_name_H-M Fm-3m\n" + operations("x,y,z", "-x,-y,-z")
        Crystal.from_cif(text_of(primitive, text, sites("Na1 0 0 0", "Cl1 0.4 0.45 0.3")))
    with pytest.raises(CrystalError, match="of a different one"):  # the list without its centring
        triplets = [op.triplet() for op in group.operations().sym_ops]
        text = "_symmetry_space_group_name_H-M Fm-3m\n" + operations(*triplets)
        Crystal.from_cif(text_of(cell(5.64), text, NA_AND_CL))


@pytest.mark.parametrize("ending", ["\r", "\r\n", "\n\x1a"])
def test_any_line_endings(ending):
    text = NACL.replace("data_", "data_first\n_publ_text\n;\nA text; of a field\n;\ndata_", 1)
    end = ending.strip("\n")
    text = text + end if "\x1a" in ending else text.replace("\n", ending)
    assert Crystal.from_cif(text).num_atoms == 8


def test_a_site_where_both_origins_give_the_same_crystal_needs_no_code():
    # P n -3 n: the origins differ by a quarter, and so does the general lattice of these atoms.
    text = text_of(cell(6.0), "_symmetry_space_group_name_H-M 'P n n n'", sites("Cu1 0 0 0"))
    with pytest.raises(CrystalError, match="can mean"):
        Crystal.from_cif(text)  # 2 atoms or 4


@pytest.mark.parametrize("symbol", ["P 2(1)/n", "P 21/n", "P2_1/n", "P 1 21/n 1", "P_21/n"])
def test_a_symbol_in_other_notation_is_not_read_as_the_standard_setting(symbol):
    crystal = Crystal.from_cif(fault("09").replace("P 2(1)/n", symbol))
    expected = [[0.11, 0.23, 0.37], [0.39, 0.73, 0.13], [0.61, 0.27, 0.87], [0.89, 0.77, 0.63]]
    found = crystal.fractional
    np.testing.assert_allclose(found[np.argsort(found[:, 0])], expected, atol=1e-9)


def test_an_unknown_symbol_is_refused_although_its_number_is_known():
    with pytest.raises(CrystalError, match="'P 2q/n', which is unknown"):
        Crystal.from_cif(fault("09").replace("P 2(1)/n", "P 2q/n"))


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


def test_a_group_that_does_not_fit_the_cell_is_refused():
    with pytest.raises(CrystalError, match="does not fit its cell"):
        Crystal.from_cif(fault("10"))
    with pytest.raises(CrystalError, match="do not fit its cell"):
        Crystal.from_cif(QUARTZ.replace("_cell_angle_gamma 120", "_cell_angle_gamma 90"))


def test_axes_of_a_rhombohedral_group_are_those_of_the_cell():
    symbol = "_symmetry_space_group_name_H-M 'R -3 m'\n"
    hexagonal = cell(3.0, 3.0, 15.0, (90, 90, 120))
    rhombohedral = cell(5.29, angles=(33, 33, 33))
    assert Crystal.from_cif(text_of(hexagonal, symbol, sites("As 0 0 0.23"))).num_atoms == 6
    assert (
        Crystal.from_cif(text_of(rhombohedral, symbol, sites("As 0.23 0.23 0.23"))).num_atoms == 2
    )
    with pytest.raises(CrystalError, match="does not fit"):
        Crystal.from_cif(
            text_of(cell(4.0), symbol.replace("R -3 m", "R 3 c"), sites("As 0 0 0.2")).replace(
                "gamma 90", "gamma 100"
            )
        )


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


@pytest.mark.parametrize("axis", "xyz")
def test_a_missing_column_or_value_of_coordinates_is_refused(axis):
    with pytest.raises(CrystalError, match="no _atom_site_fract_z"):
        Crystal.from_cif(fault("12"))
    columns = [f"fract_{other}" for other in "xyz" if other != axis]
    with pytest.raises(CrystalError, match=f"no _atom_site_fract_{axis}"):
        Crystal.from_cif(text_of(cell(), sites("Cu1 .1 .2", columns=("label", *columns))))
    values = ["0.1", "0.2", "0.3"]
    values["xyz".index(axis)] = "?"
    with pytest.raises(CrystalError, match=f"'O1' of the CIF has no _atom_site_fract_{axis}"):
        Crystal.from_cif(text_of(cell(), sites("Cu1 .5 .5 .5", "O1 " + " ".join(values))))


def test_cartesian_coordinates_are_refused():
    columns = ("label", "Cartn_x", "Cartn_y", "Cartn_z")
    with pytest.raises(CrystalError, match="Cartesian"):
        Crystal.from_cif(text_of(cell(), sites("Cu1 1 2 3", columns=columns)))


def test_atoms_at_impossible_distances_are_refused():
    with pytest.raises(CrystalError, match=r"0.16 angstrom"):
        Crystal.from_cif(fault("22"))


def test_dummy_sites_are_not_atoms():
    assert Crystal.from_cif(fault("14")).formula == "Cu"
    columns = ("label", "type_symbol", "fract_x", "fract_y", "fract_z")
    dummy = text_of(cell(), sites("Cu1 Cu 0 0 0", "Du1 Du .5 .5 .5", columns=columns))
    with pytest.raises(CrystalError, match="'Du' of the CIF is not an element"):
        Crystal.from_cif(dummy)
    assert Crystal.from_cif(dummy + "_chemical_formula_sum Cu\n").formula == "Cu"


def test_a_bom_quoted_numbers_unknown_types_and_repeated_tags_are_read():
    assert Crystal.from_cif(fault("18")).formula == "Cu"
    assert Crystal.from_cif(fault("19")).volume == pytest.approx(64.0)
    assert Crystal.from_cif(fault("16")).formula == "Ca"
    twice = NACL + "_chemical_formula_sum 'Na Cl'\n" * 2
    assert Crystal.from_cif(twice).formula == "ClNa"
    other = NACL + "_chemical_formula_sum 'Na Cl'\n_chemical_formula_sum 'Na4Cl4'\n"
    assert Crystal.from_cif(other).formula == "ClNa"
    assert cif.read(other + "_chemical_formula_sum 'Na Cl2'\n").mismatch
    with pytest.raises(CrystalError, match="_cell_length_a more than once"):
        Crystal.from_cif(NACL + "_cell_length_a 7\n")


@pytest.mark.parametrize(
    ("label", "formula", "symbol"),
    [
        ("Wat1", None, "O"),
        ("Ow", None, "O"),
        ("OW2", None, "O"),
        ("OA", None, "O"),
        ("OH", None, "O"),
        ("Ob1", None, "O"),
        ("BT2", None, "B"),
        ("Ca1", None, "Ca"),
        ("fe2", None, "Fe"),
        ("CA1", "Ca O", "Ca"),
        ("CA1", "C O", "C"),
        ("HO1", "H O", "H"),
        ("HO1", "Ho O", "Ho"),
        ("Ho1", "H O", "H"),
        ("CM2", "C O", "C"),
        ("CO3", "C O", "C"),
        ("W1", "W O", "W"),
        ("W1", "O", "O"),
        ("Nh", "N O", "N"),
        ("D1", "D O", "H"),
        ("T1", "H O", None),
        ("CA1", None, None),
        ("HO1", None, None),
        ("Xx", None, None),
        ("1", None, None),
    ],
)
def test_elements_of_labels(label, formula, symbol):
    text = text_of(cell(), sites(f"{label} 0 0 0", "O99 .5 .5 .5"))
    text += f"_chemical_formula_sum '{formula}'\n" if formula else ""
    if symbol is None:
        with pytest.raises(CrystalError, match=r"is not an element|can mean"):
            Crystal.from_cif(text)
    else:
        number = gemmi.Element(symbol).atomic_number
        assert sorted(Crystal.from_cif(text).atomic_numbers) == sorted([number, 8])


@pytest.mark.parametrize(
    ("kind", "symbol"),
    [
        ("Fe3+", "Fe"),
        ("O2-", "O"),
        ("Na1+", "Na"),
        ("CL", "Cl"),
        ("D", "H"),
        ("Wat", "O"),
        ("Si4", "Si"),
    ],
)
def test_elements_of_type_symbols(kind, symbol):
    columns = ("label", "type_symbol", "fract_x", "fract_y", "fract_z")
    crystal = Crystal.from_cif(text_of(cell(), sites(f"Q1 {kind} 0 0 0", columns=columns)))
    assert crystal.atomic_numbers.tolist() == [gemmi.Element(symbol).atomic_number]


def test_labels_are_read_as_the_elements_of_the_formula():
    with pytest.raises(CrystalError, match=r"0.4 angstrom"):  # H, not Ho, and too close to its O
        Crystal.from_cif(fault("15"))
    assert Crystal.from_cif(fault("15").replace(" 4\n", " 8\n")).formula == "CHO"


def test_a_crystal_that_contradicts_its_formula_sum_is_refused_or_used_on_request():
    with pytest.raises(cif.FormulaMismatch, match=r"H without a site.*on_formula_mismatch=take"):
        Crystal.from_cif(fault("20"))
    read = cif.read(fault("20"))
    assert (read.crystal.formula, bool(read.mismatch)) == ("MgO2", True)
    read = cif.read(fault("20").replace("H2 Mg O2", "Mg O2"))
    assert (read.crystal.formula, read.mismatch) == ("MgO2", "")


def test_attached_hydrogen_without_sites_is_a_mismatch():
    columns = ("label", "fract_x", "fract_y", "fract_z", "attached_hydrogens")
    text = text_of(cell(), sites("O1 0 0 0 2", columns=columns))
    assert "hydrogen" in cif.read(text).mismatch
    assert not cif.read(text.replace("0 0 0 2", "0 0 0 0")).mismatch


@pytest.mark.parametrize(
    ("formula", "agrees"),
    [
        ("Cl Na", True),
        ("NaCl", True),
        ("Cl4 Na4", True),
        ("Cl1.0 Na1.0", True),
        ("Na0.5 Cl0.5", True),
        ("(Na Cl)2", True),
        ("Na Cl0.98", False),
        ("Na Cl2", False),
        ("Na Cl H", False),
        ("Na", False),
        ("K Cl", False),
        ("?", True),  # an unreadable value cannot contradict
        ("x Na Cl", True),
        ("((((", True),
        ("Na Cl 2+", True),
        ("C1e99", True),
    ],
)
def test_the_formula_sum_is_compared_as_a_ratio(formula, agrees):
    assert (not cif.read(NACL + f"_chemical_formula_sum '{formula}'\n").mismatch) == agrees


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


@pytest.mark.parametrize("text", ["data_x # \udcff\n", None, b"data_x", "\x00", "data_", "\ufeff"])
def test_anything_but_cif_text_is_refused(text):
    with pytest.raises(CrystalError):
        Crystal.from_cif(text)


_PIECES = [
    *("'", '"', ";", "loop_", "data_", "save_", "?", ".", "#", "global_", "[", "{", "("),
    *("1e308", "-1e308", "nan", "inf", "1e-300", "1e999", "9" * 20, "180", "1(", "(2)", "1/0"),
    *("x,y,z", "x,x,x", "-x+1/7,y,z", "'F d -3 m'", "225", "231", "Hall", "'C1e99'"),
    *("Og", "T1", "D", "Du", "dum", "\ud83d", "\x00", "\ufeff"),
    *("_cell_length_a", "_atom_site_fract_x", "_symmetry_", "_space_group_"),
]


@pytest.fixture(scope="module")
def intact():
    """The texts of CIFs of all supported kinds."""
    return [*(path.read_text("utf-8") for path in sorted(FAULTS.glob("*.cif"))), NACL, QUARTZ]


@pytest.mark.parametrize("seed", range(4))
def test_no_damage_to_a_cif_raises_anything_but_a_crystal_error(seed, intact):
    rng = random.Random(seed)
    for _ in range(500):
        text = rng.choice(intact)
        for _ in range(rng.choice([1, 1, 2, 5])):
            start = rng.randrange(len(text) + 1)
            end = start + rng.choice([0, 1, 5, 20, 100])
            piece = rng.choice(["", " ", "\n", chr(rng.randrange(0x110000)), *_PIECES])
            text = text[:start] + piece + text[end:]
        try:
            Crystal.from_cif(text)
        except CrystalError as error:
            assert len(str(error)) < 500
            str(error).encode()


@settings(max_examples=100, deadline=None)
@given(st.text(), st.text(), st.text())
def test_no_value_of_a_cif_raises_anything_but_a_crystal_error(formula, symbol, label):
    quoted = [f"\n;{value}\n;\n" for value in (formula, symbol, label)]
    text = (
        f"{NACL}{quoted[2]} Na 0.25 0.25 0.25\n_chemical_formula_sum {quoted[0]}"
        f"_symmetry_space_group_name_H-M {quoted[1]}"
    )
    try:
        Crystal.from_cif(text)
    except CrystalError as error:
        assert len(str(error)) < 500


def test_every_setting_of_every_group_gives_its_operations():
    rng = np.random.default_rng(0)
    site = "H1 0.076 0.295 0.348"
    groups = list(gemmi.spacegroup_table())
    for index in rng.choice(len(groups), 60, replace=False):
        group = groups[index]
        system = group.crystal_system_str()
        angles = {"hexagonal": (90, 90, 120), "trigonal": (90, 90, 120)}.get(system, (90, 90, 90))
        if group.ext == "R":
            angles = (80, 80, 80)
        lengths = (20, 20, 25) if angles[2] == 120 else (20, 20, 20)
        start = cell(*lengths, angles)
        triplets = [operation.triplet() for operation in group.operations()]
        written = Crystal.from_cif(text_of(start, operations(*triplets), sites(site)))
        assert written.num_atoms == len(triplets)
        for symmetry in (
            f"_space_group_name_H-M_alt '{group.xhm()}'",
            f"_space_group_name_Hall {gemmi.cif.quote(group.hall)}",
        ):
            named = Crystal.from_cif(text_of(start, symmetry, sites(site)))
            order = [np.lexsort(np.round(c.fractional, 6).T) for c in (written, named)]
            np.testing.assert_allclose(
                written.fractional[order[0]], named.fractional[order[1]], atol=1e-9
            )


def _standard_cells(every):
    """Bundled crystals in the standard cells of their groups, in each origin that these have."""
    columns = ["lattice", "atomic_numbers", "frac_coords"]
    for row in pq.read_table(PARQUET, columns=columns).to_pylist()[::every]:
        cell = Crystal.from_arrays(*(row[column] for column in columns))
        cell = (cell.lattice, cell.fractional, cell.atomic_numbers)
        first = spglib.get_symmetry_dataset(cell, 1e-2).hall_number
        for hall_number in (first, first + 1):  # the second origin follows the first
            kind = spglib.get_spacegroup_type(hall_number)
            if hall_number != first and kind.choice != "2":
                continue
            standard = spglib.get_symmetry_dataset(cell, 1e-2, hall_number=hall_number)
            cell = (standard.std_lattice, standard.std_positions, standard.std_types)
            found = spglib.get_symmetry_dataset(cell, 1e-2, hall_number=hall_number)
            if np.allclose(found.transformation_matrix, np.eye(3)) and not found.origin_shift.any():
                yield kind, found, Crystal(cell[0], np.array(cell[2]), cell[1] @ cell[0])


def test_crystals_written_with_a_symbol_or_number_are_recovered_or_refused():
    refused = dict.fromkeys(("symbol", "number", "symbol, formula, Z", "Hall"), 0)
    total = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # raised by spglib
        cells = list(_standard_cells(every=150))
    for kind, found, crystal in cells:
        lengths = np.linalg.norm(crystal.lattice, axis=1)
        unit = crystal.lattice / lengths[:, None]
        angles = [np.degrees(np.arccos(unit[i - 2] @ unit[i - 1])) for i in range(3)]
        rows = [
            f"{gemmi.Element(int(crystal.atomic_numbers[atom])).name} "
            + " ".join(f"{x:.5f}" for x in crystal.fractional[atom])
            for atom in np.unique(found.equivalent_atoms)
        ]
        numbers, counts = np.unique(crystal.atomic_numbers, return_counts=True)
        units = int(np.gcd.reduce(counts))
        names = [gemmi.Element(int(number)).name for number in numbers]
        formula = " ".join(f"{n}{c // units}" for n, c in zip(names, counts, strict=True))
        symbol = f"_symmetry_space_group_name_H-M '{kind.international_short}'\n"
        ways = {
            "symbol": symbol,
            "number": f"_space_group_IT_number {kind.number}\n",
            "symbol, formula, Z": f"{symbol}_chemical_formula_sum '{formula}'\n"
            f"_cell_formula_units_Z {units}\n",
            "Hall": f"_space_group_name_Hall {gemmi.cif.quote(kind.hall_symbol)}\n",
        }
        total += 1
        for way, declared in ways.items():
            text = text_of(cell(*lengths, angles), declared, sites(*rows))
            try:
                read = Crystal.from_cif(text)
            except CrystalError as error:
                assert "can mean" in str(error)
                refused[way] += 1
                continue
            assert (read.formula, read.num_atoms) == (crystal.formula, crystal.num_atoms)
            near = [
                np.linalg.norm(build_graph(c, 3.0).edge_vectors, axis=1) for c in (read, crystal)
            ]
            np.testing.assert_allclose(*map(np.sort, near), atol=0.01)
    assert total > 30
    assert refused["Hall"] == 0
    assert refused["symbol, formula, Z"] <= 0.1 * total
    assert refused["symbol"] <= 0.4 * total


def test_a_very_long_tag_is_shortened_in_the_message():
    tag = f"_symmetry_space_group_name_{'9' * 5000}"
    with pytest.raises(CrystalError, match="declares a symmetry") as error:
        Crystal.from_cif(text_of(cell(5.64), f"{tag} 'P m -3 m'", NA_AND_CL))
    assert len(str(error.value)) < 300
