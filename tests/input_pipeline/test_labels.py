"""Class labels and properties of crystals."""

import dataclasses

import numpy as np
import pytest
import spglib.error
from helpers.crystals import rock_salt

from clac_jax.datasets.record import DataError, Record
from clac_jax.input_pipeline.labels import CRYSTAL_SYSTEMS, Labelled, _crystal_system, label_of


def record(lattice, atomic_numbers=(11,), fractional=((0.0, 0.0, 0.0),), **properties):
    lattice = np.asarray(lattice, float)
    positions = np.asarray(fractional, float) @ lattice
    return Record("m", lattice, np.array(atomic_numbers, np.int32), positions, "Na",
                  gpt_text="A metal.", properties=properties)  # fmt: skip


SKEWED = np.array([[3.0, 0, 0], [0.4, 4.0, 0], [0.3, 0.5, 5.0]])
CELLS = {
    "triclinic": SKEWED,
    "monoclinic": [[3.0, 0, 0.8], [0, 4.0, 0], [0, 0, 5.0]],
    "orthorhombic": np.diag([3.0, 4.0, 5.0]),
    "tetragonal": np.diag([3.0, 3.0, 5.0]),
    # The rhombohedral axes of a stretched cube.
    "trigonal": np.eye(3) * 3.0 + 0.4,
    "hexagonal": [[3.0, 0, 0], [-1.5, 1.5 * 3**0.5, 0], [0, 0, 5.0]],
    "cubic": np.diag([3.0, 3.0, 3.0]),
}


@pytest.mark.parametrize("name", CRYSTAL_SYSTEMS)
def test_crystal_systems(name):
    assert CRYSTAL_SYSTEMS[int(label_of(record(CELLS[name]), "crystal system"))] == name


def test_a_larger_cell_has_the_same_crystal_system():
    salt = rock_salt()
    positions = np.concatenate([salt.positions, salt.positions + salt.lattice[0]])
    lattice = salt.lattice * [[2], [1], [1]]
    doubled = Record("m", lattice, np.tile(salt.atomic_numbers, 2), positions, "NaCl")
    assert CRYSTAL_SYSTEMS[int(label_of(doubled, "crystal system"))] == "cubic"


@pytest.mark.parametrize("old_handling", [True, False])
def test_a_crystal_whose_symmetry_cannot_be_determined_is_refused(monkeypatch, old_handling):
    """Two atoms at one position, whatever spglib's error setting in the process."""
    monkeypatch.setattr(spglib.error, "OLD_ERROR_HANDLING", old_handling)
    twice = np.zeros((2, 3)), np.array([11, 11], np.int32)
    with pytest.raises(DataError, match="symmetry of its crystal cannot be determined"):
        _crystal_system(np.diag([3.0, 4.0, 5.0]).tobytes(), *(array.tobytes() for array in twice))


def test_numbers_and_their_absence():
    cell = CELLS["cubic"]
    known, nan = record(cell, **{"band gap": 1.5}), record(cell, **{"band gap": float("nan")})
    assert label_of(known, "band gap") == 1.5
    assert label_of(nan, "band gap") is None and label_of(record(cell), "band gap") is None
    split = [dataclasses.replace(known, material_id=str(k)) if k % 2 else nan for k in range(6)]
    labelled = Labelled(split, "band gap")
    assert [r.material_id for r in labelled] == ["1", "3", "5"]
    assert len(labelled.crystals.atoms) == 3
    assert labelled.num_dropped == 3 and list(labelled.labels()) == [1.5] * 3


def test_a_property_that_no_record_has():
    with pytest.raises(DataError, match="to one of band gap, crystal system"):
        Labelled([record(CELLS["cubic"], **{"band gap": 1.0})], "gap")
