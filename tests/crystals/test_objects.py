"""Conversion from and to pymatgen and ASE objects."""

import sys

import ase
import ase.build
import ase.io
import numpy as np
import pytest
from helpers.crystals import NACL, random_crystal, rock_salt
from pymatgen.core import DummySpecies, Lattice, Molecule, Structure

from clac_jax.crystals import Crystal, CrystalError
from clac_jax.crystals.objects import MissingPackageError
from clac_jax.crystals.reading import crystal_of

CUBE = Lattice.cubic(4.0)
TWO = [[0, 0, 0], [0.5, 0.5, 0.5]]


@pytest.mark.parametrize("library", ["ase", "pymatgen"])
def test_there_and_back_nothing_is_changed(library):
    rng = np.random.default_rng(0)
    for _ in range(20):
        crystal = random_crystal(rng)  # cells of any shape, atoms outside of them
        there = getattr(crystal, f"to_{library}")()
        back = getattr(Crystal, f"from_{library}")(there)
        np.testing.assert_array_equal(back.lattice, crystal.lattice)
        np.testing.assert_array_equal(back.atomic_numbers, crystal.atomic_numbers)
        np.testing.assert_allclose(back.positions, crystal.positions, atol=1e-9)


def test_a_later_change_of_the_object_does_not_reach_the_crystal():
    atoms = rock_salt().to_ase()
    crystal = Crystal.from_ase(atoms)
    atoms.positions += 1.0
    atoms.cell *= 2.0
    np.testing.assert_array_equal(crystal.positions, rock_salt().positions)
    np.testing.assert_array_equal(crystal.lattice, rock_salt().lattice)


@pytest.mark.filterwarnings("ignore::UserWarning:pymatgen")
def test_both_libraries_and_our_reader_agree_on_a_cif(tmp_path):
    (tmp_path / "a.cif").write_text(NACL)
    ours = Crystal.from_cif(NACL)
    for theirs in (
        Crystal.from_ase(ase.io.read(tmp_path / "a.cif")),
        Crystal.from_pymatgen(Structure.from_file(tmp_path / "a.cif")),
    ):
        assert theirs.formula == ours.formula
        assert theirs.volume / theirs.num_atoms == pytest.approx(ours.volume / ours.num_atoms)


def test_charges_are_dropped_and_deuterium_is_hydrogen():
    assert Crystal.from_pymatgen(Structure(CUBE, ["Na+", "Cl-"], TWO)).formula == "ClNa"
    assert Crystal.from_pymatgen(Structure(CUBE, ["D", "Cl"], TWO)).formula == "ClH"


@pytest.mark.parametrize(
    ("site", "formula"),
    [
        ({"Fe2+": 0.5, "Fe3+": 0.5}, "FeO"),
        ({"Mn2+": 0.25, "Mn3+": 0.25, "Mn4+": 0.5}, "MnO"),
        ({"H+": 0.4, "D+": 0.6}, "HO"),
    ],
)
def test_a_site_of_one_element_in_several_charges_or_isotopes_is_full(site, formula):
    structure = Structure(CUBE, [site, "O2-"], TWO)
    assert Crystal.from_pymatgen(structure).formula == formula
    assert crystal_of(structure.as_dict()).formula == formula
    hydride = with_occupancy({"0": {"H": 0.4, "D": 0.6}, "1": {"Cl": 1.0}})
    assert Crystal.from_ase(hydride).num_atoms == 2


@pytest.mark.parametrize(
    ("structure", "words"),
    [
        (Structure(CUBE, [{"Na": 0.5, "K": 0.5}, "Cl"], TWO), r"Site 0 .*\(Na 0.5, K 0.5\)"),
        (Structure(CUBE, ["Na", {"Cl": 0.9}], TWO), r"Site 1 .*\(Cl 0.9\)"),
        (Structure(CUBE, [{"Fe2+": 0.5, "Fe3+": 0.4}, "Cl"], TWO), r"Site 0 .*\(Fe 0.9\)"),
        (Structure(CUBE, [DummySpecies("X"), "Cl"], TWO), "'X' is not an element"),
        (Structure(Lattice.cubic(4.0, pbc=(True, True, False)), ["Na", "Cl"], TWO), "along c"),
        (Structure(CUBE, [], []), "no atoms"),
        (Structure(CUBE, ["Na", "Cl"], [[0, 0, 0], [0, 0, 0.01]]), "0.04 angstrom apart"),
        (Molecule(["H"], [[0, 0, 0]]), "not a pymatgen Structure"),
        (rock_salt(), "not a pymatgen Structure"),
    ],
)
def test_structures_that_are_not_ordered_crystals(structure, words):
    with pytest.raises(CrystalError, match=words):
        Crystal.from_pymatgen(structure)


def with_occupancy(occupancy):
    atoms = ase.build.bulk("NaCl", "rocksalt", a=5.64)
    atoms.info["occupancy"] = occupancy
    return atoms


@pytest.mark.parametrize(
    ("atoms", "words"),
    [
        (ase.build.molecule("H2O"), "along a, b, c"),
        (ase.build.fcc111("Cu", (1, 1, 3), vacuum=8.0), "along c"),
        (ase.Atoms(), "no atoms"),
        (ase.Atoms("H", pbc=True), "volume"),
        (ase.Atoms("X", cell=[4, 4, 4], pbc=True), "atomic number 0"),
        (with_occupancy({"0": {"Na": 0.5, "K": 0.5}}), r"\(Na 0.5, K 0.5\)"),
        (with_occupancy({0: {"Na": 0.7}}), r"\(Na 0.7\)"),
        (with_occupancy("foo"), r'info\["occupancy"\] does not give the elements'),
        (with_occupancy({"0": 1.0}), r'info\["occupancy"\] does not give the elements'),
        (with_occupancy({"0": {"Na": "full"}}), "'full' in the occupancy is not a number"),
        (Structure(CUBE, ["Na"], TWO[:1]), "not an ASE Atoms"),
    ],
)
def test_atoms_that_are_not_ordered_crystals(atoms, words):
    with pytest.raises(CrystalError, match=words):
        Crystal.from_ase(atoms)


def test_atoms_of_a_cif_with_full_occupancies():
    assert Crystal.from_ase(with_occupancy({"0": {"Na": 1.0}, "1": {"Cl": 1}})).num_atoms == 2


@pytest.mark.parametrize("library", ["ase", "pymatgen"])
def test_a_library_that_is_not_installed_is_named(library, monkeypatch):
    crystal = rock_salt()
    for name in (library, f"{library}.core", f"{library}.core.lattice"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackageError, match=f"pip install {library}"):
        getattr(crystal, f"to_{library}")()
