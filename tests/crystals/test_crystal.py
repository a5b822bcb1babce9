"""The checks of a crystal: cell, distances and elements."""

import copy
import doctest
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from helpers.crystals import NACL, random_crystal, rock_salt
from hypothesis import given, settings
from hypothesis import strategies as st

from clac_jax.crystals import crystal as crystal_module
from clac_jax.crystals.crystal import Crystal, CrystalError
from clac_jax.crystals.graph import build_graph
from clac_jax.crystals.numbers import MAX_LENGTH, lattice_from_parameters

FAULTS = Path(__file__).parents[1] / "data" / "faults"

# A refused input raises its error without a prior warning.
pytestmark = pytest.mark.filterwarnings("error")

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
        ({"lattice_mat": None, "abc": [3, 3], "angles": [90, 90, 90]}, "shape of the abc"),
        ({"lattice_mat": None, "abc": [3, 3, -3], "angles": [90, 90, 90]}, "length c is -3"),
        ({"lattice_mat": None, "abc": [3, 3, 3], "angles": [90, 0, 90]}, "angle beta is 0"),
        ({"lattice_mat": None, "abc": [3, 3, 1e308], "angles": [90, 90, 90]}, "length c is 1e"),
        ({"lattice_mat": None, "abc": [3, 3, "3"], "angles": [90, 90, 90]}, "not a number"),
        ({"lattice_mat": None}, '"lattice_mat"'),
        ({"elements": ["Cs", "Xx"]}, "'Xx' is not an element"),
        ({"elements": ["Cs"]}, "shape of the coordinates"),
        ({"elements": [11.7, 17.2]}, "11.7 is not an element"),
        ({"elements": [True, 17]}, "True is not an element"),
        ({"elements": ["\ud83d", "Cl"]}, "is not an element"),
        ({"elements": ["Cs", "Md"]}, "atomic number 101"),
        ({"elements": [], "coords": []}, "no atoms"),
        ({"coords": [[0, 0, 0], [0.5, float("nan"), 0.5]]}, "atom 1 are not finite"),
        ({"coords": [[0, 0, 0], [1.0, 0, 0.01]]}, "Atoms 0 and 1 are 0.03 angstrom apart"),
        ({"coords": [[0, 0, 0], [0.5, "x", 0.5]]}, "'x' in the coordinates is not a number"),
        ({"lattice_mat": [[3, 0, 0], [0, 3, 0], [3, 3, 0]]}, "volume"),
        ({"lattice_mat": [[3, 0], [0, 3]]}, r"\(3, 3\)"),
        ({"lattice_mat": [[3, 0, 0], [0, float("inf"), 0], [0, 0, 3]]}, "not finite"),
        ({"lattice_mat": [[1e308, 0, 0], [0, 1e308, 0], [0, 0, 1e308]]}, "the limit is 500"),
        ({"lattice_mat": [[1e154, 0, 0], [0, 1e154, 0], [0, 0, 1e154]]}, "the limit is 500"),
        ({"lattice_mat": [[10**400, 0, 0], [0, 3, 0], [0, 0, 3]]}, "too large"),
        ({"lattice_mat": [[3, 0, 0], [0, 3], [0, 0, 3]]}, "unequal length"),
        ({"coords": [[0, 0, 0], [1e30, 0, 0]]}, "the limit is 100000"),
        ({"coords": [[0, 0, 0], [True, 0, 0]]}, "not a number"),
        ({"cartesian": "perhaps"}, "neither true nor false"),
        ({"cartesian": 2}, "neither true nor false"),
        ({"cartesian": []}, "neither true nor false"),
        ({"elements": ["Cs"] * 20_001}, "the limit is 20,000"),
    ],
)
def test_bad_atoms(change, message):
    with pytest.raises(CrystalError, match=message):
        Crystal.from_atoms(ATOMS | change)


@pytest.mark.parametrize("text", ["False", "false", "0", "no", "F", " FALSE ", "", 0, 0.0, None])
def test_texts_for_false_mean_fractional_coordinates(text):
    crystal = Crystal.from_atoms(ATOMS | {"cartesian": text})
    np.testing.assert_allclose(crystal.positions[1], 1.5)


@pytest.mark.parametrize("text", ["True", "true", "1", "yes", 1, np.True_])
def test_texts_for_true_mean_cartesian_coordinates(text):
    crystal = Crystal.from_atoms(
        ATOMS | {"cartesian": text, "coords": [[0, 0, 0], [1.5, 1.5, 1.5]]}
    )
    np.testing.assert_allclose(crystal.positions[1], 1.5)


def test_a_row_whose_cartesian_is_the_text_false_has_its_right_distance():
    row = json.loads((FAULTS / "r1_cartesian_text_False.jsonl").read_text())
    lengths = np.linalg.norm(
        build_graph(Crystal.from_atoms(row["atoms"]), 3.5).edge_vectors, axis=1
    )
    assert lengths.min() == pytest.approx(4 * np.sqrt(3) / 2)


def test_a_row_with_an_atomic_number_beyond_int32_is_refused():
    row = json.loads((FAULTS / "r4_atomic_number_overflow.jsonl").read_text())
    with pytest.raises(CrystalError, match="atomic number 1e"):
        Crystal.from_arrays(row["lattice"], row["atomic_numbers"], row["frac_coords"])


CELL = [[4.0, 0, 0], [0, 4, 0], [0, 0, 4]]
FRACTIONS = [[0, 0, 0], [0.5, 0.5, 0.5]]


@pytest.mark.parametrize(
    ("lattice", "numbers", "fractions"),
    [
        (CELL, [55, 17], FRACTIONS),
        ([4, 0, 0, 0, 4, 0, 0, 0, 4], [55.0, 17.0], [0, 0, 0, 0.5, 0.5, 0.5]),
        (np.array(CELL, np.float32), np.array([55, 17], np.uint8), np.array(FRACTIONS)),
        (np.array([np.array(row) for row in CELL], object), (55, 17), [*map(tuple, FRACTIONS)]),
    ],
)
def test_arrays_nested_or_flat_are_one_crystal(lattice, numbers, fractions):
    crystal = Crystal.from_arrays(lattice, numbers, fractions)
    assert crystal.atomic_numbers.tolist() == [55, 17]
    np.testing.assert_allclose(crystal.positions, [[0, 0, 0], [2, 2, 2]])


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([11.7, 17.2], "atomic number 11.7"),
        ([True, 17], "True in the atomic numbers is not a number"),
        (["17", 17], "'17' in the atomic numbers is not a number"),
        ([10**12, 17], "atomic number 1e"),
        ([10**400, 17], "too large"),
        ([float("nan"), 17], "not finite"),
        ([0, 17], "atomic number 0"),
        ([-(2**31) + 11, 17], "atomic number -2147483637"),
        ([2**32 + 11, 17], "atomic number 4294967307"),
        (np.array([True, False]), "not a number"),
        (np.array([11.7, 17.2]), "atomic number 11.7"),
        ([[55], [17]], "not a number"),
        (55, "not a list"),
        (None, "not a list"),
        ([], "no atoms"),
    ],
)
def test_atomic_numbers_are_integers_or_refused(numbers, message):
    with pytest.raises(CrystalError, match=message):
        Crystal.from_arrays(CELL, numbers, FRACTIONS)
    if isinstance(numbers, list | np.ndarray):
        with pytest.raises(CrystalError, match=message):
            Crystal(np.array(CELL), numbers, np.array(FRACTIONS) * 4)


@pytest.mark.parametrize(
    "lattice",
    [
        np.diag([1e308] * 3),
        np.diag([3.0, 640.0, 640.0]),  # the neighbour list divided by zero
        np.diag([1e-3, 400.0, 400.0]),  # which took half a minute for this cell
        [[1, 0, 0], [400, 1, 0], [0, 400, 1]],
        np.diag([0.2, 20.0, 20.0]),
    ],
)
def test_cells_too_skewed_for_a_neighbour_search_are_refused(lattice):
    with pytest.raises(CrystalError):
        Crystal.from_arrays(lattice, [55], [[0, 0, 0]])


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner),
        max_leaves=12,
    ),
    st.sampled_from(["lattice_mat", "abc", "angles", "elements", "coords", "cartesian"]),
)
def test_no_content_of_an_atoms_dict_raises_anything_but_a_crystal_error(value, key):
    atoms = {**ATOMS, "abc": [3, 3, 3], "angles": [90, 90, 90], key: value}
    if key in ("abc", "angles"):
        del atoms["lattice_mat"]
    try:
        Crystal.from_atoms(atoms)
    except CrystalError as error:
        assert len(str(error)) < 300
        str(error).encode()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=9, max_size=9),
    st.integers(1, 3),
)
def test_any_cell_gives_a_crystal_or_a_crystal_error(lattice, num_atoms):
    fractions = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.2, 0.4, 0.7]][:num_atoms]
    try:
        crystal = Crystal.from_arrays(lattice, [1] * num_atoms, fractions)
    except CrystalError:
        return
    assert np.abs(crystal.lattice).max() <= MAX_LENGTH


@pytest.mark.parametrize(
    ("elements", "distance", "is_real"),
    [
        (["H", "H"], 0.74, True),  # H2
        (["O", "H"], 0.59, True),  # as X-rays see it
        (["N", "N"], 1.09, True),
        (["U", "O"], 1.75, True),
        (["Cs", "Cs"], 2.5, True),  # at 200 GPa
        (["H", "H"], 0.42, False),
        (["Fe", "O"], 0.17, False),
        (["Fe", "O"], 0.7, False),
        (["Hg", "Hg"], 1.0, False),
    ],
)
def test_the_smallest_distance_depends_on_the_elements(elements, distance, is_real):
    atoms = {
        "abc": [8, 8, 8],
        "angles": [90, 90, 90],
        "elements": elements,
        "coords": [[0, 0, 0], [distance, 0, 0]],
        "cartesian": True,
    }
    if is_real:
        assert Crystal.from_atoms(atoms).num_atoms == 2
        return
    with pytest.raises(CrystalError, match=r"Atoms 0 and 1 are .* angstrom apart"):
        Crystal.from_atoms(atoms)


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


def test_a_crystal_keeps_its_cell_when_the_arrays_of_the_caller_change():
    lattice, positions = 5.64 * np.eye(3), np.array([[0.0, 0.0, 0.0], [2.82, 2.82, 2.82]])
    numbers = np.array([55, 17], np.int32)
    crystal = Crystal(lattice, numbers, positions)
    strained = crystal.replace(lattice=1.05 * lattice)
    lattice *= 2
    positions += 1
    numbers[:] = 3
    np.testing.assert_array_equal(crystal.lattice, 5.64 * np.eye(3))
    assert crystal.positions.max() == 2.82 and crystal.formula == "ClCs"
    for array in (crystal.lattice, crystal.atomic_numbers, strained.positions):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_crystals_are_equal_by_their_arrays():
    fractions = [[0, 0, 0], [0.5, 0.5, 0.5]]
    one, same = (Crystal.from_arrays(4.12 * np.eye(3), [55, 17], fractions) for _ in range(2))
    negative_zero = one.replace(positions=np.where(one.positions == 0, -0.0, one.positions))
    larger = one.replace(lattice=1.01 * one.lattice)
    assert one == same == negative_zero and one != larger and one != "ClCs"
    assert {one, same, negative_zero, larger} == {one, larger}


def test_fractional_and_formula():
    crystal = rock_salt()
    np.testing.assert_allclose(crystal.fractional @ crystal.lattice, crystal.positions)
    assert crystal.formula == "ClNa"


def test_a_crystal_is_the_same_from_a_cif_and_from_its_atoms():
    crystal = Crystal.from_cif(NACL)
    again = Crystal.from_atoms(crystal.to_atoms())
    np.testing.assert_array_equal(again.positions, crystal.positions)


def test_thousands_of_coincident_atoms_are_refused_quickly():
    fractions = np.random.default_rng(0).uniform(0, 0.003, (20_000, 3))
    with pytest.raises(CrystalError, match="20,000 atoms of the cell are in one place"):
        Crystal.from_arrays(400.0 * np.eye(3), [1] * 20_000, fractions)


def test_cell_vectors_that_their_lengths_and_angles_contradict_are_refused():
    rows = [[4.0, 0.0, 0.0], [1.0, 4.0, 0.0], [0.0, 0.0, 4.0]]
    sizes = {"abc": [4.0, 4.123, 4.0], "angles": [90, 90, 75.96]}
    atoms = ATOMS | sizes | {"lattice_mat": rows}
    assert Crystal.from_atoms(atoms).num_atoms == len(ATOMS["elements"])
    for only in ("abc", "angles"):
        one = {"abc": None, "angles": None} | {only: sizes[only]}
        assert Crystal.from_atoms(atoms | one)
        turned = one | {"lattice_mat": np.transpose(rows).tolist()}
        if only == "abc":  # the angle between the two is the same
            with pytest.raises(CrystalError, match="the rows must be the cell vectors"):
                Crystal.from_atoms(atoms | turned)
    with pytest.raises(CrystalError, match='not those in "angles"'):
        Crystal.from_atoms(atoms | {"angles": [90, 90, 104.04]})


def test_a_similar_key_for_cartesian_is_detected():
    with pytest.raises(CrystalError, match="Name it"):
        Crystal.from_atoms(ATOMS | {"coords_are_cartesian": True})


def arrays():
    """The lattice, the atomic numbers and the Cartesian positions of rock salt, all writeable."""
    crystal = rock_salt()
    return [np.array(each) for each in (crystal.lattice, crystal.atomic_numbers, crystal.positions)]


MAKERS = {
    "arrays": lambda lattice, numbers, positions: Crystal(lattice, numbers, positions),
    "fractions": lambda lattice, numbers, positions: Crystal.from_arrays(
        lattice, numbers, np.linalg.solve(lattice.T, positions.T).T
    ),
    "atoms": lambda lattice, numbers, positions: Crystal.from_atoms(
        {
            "lattice_mat": lattice,
            "elements": ["Na"] * 4 + ["Cl"] * 4,
            "coords": positions,
            "cartesian": True,
        }
    ),
    "replaced": lambda lattice, numbers, positions: rock_salt(6.0).replace(
        lattice=lattice, atomic_numbers=numbers, positions=positions
    ),
    "views": lambda lattice, numbers, positions: Crystal(lattice[:], numbers[:], positions[:]),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_crystal_keeps_its_values_when_the_arrays_that_it_was_made_from_change(make):
    given = arrays()
    crystal = make(*given)
    for array in given:
        array *= 3
    assert crystal.formula == "ClNa"
    np.testing.assert_array_equal(crystal.lattice, rock_salt().lattice)
    np.testing.assert_allclose(crystal.positions, rock_salt().positions, atol=1e-12)


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))]
)
def test_a_copy_of_a_crystal_is_equal_to_it_and_as_little_writeable(again):
    crystal = again(rock_salt())
    assert crystal == rock_salt()
    for array in (crystal.lattice, crystal.atomic_numbers, crystal.positions):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_equal_crystals_are_one_in_a_set():
    crystal, same = rock_salt(), Crystal(*arrays())
    assert crystal == same and len({crystal, same}) == 1 and same in [rock_salt(6.0), crystal]
    lattice, numbers, positions = arrays()
    signed = crystal.replace(positions=np.where(positions == 0, -0.0, positions))
    assert signed == crystal and hash(signed) == hash(crystal)
    others = [
        rock_salt(6.0),
        crystal.replace(lattice=lattice * 1.01),
        crystal.replace(atomic_numbers=numbers[::-1]),
        crystal.replace(positions=positions + 0.1),
        Crystal(lattice, numbers[:1], positions[:1]),
    ]
    assert len({crystal, *others}) == 6 and crystal not in others
    assert crystal != "NaCl" and crystal is not None


def test_the_examples_of_the_documentation():
    assert doctest.testmod(crystal_module) == doctest.TestResults(failed=0, attempted=2)
