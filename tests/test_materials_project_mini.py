"""The shipped data: what its texts say is what its numbers are."""

from __future__ import annotations

import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from rdkit import Chem

from clac_jax.crystal import Crystal
from clac_jax.datasets.materials_project_mini.builder import PARQUET
from clac_jax.formula import replace_formulas
from clac_jax.graph import neighbour_list
from clac_jax.text import split_sentences

QUESTIONS = ("structure_question_list", "composition_question_list", "oxide_question_list")
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
         "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen")  # fmt: skip
# Property -> patterns of its value, and what stands there in words with the values it is right for.
SAID = {
    "formation energy per atom": (
        r"formation energy.*?([+-]?\d+\.\d+) eV/atom|costs (\d+\.\d+)|releases (\d+\.\d+)"
        r"|(\d+\.\d+) eV/atom above the reference",
        r"formation energy of zero|is zero|close to zero",
        (-0.005, 0.005),
    ),
    "band gap": (r"(\d+\.\d+) eV\b(?!/)", r"no band gap|is zero|is metallic", (0, 0.005)),
    "energy above hull": (
        r"(\d+\.\d+) eV/atom above the convex|above hull of .*? is (\d+\.\d+)",
        r"lies on the convex hull|which is on the hull|above hull of zero",
        (0, 0.0005),
    ),
    "bulk modulus": (
        r"bulk modulus of (\d+) GPa|bulk modulus of .*? is (\d+)|moduli of (\d+)",
        None,
        None,
    ),
    "shear modulus": (r"shear modulus (?:of )?(\d+) GPa|moduli of \d+ GPa and (\d+)", None, None),
    "poisson ratio": (r"Poisson ratio is (\d+\.\d+)", None, None),
    "elastic anisotropy": (r"anisotropy (?:index )?(\d+\.\d+)", r"under 0\.01", (0, 0.01)),
    "refractive index": (
        r"refractive index of (\d+\.\d+)|refractive index of .*? is (\d+\.\d+)",
        None,
        None,
    ),
    "dielectric constant": (r"dielectric constant (?:is|of) (\d+\.\d+)", None, None),
    "electronic dielectric constant": (
        r"electronic part of (\d+\.\d+)|contribute (\d+\.\d+)|and (\d+\.\d+) from",
        None,
        None,
    ),
    "piezoelectric modulus": (r"(\d+\.\d+) C/m\^2", r"negligible, under 0\.01", (0, 0.005)),
}


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return pq.read_table(PARQUET).to_pylist()


def narrative(row: dict) -> str:
    return f"{row['gpt_text']} {row['gpt_explanation']}"


def crystal(row: dict) -> Crystal:
    lattice = np.reshape(row["lattice"], (3, 3))
    return Crystal(
        lattice, row["atomic_numbers"], np.reshape(row["frac_coords"], (-1, 3)) @ lattice
    )


def element_names(row: dict) -> list[str]:
    spelling = {"Aluminium": "aluminum", "Caesium": "cesium", "Sulphur": "sulfur"}
    table = Chem.GetPeriodicTable()
    names = [table.GetElementName(int(z)) for z in sorted(set(row["atomic_numbers"]))]
    return [spelling.get(name, name.lower()) for name in names]


def test_the_folder_is_small_and_the_rows_are_all_there(rows):
    assert sum(path.stat().st_size for path in PARQUET.parent.iterdir() if path.is_file()) <= 5e6
    assert len(rows) == len({row["material_id"] for row in rows}) == 6317
    assert len({narrative(row) for row in rows}) == 6317
    assert sum(row["bulk modulus"] is None for row in rows) == 6317 - 1181
    assert all(row["source"] for row in rows)


def test_every_crystal_is_one(rows):
    for row in rows[::40]:
        assert crystal(row).num_atoms == len(row["atomic_numbers"])


def test_length_and_formula_of_every_narrative(rows):
    for row in rows:
        assert 80 <= len(narrative(row).split()) <= 150, row["material_id"]
        assert row["formula"] in row["gpt_text"], row["material_id"]
        assert row["material_id"] not in narrative(row)
        assert "  " not in narrative(row)


def test_texts_differ_without_their_formulas_and_hold_none_of_them(rows):
    texts = set()
    for row in rows:
        text = replace_formulas(narrative(row), also=(row["formula"],))
        texts.add(text)
        assert re.search(rf"(?<!\w){re.escape(row['formula'])}(?!\w)", text) is None, text
    assert len(texts) == len(rows)


def test_sentences_are_told_apart_and_stand_alone(rows):
    for row in rows[::7]:
        sentences = split_sentences(narrative(row))
        assert len(sentences) >= 7
        for sentence in sentences:
            assert sentence[0].isupper() or sentence[0].isdigit(), sentence
            assert sentence.endswith("."), sentence
            assert not re.search(r"\. (?:The|Each|This|A|Every|For|In) ", sentence), sentence
            assert not sentence.startswith(("It ", "They ", "These ", "Both ")), sentence


def test_english(rows):
    wrong = re.compile(
        r"\ba (?:[aeio]\w|uranium|un)|\ban (?:[bcdfghjklmnpqrstvwxyz])|\bone \w+ atoms\b|"
        r"\b(?:two|three|four|six) \w+ atom\b|\b(\w+) \1\b|\bNone\b|\bnan\b|[{}]|"
        r"crystal crystallizes|\b0\.00 (?:eV|GPa|C)",
        flags=re.ASCII,
    )
    for row in rows:
        match = wrong.search(narrative(row))
        assert match is None, (match, narrative(row))


def test_elements_are_named(rows):
    for row in rows:
        opening = split_sentences(row["gpt_text"])[0].lower()
        for element in element_names(row):
            assert element in opening, (row["material_id"], opening)


def test_sites_and_densities_are_right(rows):
    table = Chem.GetPeriodicTable()
    for row in rows:
        (said,) = re.findall(r"density of .*?([\d.]+\d) g/cm\^3|([\d.]+\d) g/cm\^3", narrative(row))
        mass = sum(table.GetAtomicWeight(int(z)) for z in row["atomic_numbers"])
        volume = abs(np.linalg.det(np.reshape(row["lattice"], (3, 3))))
        assert float(said[0] or said[1]) == pytest.approx(mass * 1.66054 / volume, abs=0.011)
        n = len(row["atomic_numbers"])
        count = WORDS[n] if n < len(WORDS) else str(n)
        told = re.search(
            rf"\b{count} (?:atoms|sites|atomic sites)\b|single atom|only one atom", row["gpt_text"]
        )
        assert told is not None, row["gpt_text"]
        assert ("atom" in told[0] and told[0].endswith(("single atom", "one atom"))) == (n == 1)


def test_crystal_systems_belong_to_their_space_groups(rows):
    last = {"triclinic": 2, "monoclinic": 15, "orthorhombic": 74, "tetragonal": 142,
            "trigonal": 167, "hexagonal": 194, "cubic": 230}  # fmt: skip
    for row in rows:
        (number,) = re.findall(r"\(No\. (\d+)\)", row["gpt_text"])
        system = next(name for name, end in last.items() if int(number) <= end)
        opening, *rest = split_sentences(row["gpt_text"])
        assert {name for name in last if re.search(rf"\b{name}\b", opening)} <= {system}, opening
        (sentence,) = [s for s in rest if "(No. " in s]
        assert [name for name in last if name in sentence] == [system]


def test_all_known_properties_are_said_as_they_are(rows):
    for row in rows:
        text = row["gpt_explanation"]
        for name, (pattern, words, (low, high)) in {
            name: (pattern, words, bounds or (0, 0))
            for name, (pattern, words, bounds) in SAID.items()
        }.items():
            value = row[name]
            if value is None:
                continue
            sentences = [s for s in split_sentences(text) if _is_about(name, s)]
            assert sentences, (name, text)
            if words and any(re.search(words, s) for s in sentences):
                assert low <= value <= high, (name, text)
                continue
            numbers = [m for s in sentences for m in [re.search(pattern, s)] if m]
            assert numbers, (name, text)
            said = next(group for group in numbers[0].groups() if group)
            digits = len(said.partition(".")[2])
            right = -value if "releases" in numbers[0][0] else value
            assert float(said) == pytest.approx(right, abs=0.51 * 10**-digits), (name, text)


def _is_about(name: str, sentence: str) -> bool:
    key = {
        "formation energy per atom": r"formation energy|[Ff]orming|reference state",
        "band gap": r"\bgap\b|\bmetallic",
        "energy above hull": "hull",
        "poisson ratio": "Poisson",
        "elastic anisotropy": "anisotropy",
        "bulk modulus": "bulk",
        "shear modulus": "shear",
        "electronic dielectric constant": "dielectric constant",
        "piezoelectric modulus": "piezoelectric",
    }.get(name, name)
    return re.search(key, sentence) is not None


def test_unknown_properties_are_not_said(rows):
    for row in rows[::3]:
        for name in SAID:
            if row[name] is None and name not in ("formation energy per atom",):
                sentences = split_sentences(row["gpt_explanation"])
                assert not any(_is_about(name, s) for s in sentences), (name, sentences)


def test_bond_lengths_are_distances_of_the_crystal(rows):
    checked = 0
    for row in rows[::60]:
        *_, vectors = neighbour_list(crystal(row), 4.5)
        lengths = np.linalg.norm(vectors, axis=1)
        for sentence in split_sentences(row["gpt_text"]):
            if "cell" in sentence or "lattice" in sentence:
                continue
            for low, high in re.findall(r"(\d\.\d\d)(?: to (\d\.\d\d))? Å", sentence):
                for said in filter(None, (low, high)):
                    if float(said) < 4.4:
                        assert np.abs(lengths - float(said)).min() < 0.014, sentence
                        checked += 1
    assert checked > 100


def test_oxidation_states_balance(rows):
    table = Chem.GetPeriodicTable()
    checked = 0
    for row in rows:
        found = re.search(r"(?:[Ff]ormal oxidation states are|Charge balance gives|Formally,) "
                          r"(.*?)\.(?: |$)", row["gpt_explanation"])  # fmt: skip
        if found is None:
            continue
        states = dict(re.findall(r"(\w+) (?:is )?([+-]\d)", found[1]))
        names = dict(zip(element_names(row), sorted(set(row["atomic_numbers"])), strict=True))
        assert set(states) == set(names), found[0]
        counts = {name: row["atomic_numbers"].count(z) for name, z in names.items()}
        assert sum(int(states[name]) * counts[name] for name in names) == 0, found[0]
        assert "intermetallic" not in narrative(row)
        for name, z in names.items():
            assert abs(int(states[name])) <= 8
            if table.GetElementSymbol(z) in ("Li", "Na", "K", "Rb", "Cs"):
                assert states[name] == "+1"
        checked += 1
    assert checked > 500


def test_questions_have_one_right_and_three_other_answers(rows):
    for row in rows:
        for name in QUESTIONS:
            assert len(row[name]) == len(set(row[name])) == 4, (row["material_id"], name)


def test_structure_questions_agree_with_the_narrative(rows):
    for row in rows:
        right, *wrong = row["structure_question_list"]
        if "(No. " in right:
            (group,) = re.findall(r"\(No\. \d+\)", row["gpt_text"])
            assert group in right
            systems = {re.search(r"(\w+) (?:with )?space group", s)[1] for s in (right, *wrong)}
            assert len(systems) == 4
        elif "structure" in right:
            kind = re.search(r"has the (.*) structure", right)[1]
            if len(narrative(row).split()) < 135:  # else there was no room for it
                assert kind in row["gpt_text"] or "name to a structure type" in row["gpt_text"]


def test_composition_questions_are_right_at_index_0_only(rows):
    for row in rows:
        statements = row["composition_question_list"]
        names = element_names(row)
        if "ratio" in statements[0]:
            order, ratio = re.search(r"ratio of (.*) is (.*)\.", statements[0]).groups()
            said = dict(zip(re.split(r", | and ", order), map(int, ratio.split(":")), strict=True))
            numbers = dict(zip(names, sorted(set(row["atomic_numbers"])), strict=True))
            units = {row["atomic_numbers"].count(numbers[n]) / said[n] for n in names}
            assert len(units) == 1
            ratios = [tuple(map(int, s.split()[-1][:-1].split(":"))) for s in statements]
            reduced = {tuple(np.array(r) // np.gcd.reduce(r)) for r in ratios}
            assert len(reduced) == 4
        else:
            sets = [
                set(re.split(r", | and ", re.split(r"contains|made of|consists of", s)[1][1:-1]))
                for s in statements
            ]
            assert sets[0] == set(names)
            assert all(one != sets[0] for one in sets[1:])


def test_oxide_questions_never_call_a_compound_what_it_lacks_the_elements_for(rows):
    needs = {"fluoride": 9, "sulfide": 16, "nitride": 7, "chloride": 17, "selenide": 34,
             "telluride": 52, "hydride": 1, "carbide": 6, "phosphide": 15, "silicide": 14,
             "boride": 5, "bromide": 35, "iodide": 53, "phosphate": 15, "sulfate": 16,
             "carbonate": 6, "nitrate": 7, "silicate": 14, "borate": 5, "arsenate": 33,
             "oxyfluoride": 9, "oxychloride": 17, "oxynitride": 7, "oxysulfide": 16,
             "hydroxide": 1}  # fmt: skip
    for row in rows:
        right, *wrong = row["oxide_question_list"]
        has_oxygen = 8 in row["atomic_numbers"]
        assert ("not an oxide" in right) == (not has_oxygen), right
        for statement in wrong:
            if "oxidation state" in statement:
                assert has_oxygen
                continue
            kind = statement.rstrip(".").split()[-1]
            if has_oxygen or "not an oxide" in statement:
                assert needs[kind] not in row["atomic_numbers"], (row["formula"], statement)
            else:
                assert kind.startswith(("oxid", "peroxid", "oxy", "hydrox")) or kind.endswith("ate")
