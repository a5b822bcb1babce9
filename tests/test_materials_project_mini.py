"""The shipped data: what its texts say is what its numbers are."""

import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from rdkit import Chem

from clac_jax.datasets.materials_project_mini.builder import PARQUET
from clac_jax.formula import replace_formulas
from clac_jax.text import split_sentences

QUESTIONS = ("structure_question_list", "composition_question_list", "oxide_question_list")


@pytest.fixture(scope="module")
def rows():
    return pq.read_table(PARQUET).to_pylist()


def narrative(row):
    return f"{row['gpt_text']} {row['gpt_explanation']}"


def test_size_and_count(rows):
    assert sum(path.stat().st_size for path in PARQUET.parent.iterdir() if path.is_file()) <= 5e6
    assert len(rows) == 6317
    assert len({row["material_id"] for row in rows}) == 6317


def test_length_and_formula_of_every_narrative(rows):
    for row in rows:
        assert 80 <= len(narrative(row).split()) <= 150, row["material_id"]
        assert row["formula"] in row["gpt_text"], row["material_id"]


def test_no_two_narratives_are_the_same_without_their_formulas(rows):
    texts = {replace_formulas(narrative(row), also=(row["formula"],)) for row in rows}
    assert len(texts) == len(rows)


def test_no_formula_is_left_where_formulas_are_replaced(rows):
    for row in rows:
        if len(row["formula"]) > 2:
            text = replace_formulas(narrative(row), also=(row["formula"],))
            assert row["formula"] not in re.split(r"[^\w()]+", text), row["material_id"]


def test_sentences_stand_alone(rows):
    for row in rows[::10]:
        for sentence in split_sentences(narrative(row)):
            assert sentence[0].isupper() or sentence[0].isdigit(), sentence
            assert sentence.endswith("."), sentence
            assert not sentence.startswith(("It ", "They ", "Its ")), sentence


def test_densities_are_right(rows):
    table = Chem.GetPeriodicTable()
    checked = 0
    for row in rows:
        said = re.search(r"density.*?([\d.]+\d)(?: g/cm3)", narrative(row))
        if said:
            mass = sum(table.GetAtomicWeight(int(z)) for z in row["atomic_numbers"])
            volume = abs(np.linalg.det(np.reshape(row["lattice"], (3, 3))))
            assert float(said[1]) == pytest.approx(mass * 1.66054 / volume, abs=0.011)
            checked += 1
    assert checked == len(rows)


def test_properties_are_said_as_they_are(rows):
    units = {
        "band gap": r"band gap.*? (\d+\.\d+) eV",
        "formation energy per atom": r"formation energy.*? (-?\d+\.\d+) eV/atom",
        "energy above hull": r"(\d\.\d+) eV/atom",
        "bulk modulus": r"bulk modulus (?:of|is) (\d+) GPa",
        "shear modulus": r"shear modulus (?:of )?(\d+) GPa",
        "poisson ratio": r"Poisson ratio is (-?\d+\.\d+)",
        "refractive index": r"refractive index (?:is|of) about (\d+\.\d+)",
        "piezoelectric modulus": r"piezoelectric modulus is (\d+\.\d+) C/m2",
    }
    words = {"energy above hull": "hull", "poisson ratio": "Poisson"}
    known = said = 0
    for row in rows:
        sentences = split_sentences(row["gpt_explanation"])
        for name, pattern in units.items():
            if row[name] is None:
                continue
            known += 1
            about = [text for text in sentences if words.get(name, name.split(" per")[0]) in text]
            if not about:
                continue
            said += 1
            number = re.search(pattern, about[0])
            if number is None:  # said in words
                assert ("metal" in about[0] and row[name] < 0.01) or (
                    "stable" in about[0] and row[name] < 0.0005
                ), about[0]
            else:
                digits = len(number[1].partition(".")[2])
                assert float(number[1]) == pytest.approx(row[name], abs=0.51 * 10**-digits)
    assert said == known


def test_bond_lengths_are_distances_of_the_crystal(rows):
    from clac_jax.crystal import Crystal
    from clac_jax.graph import neighbour_list

    for row in rows[::150]:
        lattice = np.reshape(row["lattice"], (3, 3))
        crystal = Crystal(
            lattice, row["atomic_numbers"], np.reshape(row["frac_coords"], (-1, 3)) @ lattice
        )
        lengths = np.linalg.norm(neighbour_list(crystal, 6.0)[3], axis=1)
        for said in re.findall(r"bonds are ([\d.]+)", row["gpt_text"]):
            assert np.abs(lengths - float(said)).min() < 0.006


def test_oxidation_states_only_where_there_is_an_anion(rows):
    anions = {"F", "O", "Cl", "Br", "I", "S", "Se", "N"}
    for row in rows:
        if re.search(r"Charge balance|In terms of ions", row["gpt_explanation"]):
            symbols = {Chem.GetPeriodicTable().GetElementSymbol(z) for z in row["atomic_numbers"]}
            assert symbols & anions, row["material_id"]
            assert "intermetallic" not in row["gpt_text"]


def test_questions_have_one_right_and_three_other_answers(rows):
    for row in rows:
        for name in QUESTIONS:
            assert len(row[name]) == len(set(row[name])) == 4, (row["material_id"], name)
        (group,) = re.findall(r"\(No\. \d+\)", row["gpt_text"])
        assert group in row["structure_question_list"][0]
        has_oxygen = 8 in row["atomic_numbers"]
        right, *wrong = row["oxide_question_list"]
        assert has_oxygen == ("contains oxygen" in right or "oxide" in right or "pure" in right)
        kinds = {"fluoride": 9, "sulfide": 16, "nitride": 7, "chloride": 17, "selenide": 34}
        kinds |= {"hydride": 1, "telluride": 52}
        for statement in wrong:
            denies_oxygen = "without oxygen" in statement
            (kind,) = re.findall(r"an? (\w+?ide)\b", statement)
            absent = kind in kinds and kinds[kind] not in row["atomic_numbers"]
            assert denies_oxygen == has_oxygen or absent, (row["material_id"], statement)
