import numpy as np
import pytest
from crystals import random_crystal, rock_salt

from clac_jax.crystal import Crystal, CrystalError, lattice_from_parameters
from clac_jax.graph import build_graph

NACL = """data_NaCl
_cell_length_a 5.6402(3)
_cell_length_b 5.6402
_cell_length_c 5.6402
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt 'F m -3 m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Na1 Na1+ 0 0 0
Cl1 Cl1- 0.5 0.5 0.5
"""

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
def test_a_space_group_in_other_words(symmetry):
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
        (NACL.replace("_cell_length_a 5.6402(3)", "_cell_length_a 0"), "volume"),
        (NACL + "Cl2 Cl 0.51 0.51 0.51\n", "apart"),
        (NACL.replace("0.5 0.5 0.5", "? 0.5 0.5"), "not finite"),
        (QUARTZ.replace("0.1188 1.0", "0.1188 0.5"), "occupied to 0.5"),
    ],
)
def test_bad_cifs(text, message):
    with pytest.raises(CrystalError, match=message):
        Crystal.from_cif(text)


ATOMS = {
    "lattice_mat": [[3.0, 0, 0], [0, 3.0, 0], [0, 0, 3.0]],
    "elements": ["Cs", "Cl"],
    "coords": [[0, 0, 0], [0.5, 0.5, 0.5]],
    "cartesian": False,
}


def test_atoms_fractional_cartesian_and_parameters_agree():
    fractional = Crystal.from_atoms(ATOMS)
    cartesian = Crystal.from_atoms(
        ATOMS | {"cartesian": True, "coords": [[0, 0, 0], [1.5, 1.5, 1.5]]}
    )
    lengths = {k: v for k, v in ATOMS.items() if k != "lattice_mat"}
    parameters = Crystal.from_atoms(lengths | {"abc": [3, 3, 3], "angles": [90, 90, 90]})
    np.testing.assert_allclose(fractional.positions, cartesian.positions)
    np.testing.assert_allclose(fractional.positions, parameters.positions, atol=1e-12)


def test_atoms_round_trip():
    rng = np.random.default_rng(0)
    for _ in range(20):
        crystal = random_crystal(rng)
        again = Crystal.from_atoms(crystal.to_atoms())
        np.testing.assert_array_equal(again.positions, crystal.positions)
        np.testing.assert_array_equal(again.lattice, crystal.lattice)
        np.testing.assert_array_equal(again.atomic_numbers, crystal.atomic_numbers)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coords": None}, '"coords"'),
        ({"elements": 5}, '"elements"'),
        ({"lattice_mat": None, "abc": [3, 3], "angles": [90, 90, 90]}, "three positive"),
        ({"lattice_mat": None, "abc": [3, 3, -3], "angles": [90, 90, 90]}, "three positive"),
        ({"lattice_mat": None}, '"lattice_mat"'),
        ({"elements": ["Cs", "Xx"]}, "'Xx' is not an element"),
        ({"elements": ["Cs"]}, "shape"),
        ({"elements": ["Cs", "Md"]}, "atomic number 101"),
        ({"elements": [], "coords": []}, "no atoms"),
        ({"coords": [[0, 0, 0], [0.5, float("nan"), 0.5]]}, "atom 1 are not finite"),
        ({"coords": [[0, 0, 0], [1.0, 0, 0.01]]}, "Atoms 0 and 1 are 0.03 angstrom apart"),
        ({"coords": [[0, 0, 0], [0.5, "x", 0.5]]}, "no number"),
        ({"lattice_mat": [[3, 0, 0], [0, 3, 0], [3, 3, 0]]}, "volume"),
        ({"lattice_mat": [[3, 0], [0, 3]]}, r"\(3, 3\)"),
        ({"lattice_mat": [[3, 0, 0], [0, float("inf"), 0], [0, 0, 3]]}, "not finite"),
    ],
)
def test_bad_atoms(change, message):
    with pytest.raises(CrystalError, match=message):
        Crystal.from_atoms(ATOMS | change)


def test_lattice_has_the_parameters_it_was_made_from():
    lattice = lattice_from_parameters(3, 4, 5, 80, 95, 110)
    np.testing.assert_allclose(np.linalg.norm(lattice, axis=1), [3, 4, 5])
    cosines = [
        lattice[1] @ lattice[2] / 20,
        lattice[0] @ lattice[2] / 15,
        lattice[0] @ lattice[1] / 12,
    ]
    np.testing.assert_allclose(np.degrees(np.arccos(cosines)), [80, 95, 110])
    with pytest.raises(CrystalError, match="volume would be zero"):
        lattice_from_parameters(3, 4, 5, 120, 120, 120)


def test_fractional_and_formula():
    crystal = rock_salt()
    np.testing.assert_allclose(crystal.fractional @ crystal.lattice, crystal.positions)
    assert crystal.formula == "ClNa"
