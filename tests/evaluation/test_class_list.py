"""Classes, their members, and where their labels come from."""

import numpy as np
import pytest
from helpers.crystals import rock_salt
from helpers.pools import records_of

from clac_jax.evaluation.class_list import ZeroShotClass, alternatives, classes_of


def found(records, texts=None):
    texts = texts or [""] * len(records)
    return {(c.group, c.name): c for c in classes_of(records, texts)}


def labels(zero_shot):
    return [None if np.isnan(label) else int(label) for label in zero_shot.labels]


def test_properties_give_labels_where_they_are_known():
    gaps = [0.0, 0.004, 2.9, 3.0, None]
    hulls = [0.0, 0.01, 0.05, 1.0, None]
    records = records_of(
        "ABCDE",
        properties=[
            {} if gap is None else {"band gap": gap, "energy above hull": hull}
            for gap, hull in zip(gaps, hulls, strict=True)
        ],
    )
    classes = found(records)
    assert labels(classes["electronic", "metal"]) == [1, 0, 0, 0, None]
    assert labels(classes["electronic", "wide gap (≥ 3 eV)"]) == [0, 0, 0, 1, None]
    assert labels(classes["stability", "stable (on the hull)"]) == [1, 0, 0, 0, None]
    assert labels(classes["stability", "nearly stable (< 0.05 eV/atom)"]) == [1, 1, 0, 0, None]
    assert labels(classes["electronic", "magnetic"]) == [None] * 5
    assert not classes["electronic", "magnetic"].is_large_enough


def test_magnetic_is_any_sign_of_the_moment():
    moments = [0.0, 0.05, 2.0, -2.0]
    records = records_of("ABCD", properties=[{"total magnetization": m} for m in moments])
    assert labels(found(records)["electronic", "magnetic"]) == [0, 0, 1, 1]


def test_symmetry_and_elements_come_from_the_crystal():
    crystal = rock_salt()
    (record,) = records_of(["NaCl"])
    for name in ("lattice", "atomic_numbers", "positions"):
        object.__setattr__(record, name, getattr(crystal, name))
    classes = found([record])
    assert labels(classes["crystal system", "cubic"]) == [1]
    assert labels(classes["crystal system", "hexagonal"]) == [0]
    assert {name for group, name in classes if group == "contains"} == {"sodium", "chlorine"}
    assert "This material contains sodium." in classes["contains", "sodium"].positive


@pytest.mark.parametrize(
    ("text", "group", "name", "label"),
    [
        ("It is layered, with bonded sheets.", "structure", "layered", 1),
        ("Bonds run within two-dimensional layers.", "structure", "layered", 1),
        ("It has the K2NiF4 (layered perovskite) structure.", "structure", "layered", 0),
        ("It has the alpha-NaFeO2 (layered rock salt) structure.", "structure", "layered", 0),
        ("It adopts the cubic perovskite structure.", "structure type", "perovskite", 1),
        ("A rock-salt-ordered double perovskite.", "structure type", "perovskite", 1),
        ("It adopts the cubic antiperovskite structure.", "structure type", "perovskite", 0),
        ("It adopts the cubic antiperovskite structure.", "structure type", "antiperovskite", 1),
        ("It adopts the rock salt structure.", "structure type", "rock salt", 1),
        ("A layered rock salt.", "structure type", "rock salt", 0),
        ("A rock-salt-ordered double perovskite.", "structure type", "rock salt", 0),
        ("It is an inverse spinel.", "structure type", "spinel", 1),
        ("It adopts the antifluorite structure.", "structure type", "fluorite", 0),
        ("It adopts the half-Heusler structure.", "structure type", "half-Heusler", 1),
        ("It adopts the half-Heusler structure.", "structure type", "full-Heusler", 0),
        ("It adopts the cesium chloride structure.", "structure type", "cesium chloride", 1),
        ("A mixture with cesium chloride.", "structure type", "cesium chloride", 0),
    ],
)
def test_texts_say_which_structure_it_is(text, group, name, label):
    assert labels(found(records_of(["A"]), [text])[group, name]) == [label]


def test_the_sentences_of_alternatives_are_the_negative_ones():
    many = {"a": np.array([1.0] * 5 + [0.0] * 7), "b": np.array([0.0] * 5 + [1.0] * 5 + [0.0] * 2)}
    rare = {"c": np.array([0.0] * 10 + [1.0] * 2)}
    classes = {c.name: c for c in alternatives("group", many | rare, lambda name: (f"is {name}",))}
    assert classes["a"].negative == ("is b",)  # "c" has too few members to be asked about
    assert classes["c"].negative == ("is a", "is b")
    assert [classes[name].is_large_enough for name in "abc"] == [True, True, False]


def test_a_class_needs_members_and_others():
    everyone = ZeroShotClass("g", "n", np.ones(20), ("yes",), ("no",))
    assert not everyone.is_large_enough
    mixed = ZeroShotClass("g", "n", np.array([1.0] * 5 + [0.0] * 5 + [np.nan]), ("yes",), ("no",))
    assert mixed.is_large_enough
    assert len(mixed.known) == 10
