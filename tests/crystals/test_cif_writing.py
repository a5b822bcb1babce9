"""CIF text of a crystal, read back."""

import gemmi
import numpy as np
import pytest
from helpers.cif import QUARTZ
from helpers.crystals import random_crystal, rock_salt

from clac_jax.crystals.crystal import Crystal
from clac_jax.crystals.descriptors import describe


def distances(crystal):
    """Sorted distances between all pairs within the cell, by the shortest images in a cell list."""
    from vesin import NeighborList

    i, j, d = NeighborList(cutoff=5.0, full_list=True).compute(
        crystal.positions, crystal.lattice, periodic=True, quantities="ijd"
    )
    z = crystal.atomic_numbers
    return sorted(zip(z[i].tolist(), z[j].tolist(), d.round(5).tolist(), strict=True))


@pytest.mark.parametrize("seed", range(8))
def test_a_crystal_is_the_same_when_read_back(seed):
    crystal = random_crystal(np.random.default_rng(seed))
    again = Crystal.from_cif(crystal.to_cif())
    np.testing.assert_array_equal(again.atomic_numbers, crystal.atomic_numbers)
    gram, expected = (c.lattice @ c.lattice.T for c in (again, crystal))
    np.testing.assert_allclose(gram, expected, atol=1e-5)
    sign = np.sign(np.linalg.det(crystal.lattice))  # a CIF has no left-handed cells
    steps = again.fractional - sign * crystal.fractional
    np.testing.assert_allclose(steps - np.round(steps), 0, atol=1e-7)
    expected = distances(crystal)
    found = distances(again)
    assert [pair[:2] for pair in found] == [pair[:2] for pair in expected]
    np.testing.assert_allclose([p[2] for p in found], [p[2] for p in expected], atol=2e-4)


@pytest.mark.parametrize("seed", range(6))
def test_a_chiral_crystal_keeps_its_hand_in_any_cell(seed):
    quartz = Crystal.from_cif(QUARTZ)
    mirrored = quartz.replace(lattice=-quartz.lattice, positions=-quartz.positions)
    assert {describe(quartz).space_group, describe(mirrored).space_group} == {152, 154}
    rng = np.random.default_rng(seed)
    for crystal in (quartz, mirrored):
        basis = rng.permutation(np.diag(rng.choice([-1, 1], 3)))
        basis = (np.eye(3) + np.triu(rng.integers(-1, 2, (3, 3)), 1)) @ basis
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        turn *= np.linalg.det(turn)  # a proper rotation
        other = crystal.replace(
            lattice=basis @ crystal.lattice @ turn, positions=crystal.positions @ turn
        )
        again = Crystal.from_cif(other.to_cif())
        assert describe(again).space_group == describe(crystal).space_group
        np.testing.assert_allclose(distances(again), distances(crystal), atol=2e-4)


def test_other_programs_read_it():
    block = gemmi.cif.read_string(rock_salt().to_cif("mp-22862 (NaCl)")).sole_block()
    assert block.name == "mp-22862_NaCl_"
    structure = gemmi.make_small_structure_from_block(block)
    assert len(structure.sites) == 8 and structure.cell.a == pytest.approx(5.64)
    assert block.find_value("_chemical_formula_sum") == "'Cl4 Na4'"
