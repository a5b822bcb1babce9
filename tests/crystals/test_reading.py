"""Crystals from files."""

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from helpers.crystals import NACL, rock_salt

from clac_jax.crystals import Crystal, CrystalError
from clac_jax.crystals.cif import FormulaMismatch
from clac_jax.crystals.objects import MissingPackageError
from clac_jax.crystals.reading import crystal_of

POSCAR = """NaCl
1.0
0.0 2.82 2.82
2.82 0.0 2.82
2.82 2.82 0.0
Na Cl
1 1
Direct
0.0 0.0 0.0
0.5 0.5 0.5
"""


@pytest.mark.parametrize("name", ["a.cif", "A.CIF"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_cif_file(tmp_path, name, start):
    (tmp_path / name).write_text(start + NACL, encoding="utf-8")
    for path in (tmp_path / name, str(tmp_path / name)):
        crystal = Crystal.from_file(path)
        np.testing.assert_array_equal(crystal.positions, Crystal.from_cif(NACL).positions)


def test_other_formats_are_read_by_ase(tmp_path):
    (tmp_path / "POSCAR").write_text(POSCAR)
    crystal = Crystal.from_file(tmp_path / "POSCAR")
    assert crystal.formula == "ClNa" and crystal.num_atoms == 2
    np.testing.assert_allclose(crystal.lattice[0], [0, 2.82, 2.82])


def test_the_file_that_is_named_is_read_whatever_its_name(tmp_path):
    (tmp_path / "POSCAR").write_text(POSCAR)
    (tmp_path / "POSCAR@0").write_text(POSCAR.replace("Na", "K"))
    assert Crystal.from_file(tmp_path / "POSCAR@0").formula == "ClK"


def test_other_formats_without_ase(tmp_path, monkeypatch):
    (tmp_path / "POSCAR").write_text(POSCAR)
    monkeypatch.setitem(sys.modules, "ase", None)
    monkeypatch.setitem(sys.modules, "ase.io", None)
    with pytest.raises(MissingPackageError, match=r"POSCAR is not a .cif file.*pip install ase"):
        Crystal.from_file(tmp_path / "POSCAR")


def test_several_structures_in_one_file(tmp_path):
    import ase.io

    ase.io.write(tmp_path / "path.xyz", [rock_salt().to_ase()] * 3, format="extxyz")
    with pytest.raises(CrystalError, match=r"path.xyz cannot be used: It holds 3 structures"):
        Crystal.from_file(tmp_path / "path.xyz")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.cif", None, "There is no such file"),
        ("bad.cif", b"not a cif", "does not parse"),
        ("bytes.cif", b"\xff\xfe\x00", "CIF"),
        ("empty.cif", b"", "no atom sites"),
        ("noise.vasp", b"noise", "ASE cannot read it"),
        ("a.cif.txt", NACL.encode(), "let its name end in .cif"),
        ("no_ending", NACL.encode(), "let its name end in .cif"),
    ],
)
def test_files_that_are_not_crystals_are_named(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CrystalError, match=f"{name} cannot be used: .*{words}"):
        Crystal.from_file(tmp_path / name)


def test_a_folder_is_not_a_crystal(tmp_path):
    with pytest.raises(CrystalError, match="It is not a file"):
        Crystal.from_file(tmp_path)


def test_a_file_whose_sites_are_not_its_formula_is_refused(tmp_path):
    (tmp_path / "a.cif").write_text(NACL + "_chemical_formula_sum 'Na Cl2'\n")
    with pytest.raises(FormulaMismatch, match=r"a.cif cannot be used: .*'Na Cl2'"):
        Crystal.from_file(tmp_path / "a.cif")


def test_whatever_a_user_has_is_one_crystal(tmp_path):
    (tmp_path / "a.cif").write_text(NACL)
    crystal = Crystal.from_cif(NACL)
    structure = crystal.to_pymatgen()
    values = [crystal, Path(tmp_path / "a.cif"), crystal.to_ase(), structure, NACL]
    values += [f"\ufeff# a remark\n{NACL}", crystal.to_atoms(), structure.as_dict()]
    values += [json.loads(json.dumps(structure.as_dict(verbosity=0)))]
    for value in values:
        assert crystal_of(value).formula == "ClNa"
        np.testing.assert_allclose(crystal_of(value).positions, crystal.positions, atol=1e-9)


@pytest.mark.parametrize("value", [3, None, NACL.encode(), [rock_salt()]])
def test_a_value_that_is_not_a_crystal(value):
    with pytest.raises(CrystalError, match="is not a crystal"):
        crystal_of(value)


def test_objects_that_only_look_like_a_crystal_are_refused():
    looks = types.SimpleNamespace
    for value in (
        looks(lattice=3, sites=[1], frac_coords=2),
        looks(lattice=looks(matrix=[[1, 2]], pbc=1), sites=[], frac_coords=None),
        looks(cell=None, pbc=True, numbers=5, positions=None),
        looks(cell=np.eye(3), pbc=[1, 1, 1], numbers=[1.5], positions=[[]], info={"occupancy": 5}),
    ):
        with pytest.raises(CrystalError):
            crystal_of(value)


SODIUM = {"species": [{"element": "Na", "occu": 1}], "abc": [0, 0, 0]}
CUBE = {"matrix": [[3, 0, 0], [0, 3, 0], [0, 0, 3]]}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"lattice": 3}, 'no list "elements"'),
        ({"sites": [SODIUM]}, 'no "lattice"'),
        ({"sites": [SODIUM], "lattice": {"a": 3}}, 'no "lattice" with a "matrix"'),
        ({"sites": [], "lattice": CUBE}, "no atoms"),
        ({"sites": [3], "lattice": CUBE}, '"sites" .* are not a list of dicts'),
        ({"sites": [{"abc": [0, 0, 0]}], "lattice": CUBE}, 'Site 0 has no list "species"'),
        ({"sites": [SODIUM | {"abc": None}], "lattice": CUBE}, "coordinates"),
        ({"sites": [SODIUM], "lattice": CUBE | {"pbc": [True, True, False]}}, "along c"),
        ({"sites": [SODIUM], "lattice": CUBE | {"pbc": 1}}, "not three booleans"),
        (
            {
                "sites": [SODIUM | {"species": [{"element": "Na", "occu": 0.5}]}],
                "lattice": CUBE,
            },
            "not fully occupied",
        ),
        ({"sites": [SODIUM | {"species": [{"occu": 1}]}], "lattice": CUBE}, "'None' is not an"),
    ],
)
def test_dicts_that_are_not_one_crystal(value, words):
    with pytest.raises(CrystalError, match=words):
        crystal_of(value)
