"""Space groups of CIF texts by number or symbol: settings, origins and axes."""

import warnings

import gemmi
import numpy as np
import pyarrow.parquet as pq
import pytest
import spglib
from helpers.cif import NA_AND_CL, QUARTZ, cell, fault, operations, sites, text_of
from helpers.crystals import NACL

from clac_jax.crystals.crystal import Crystal, CrystalError
from clac_jax.crystals.graph import build_graph
from clac_jax.datasets.materials_project_mini.builder import PARQUET

# A refused input raises its error without a prior warning.
pytestmark = pytest.mark.filterwarnings("error")


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


@pytest.mark.parametrize("number", ["225", "'225'", '"225"', "225.0", "\n;225\n;"])
def test_a_space_group_number_in_quotes_is_the_number(number):
    text = fault("01").replace("'225'", number)
    assert Crystal.from_cif(text).num_atoms == 8


@pytest.mark.parametrize("number", ["'P1'", "'225a'", "0", "231", "-1", "1e999", "22.5", "9" * 30])
def test_an_invalid_space_group_number_is_refused(number):
    with pytest.raises(CrystalError, match="number"):
        Crystal.from_cif(fault("01").replace("'225'", number))


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
