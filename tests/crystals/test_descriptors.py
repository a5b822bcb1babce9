"""Descriptors: known values, what they do not depend on, and what only they tell apart."""

from __future__ import annotations

import dataclasses
import itertools
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import spglib
from helpers.crystals import random_crystal, rock_salt

from clac_jax.crystals import descriptors
from clac_jax.crystals.crystal import Crystal
from clac_jax.crystals.descriptors import (
    ANGLES,
    CELL_NUMBERS,
    NEIGHBOURS,
    SHELL_NUMBERS,
    SITE_NUMBERS,
    describe,
)
from clac_jax.crystals.elements import atom_features
from clac_jax.crystals.graph import build_graph
from clac_jax.crystals.numbers import CrystalError

HEXAGONAL = np.array([[1, 0, 0], [-0.5, 3**0.5 / 2, 0], [0, 0, 1]])


def cubic(a, numbers, fractional):
    return Crystal.from_arrays(a * np.eye(3), numbers, fractional)


def hexagonal(a, c, numbers, fractional):
    return Crystal.from_arrays(HEXAGONAL * [[a], [a], [c]], numbers, fractional)


def perovskite():
    sites = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return cubic(4.0, [56, 22, 8, 8, 8], sites)


def face_centred(basis):
    corners = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    return np.concatenate([np.add(corners, site) for site in basis])


def diamond():
    return cubic(3.567, [6] * 8, face_centred([[0, 0, 0], [0.25, 0.25, 0.25]]))


def zincblende():
    return cubic(5.409, [30] * 4 + [16] * 4, face_centred([[0, 0, 0], [0.25, 0.25, 0.25]]))


def wurtzite():
    """As dense as the zincblende above, with ideal tetrahedra."""
    a = 5.409 / 2**0.5
    sites = [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0.5], [1 / 3, 2 / 3, 0.375], [2 / 3, 1 / 3, 0.875]]
    return hexagonal(a, a * (8 / 3) ** 0.5, [30, 30, 16, 16], sites)


def magnesium():
    a = 3.2
    sites = [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]]
    return hexagonal(a, a * (8 / 3) ** 0.5, [12, 12], sites)


def graphite():
    sites = [[0, 0, 0.25], [0, 0, 0.75], [1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]]
    return hexagonal(2.46, 6.7, [6] * 4, sites)


def rutile():
    u = 0.305
    sites = [[0, 0, 0], [0.5] * 3, [u, u, 0], [-u, -u, 0]]
    sites += [[0.5 + u, 0.5 - u, 0.5], [0.5 - u, 0.5 + u, 0.5]]
    return Crystal.from_arrays(np.diag([4.594, 4.594, 2.959]), [22, 22, 8, 8, 8, 8], sites)


def anatase():
    u = 0.208
    titanium = [[0, 0, 0], [0, 0.5, 0.25]]
    oxygen = [[0, 0, u], [0, 0, -u], [0, 0.5, 0.25 + u], [0, 0.5, 0.25 - u]]
    sites = np.concatenate([[*titanium, *oxygen], np.add([*titanium, *oxygen], 0.5)])
    lattice = np.diag([3.785, 3.785, 9.514])
    return Crystal.from_arrays(lattice, [22, 22, 8, 8, 8, 8] * 2, sites)


def quartz():
    u, (x, y, z) = 0.4697, (0.4133, 0.2672, 0.1188)
    silicon = [[u, 0, 1 / 3], [0, u, 2 / 3], [-u, -u, 0]]
    oxygen = [[x, y, z + 1 / 3], [-y, x - y, z + 2 / 3], [y - x, -x, z]]
    oxygen += [[y, x, 2 / 3 - z], [x - y, -y, 1 / 3 - z], [-x, y - x, -z]]
    return hexagonal(4.916, 5.405, [14] * 3 + [8] * 6, [*silicon, *oxygen])


def caged():
    """An atom in the middle of 20 others, the corners of a dodecahedron: all at one distance."""
    golden = (1 + 5**0.5) / 2
    corners = [list(signs) for signs in itertools.product((-1, 1), repeat=3)]
    for a, b in itertools.product((-1 / golden, 1 / golden), (-golden, golden)):
        corners += [[0, a, b], [a, b, 0], [b, 0, a]]
    return Crystal(20 * np.eye(3), [26] + [6] * 20, 3 / 3**0.5 * np.array([[0] * 3, *corners]))


KNOWN = {
    "rock salt": rock_salt,
    "perovskite": perovskite,
    "diamond": diamond,
    "zincblende": zincblende,
    "wurtzite": wurtzite,
    "magnesium": magnesium,
    "graphite": graphite,
    "rutile": rutile,
    "anatase": anatase,
    "quartz": quartz,
    "caged": caged,
}


def shell(row, number):
    """(size, shares of the angles, mean atom vector) of a shell of a site."""
    start = NEIGHBOURS + number * SHELL_NUMBERS
    numbers = row[start : start + SHELL_NUMBERS]
    return numbers[0], numbers[1 : 1 + ANGLES], numbers[1 + ANGLES :]


def shares(**at):
    """The shares of angles, given as `at4=0.4`: 0.4 at the fourth cosine."""
    found = np.zeros(ANGLES)
    for name, share in at.items():
        found[int(name[2:])] = share
    return found


def assert_same(found, expected, atoms=slice(None), first=0, atol=1e-4):
    """The same crystal: `atoms` are the rows of the expected sites, `first` that of the cell."""
    assert found.space_group == expected.space_group
    np.testing.assert_allclose(found.cell[first:], expected.cell[first:], rtol=1e-4)
    np.testing.assert_allclose(found.sites, expected.sites[atoms], atol=atol)


# --- known values


@pytest.mark.parametrize(
    ("name", "group", "atoms", "sites", "cell"),
    [
        ("rock salt", 225, 8, 2, (5.64, 5.64, 5.64, 90, 90, 90)),
        ("perovskite", 221, 5, 3, (4, 4, 4, 90, 90, 90)),
        ("diamond", 227, 8, 1, (3.567, 3.567, 3.567, 90, 90, 90)),
        ("zincblende", 216, 8, 2, (5.409, 5.409, 5.409, 90, 90, 90)),
        ("wurtzite", 186, 4, 2, (3.8247, 3.8247, 6.2458, 90, 90, 120)),
        ("magnesium", 194, 2, 1, (3.2, 3.2, 5.2256, 90, 90, 120)),
        ("graphite", 194, 4, 2, (2.46, 2.46, 6.7, 90, 90, 120)),
        ("rutile", 136, 6, 2, (4.594, 4.594, 2.959, 90, 90, 90)),
        ("anatase", 141, 12, 2, (3.785, 3.785, 9.514, 90, 90, 90)),
        ("quartz", 152, 9, 2, (4.916, 4.916, 5.405, 90, 90, 120)),
    ],
)
def test_symmetry_and_conventional_cell(name, group, atoms, sites, cell):
    found = describe(KNOWN[name]())
    assert found.space_group == group
    assert found.cell.shape == (CELL_NUMBERS,) and found.sites.shape == (atoms, SITE_NUMBERS)
    np.testing.assert_array_equal(found.cell[:2], [atoms, sites])
    np.testing.assert_allclose(found.cell[4:], cell, rtol=1e-4)


def test_volume_per_atom_and_density():
    _, _, volume, density, *_ = describe(rock_salt()).cell
    assert volume == pytest.approx(5.64**3 / 8)
    assert density == pytest.approx(2.164, abs=1e-3)  # of NaCl, from tables: 2.16 to 2.17


def test_sites_of_rock_salt():
    row = describe(rock_salt()).sites[0]
    np.testing.assert_allclose(row[:NEIGHBOURS], [2.82] * 6 + [2.82 * 2**0.5] * 6, rtol=1e-6)
    for number in (0, 1):
        size, angles, atoms = shell(row, number)
        assert size == 6
        # 3 angles of 180 degrees, 12 of 90 degrees, which lie between two of the ten cosines.
        np.testing.assert_allclose(angles, shares(at0=0.2, at4=0.4, at5=0.4), atol=1e-6)
        np.testing.assert_array_equal(atoms, atom_features()[17])


def test_sites_of_caesium_chloride():
    row = describe(cubic(4.12, [55, 17], [[0, 0, 0], [0.5, 0.5, 0.5]])).sites[0]
    near = 4.12 * 0.75**0.5
    np.testing.assert_allclose(row[:NEIGHBOURS], [near] * 8 + [4.12] * 4, rtol=1e-6)
    size, angles, atoms = shell(row, 0)
    assert size == 8
    np.testing.assert_allclose(angles * 28, shares(at0=4, at3=12, at6=12), atol=1e-4)
    np.testing.assert_array_equal(atoms, atom_features()[17])
    size, _, atoms = shell(row, 1)  # before the largest gap: 8 unlike and 6 like neighbours
    assert size == 14
    mean = (8 * atom_features()[17] + 6 * atom_features()[55]) / 14
    np.testing.assert_allclose(atoms, mean, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "atom", "size", "distance", "angles"),
    [
        ("perovskite", 1, 6, 2.0, {"at0": 0.2, "at4": 0.4, "at5": 0.4}),
        ("perovskite", 2, 2, 2.0, {"at0": 1}),
        ("diamond", 0, 4, 3.567 * 0.1875**0.5, {"at3": 1}),
        ("graphite", 0, 3, 2.46 / 3**0.5, {"at2": 0.75, "at3": 0.25}),
        ("magnesium", 1, 12, 3.2, None),
        ("caged", 0, 20, 3.0, None),
    ],
)
def test_coordination(name, atom, size, distance, angles):
    row = describe(KNOWN[name]()).sites[atom]
    found = shell(row, 0)
    assert found[0] == shell(row, 1)[0] == size
    assert row[0] == pytest.approx(distance)
    assert found[1].sum() == pytest.approx(1)
    if angles is not None:
        np.testing.assert_allclose(found[1], shares(**angles), atol=1e-5)


def test_an_atom_without_neighbours():
    found = describe(cubic(20.0, [2], [[0.1, 0.2, 0.3]]))
    assert found.space_group == 221
    np.testing.assert_array_equal(found.sites[0], [8.0] * NEIGHBOURS + [0] * 2 * SHELL_NUMBERS)


def test_a_molecule_far_from_others():
    height = 1.16 * np.array([0, 1, -1])[:, None] * [[0, 0, 1]]
    carbon, oxygen, _ = describe(Crystal(25 * np.eye(3), [6, 8, 8], height)).sites
    np.testing.assert_allclose(carbon[:3], [1.16, 1.16, 8.0], rtol=1e-6)
    np.testing.assert_allclose(oxygen[:3], [1.16, 2.32, 8.0], rtol=1e-6)
    assert [shell(row, number)[0] for row in (carbon, oxygen) for number in (0, 1)] == [2, 2, 1, 1]
    np.testing.assert_allclose(shell(carbon, 0)[1], shares(at0=1), atol=1e-6)
    np.testing.assert_array_equal(shell(oxygen, 0)[1], shares())  # one bond has no angle


# --- what they do not depend on


def rotation(rng):
    turned, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return turned * np.linalg.det(turned)  # not a mirror image


def other_axes(rng):
    """Rows of other vectors of the same lattice; also left-handed ones."""
    rows = np.eye(3)
    for _ in range(4):
        i, j = rng.permutation(3)[:2]
        rows[i] += rng.choice([-1, 1]) * rows[j]
    return rows[rng.permutation(3)]


def supercell(crystal, times):
    shifts = np.array(list(itertools.product(*map(range, times)))) @ crystal.lattice
    positions = (shifts[:, None] + crystal.positions).reshape(-1, 3)
    numbers = np.tile(crystal.atomic_numbers, len(shifts))
    return Crystal(np.diag(times) @ crystal.lattice, numbers, positions)


@pytest.fixture(params=[*KNOWN, 3, 4])
def crystal(request):
    """A known crystal, or a random one."""
    if request.param in KNOWN:
        return KNOWN[request.param]()
    return random_crystal(np.random.default_rng(request.param))


def test_rotation_origin_order_and_axes_change_nothing(crystal):
    expected = describe(crystal)
    rng = np.random.default_rng(8)
    order = rng.permutation(crystal.num_atoms)
    lattice, numbers, positions = crystal.lattice, crystal.atomic_numbers, crystal.positions
    turn, shift = rotation(rng), rng.normal(size=3)
    assert_same(describe(Crystal(lattice @ turn, numbers, positions @ turn)), expected)
    assert_same(describe(Crystal(lattice, numbers, positions + shift)), expected)
    assert_same(describe(Crystal(lattice, numbers[order], positions[order])), expected, order)
    for _ in range(2):
        assert_same(describe(Crystal(other_axes(rng) @ lattice, numbers, positions)), expected)


def test_a_supercell_differs_only_in_the_number_of_its_atoms(crystal):
    expected, found = describe(crystal), describe(supercell(crystal, (1, 2, 1)))
    assert found.cell[0] == 2 * expected.cell[0]
    assert_same(found, expected, np.tile(np.arange(crystal.num_atoms), 2), first=1)


def test_hundreds_of_atoms():
    found = describe(supercell(rock_salt(), (4, 4, 4)))
    assert_same(found, describe(rock_salt()), np.tile(np.arange(8), 64), first=1)


def test_a_mirror_image_differs_only_in_its_space_group():
    mirrored = quartz().replace(lattice=-quartz().lattice, positions=-quartz().positions)
    left, right = describe(quartz()), describe(mirrored)
    assert (left.space_group, right.space_group) == (152, 154)
    assert_same(dataclasses.replace(right, space_group=152), left)


@pytest.mark.parametrize("name", ["rock salt", "perovskite", "caged"])
def test_small_displacements_change_little(name):
    crystal = KNOWN[name]()
    noise = np.random.default_rng(1).normal(0, 1e-5, crystal.positions.shape)
    found = describe(crystal.replace(positions=crystal.positions + noise))
    assert_same(found, describe(crystal), atol=5e-4)


def test_a_displacement_beyond_the_tolerance_lowers_the_symmetry():
    crystal = perovskite()
    positions = crystal.positions + np.array([0, 1, 0, 0, 0])[:, None] * [[0, 0, 0.05]]
    found = describe(crystal.replace(positions=positions))
    assert found.space_group == 99
    np.testing.assert_allclose(found.sites[1, :2], [1.95, 4.0025**0.5], rtol=1e-5)


def test_equal_neighbours_beyond_the_size_of_a_shell_stay_together():
    """Without a clear gap, a shell must not end between neighbours at the same distance."""
    crystal = caged()
    reach = np.linalg.norm(crystal.positions, axis=1)
    # Four corners a little further out each time, so that no gap is clear, and 12 at one distance.
    scale = np.ones(21)
    scale[1:9] = np.repeat([0.92, 0.96], 4)
    changed = crystal.replace(positions=crystal.positions * scale[:, None])
    assert reach[1:] == pytest.approx(3.0)
    for seed in range(3):
        order = np.concatenate([[0], 1 + np.random.default_rng(seed).permutation(20)])
        moved = Crystal(changed.lattice, changed.atomic_numbers[order], changed.positions[order])
        assert_same(describe(moved), describe(changed), order)
    assert shell(describe(changed).sites[0], 1)[0] == 20


# --- what only they tell apart


@pytest.mark.parametrize(("one", "other"), [(zincblende, wurtzite), (rutile, anatase)])
def test_polymorphs_differ(one, other):
    left, right = describe(one()), describe(other())
    assert left.space_group != right.space_group
    assert left.cell[1] == right.cell[1] == 2
    rows = [each.sites[:, : NEIGHBOURS + 1].round(2) for each in (left, right)]
    # The same coordination: 4 and 4, or 6 and 3; and the same density for the tetrahedra.
    assert set(rows[0][:, -1]) == set(rows[1][:, -1])
    if one is zincblende:
        np.testing.assert_allclose(left.cell[2:4], right.cell[2:4], rtol=1e-5)
    else:
        assert set(map(tuple, rows[0])).isdisjoint(map(tuple, rows[1]))


# --- without a space group


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_atoms_that_spglib_refuses_have_space_group_0(monkeypatch, old):
    """Two atoms in one place, which no `Crystal` has: spglib returns None, or raises its error."""
    monkeypatch.setattr(spglib.error, "OLD_ERROR_HANDLING", old)
    positions = np.array([[0, 0, 0], [0, 0, 0.001]])
    given = SimpleNamespace(
        lattice=np.diag([3.0, 4, 5]), positions=positions, atomic_numbers=np.array([6, 6], np.int32)
    )
    found = describe(given)
    assert found.space_group == 0
    assert found.cell[1] == 2
    np.testing.assert_allclose(found.cell[4:], [3, 4, 5, 90, 90, 90])
    assert np.isfinite(found.sites).all()


@pytest.mark.parametrize("raises", [True, False])
def test_a_crystal_without_a_space_group_has_its_own_cell_and_all_its_sites(monkeypatch, raises):
    def fails(*_):
        if raises:
            raise spglib.SpglibError("no symmetry")

    monkeypatch.setattr(spglib, "get_symmetry_dataset", fails)
    crystal = rock_salt(5.65)
    found = describe(crystal)
    assert found.space_group == 0 and found.cell[1] == 8
    assert shell(found.sites[7], 0)[0] == 6


def test_elements_without_an_atom_vector_are_refused():
    with pytest.raises(CrystalError, match="101"):
        cubic(4.0, [101], [[0, 0, 0]])


# --- remembered


def test_nothing_can_be_written_into_what_is_remembered():
    found = describe(rock_salt())
    for array in (found.cell, found.sites):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 7
    np.testing.assert_array_equal(describe(rock_salt()).sites, found.sites)


def test_a_crystal_is_described_once_until_others_have_taken_its_place(monkeypatch):
    calls = []
    original = descriptors._described

    def counted(*arrays):
        calls.append(1)
        return original(*arrays)

    monkeypatch.setattr(descriptors, "_described", counted)
    kept = descriptors._Kept(5 * 4096)
    monkeypatch.setattr(descriptors, "_KEPT", kept)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(describe, [quartz()] * 8))
    done = len(calls)
    assert 1 <= done <= 4
    describe(quartz())
    assert len(calls) == done
    for side in range(12):
        describe(Crystal(np.diag([3, 4, 5.0 + side]), [2], [[0, 0, 0]]))
    assert len(calls) == done + 12 and 0 < len(kept._values) < 12
    assert kept._bytes == sum(map(kept._size, kept._values.values())) <= 5 * 4096
    describe(quartz())
    assert len(calls) == done + 13


def test_a_distorted_view_has_the_descriptors_of_its_original():
    crystal = rock_salt()
    noise = np.random.default_rng(0).normal(0, 0.1, crystal.positions.shape)
    view = crystal.replace(positions=crystal.positions + noise)
    assert describe(view).space_group == 1
    graph = build_graph(view, 4.0, described=crystal)
    assert graph.descriptors is not None and graph.descriptors.space_group == 225
    assert build_graph(view, 4.0).descriptors is None
