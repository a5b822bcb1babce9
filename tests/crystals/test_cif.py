"""Reading CIF texts: syntax, cells, coordinates, and damage of any kind."""

import random

import numpy as np
import pytest
from helpers.cif import FAULTS, QUARTZ, cell, fault, sites, text_of
from helpers.crystals import NACL
from hypothesis import given, settings
from hypothesis import strategies as st

from clac_jax.crystals import cif
from clac_jax.crystals.crystal import Crystal, CrystalError
from clac_jax.crystals.graph import build_graph

# A refused input raises its error without a prior warning.
pytestmark = pytest.mark.filterwarnings("error")


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


@pytest.mark.parametrize("angle", ["0", "180", "360", "-90", "1e-9", "1e308", "nan", "(3)"])
def test_an_impossible_cell_angle_is_refused(angle):
    with pytest.raises(CrystalError, match=r"alpha|angles"):
        Crystal.from_cif(fault("02").replace("alpha 0", f"alpha {angle}"))


@pytest.mark.parametrize("ending", ["\r", "\r\n", "\n\x1a"])
def test_any_line_endings(ending):
    text = NACL.replace("data_", "data_first\n_publ_text\n;\nA text; of a field\n;\ndata_", 1)
    end = ending.strip("\n")
    text = text + end if "\x1a" in ending else text.replace("\n", ending)
    assert Crystal.from_cif(text).num_atoms == 8


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
