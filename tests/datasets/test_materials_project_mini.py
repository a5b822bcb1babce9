"""The texts of the bundled data agree with its numbers."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
import spglib
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from clac_jax.crystals.crystal import Crystal
from clac_jax.crystals.graph import neighbour_list
from clac_jax.datasets.materials_project_mini.builder import PARQUET
from clac_jax.text.formula import replace_formulas
from clac_jax.text.sentences import split_sentences
from tools.materials_project_mini import shortcuts
from tools.materials_project_mini.choice_sets import drawn, quartets, shared

QUESTIONS = ("structure_question_list", "composition_question_list", "oxide_question_list")
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
         "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen")  # fmt: skip
# Property -> pattern of its value, pattern of a verbal statement, range in which that is correct.
STATED = {
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


def test_every_crystal_is_valid(rows):
    for row in rows[::40]:
        assert crystal(row).num_atoms == len(row["atomic_numbers"])


def test_length_and_formula_of_every_narrative(rows):
    for row in rows:
        assert 80 <= len(narrative(row).split()) <= 150, row["material_id"]
        assert row["formula"] in row["gpt_text"], row["material_id"]
        assert row["material_id"] not in narrative(row)
        assert "  " not in narrative(row)


def test_texts_without_formulas_are_distinct(rows):
    texts = set()
    for row in rows:
        text = replace_formulas(narrative(row), also=(row["formula"],))
        texts.add(text)
        assert re.search(rf"(?<!\w){re.escape(row['formula'])}(?!\w)", text) is None, text
    assert len(texts) == len(rows)


def test_sentences_are_split_correctly_and_self_contained(rows):
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
        stated = re.search(
            rf"\b{count} (?:atoms|sites|atomic sites)\b|single atom|only one atom", row["gpt_text"]
        )
        assert stated is not None, row["gpt_text"]
        assert ("atom" in stated[0] and stated[0].endswith(("single atom", "one atom"))) == (n == 1)


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


def test_all_known_properties_are_stated_correctly(rows):
    for row in rows:
        text = row["gpt_explanation"]
        for name, (pattern, words, (low, high)) in {
            name: (pattern, words, bounds or (0, 0))
            for name, (pattern, words, bounds) in STATED.items()
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


def test_unknown_properties_are_not_stated(rows):
    for row in rows[::3]:
        for name in STATED:
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


def test_questions_have_one_right_and_three_wrong_answers(rows):
    for row in rows:
        for name in QUESTIONS:
            assert len(row[name]) == len(set(row[name])) == 4, (row["material_id"], name)


FAMILIES = {
    "alkali": {3, 11, 19, 37, 55, 87},
    "alkaline-earth": {4, 12, 20, 38, 56, 88},
    "f-block": {*range(58, 71), *range(90, 103)},
    "d-block": {*range(21, 31), *range(39, 49), *range(72, 81), *range(104, 113)},
    "triel": {5, 13, 31, 49, 81},
    "tetrel": {6, 14, 32, 50, 82},
    "pnictogen": {7, 15, 33, 51, 83},
    "chalcogen": {8, 16, 34, 52, 84},
    "halogen": {9, 17, 35, 53, 85},
}
# Class -> elements of which a compound must contain at least one.
NEEDED = {
    "oxo materials": {8}, "oxoacid salts": {8}, "halides": FAMILIES["halogen"],
    "materials of heavy chalcogens": {16, 34, 52}, "pnictides": FAMILIES["pnictogen"],
    "tetrelides": FAMILIES["tetrel"],
}  # fmt: skip
ROMAN = ("0", "I", "II", "III", "IV", "V", "VI", "VII", "VIII")


def families(row: dict) -> set[str]:
    return {name for name, zs in FAMILIES.items() if zs & set(row["atomic_numbers"])}


def shares(row: dict) -> dict[int, float]:
    numbers = row["atomic_numbers"]
    return {z: 100 * numbers.count(z) / len(numbers) for z in set(numbers)}


def composition_statement_is_true(statement: str, row: dict) -> bool:
    if found := re.fullmatch(r"Its elements belong to the (.*) famil(?:y|ies) of .*", statement):
        named = set(re.split(", | and ", found[1]))
        assert named <= FAMILIES.keys()
        if named <= families(row):
            assert named == families(row)  # an incomplete list is not used as a wrong choice
            assert set(row["atomic_numbers"]) <= set().union(*(FAMILIES[name] for name in named))
            return True
        return False
    if found := re.fullmatch(r"It is a (\w+) phase .* makes up (\d+)% of the atoms\.", statement):
        arity = ("", "unary", "binary", "ternary", "quaternary", "quinary").index(found[1])
        off = abs(max(shares(row).values()) - int(found[2]))
        assert off <= 0.5001 or off > 4 or arity != len(shares(row))
        return arity == len(shares(row)) and off <= 0.5001
    table = Chem.GetPeriodicTable()
    mean = np.mean([table.GetAtomicWeight(int(z)) for z in row["atomic_numbers"]])
    mass = re.fullmatch(r"Its mean atomic mass is (about|less than) (\d+) u\.", statement)
    if mass[1] == "less than":
        assert not 1 <= mean / int(mass[2]) < 1.1
        return mean < int(mass[2])
    ratio = max(mean / int(mass[2]), int(mass[2]) / mean)
    assert ratio < 1.15 or ratio > 1.25
    return ratio < 1.15


def oxide_statement_is_true(statement: str, row: dict) -> bool:
    present = set(row["atomic_numbers"])
    if found := re.fullmatch(r"Oxygen accounts for (\d+)% of its atoms\.", statement):
        off = abs(shares(row)[8] - int(found[1]))
        assert off <= 0.5001 or off > 4
        return off <= 0.5001
    if found := re.fullmatch(r"Its most electropositive element .* the (.*) family\.", statement):
        return found[1] in families(row) if len(families(row)) == 1 else None
    if found := re.fullmatch(r"Chemically, .* classed among (.*)\.", statement):
        if found[1] == "unary materials":
            return len(present) == 1
        if found[1] in NEEDED:
            return None if NEEDED[found[1]] & present else False
        return None
    if found := re.fullmatch(r"The highest formal oxidation state in it is (\w+)\.", statement):
        stated = re.search(r"(?:[Ff]ormal oxidation states are|Charge balance gives|Formally,) "
                         r"(.*?)\.(?: |$)", row["gpt_explanation"])  # fmt: skip
        if stated is None:
            return None
        return ROMAN.index(found[1]) == max(map(int, re.findall(r"[+-]\d", stated[1])))
    assert re.fullmatch(r"By Pauling's formula, .* about \d+% ionic character\.", statement)
    return None


def test_composition_questions_are_right_at_index_0_only(rows):
    for row in rows:
        truths = [composition_statement_is_true(s, row) for s in row["composition_question_list"]]
        assert truths == [True, False, False, False], (row["material_id"], truths)


def test_oxide_questions_are_right_at_index_0_only(rows):
    known = 0
    for row in rows:
        right, *wrong = (oxide_statement_is_true(s, row) for s in row["oxide_question_list"])
        assert right in (True, None), (row["material_id"], row["oxide_question_list"])
        assert not any(wrong), (row["material_id"], row["oxide_question_list"])
        known += right is True or all(one is False for one in wrong)
    assert known > 2000


def test_structure_questions_are_right_at_index_0_only(rows):
    seen = set()
    for row in rows[::30]:
        lattice = np.reshape(row["lattice"], (3, 3))
        cell = (lattice, np.reshape(row["frac_coords"], (-1, 3)), row["atomic_numbers"])
        symmetry = spglib.get_symmetry_dataset(cell, symprec=0.05)
        *_, vectors = neighbour_list(crystal(row), 4.5)
        statements = row["structure_question_list"]
        truths = [_is_true_of(s, symmetry, np.linalg.norm(vectors, axis=1)) for s in statements]
        assert truths == [True, False, False, False], (row["material_id"], statements)
        seen.add(statements[0].split()[2])
    assert len(seen) == 4


def _is_true_of(statement: str, symmetry, distances: np.ndarray) -> bool:
    if found := re.search(r"distance between two atoms is about (\d+) pm", statement):
        off = abs(100 * distances.min() - int(found[1]))
        assert off <= 10.1 or off > 29
        return off <= 10.1
    if found := re.search(r"lattice is (\w+)", statement):
        letters = {"primitive": "P", "body": "I", "face": "F", "base": "AC"}[found[1]]
        return symmetry.international[0] in letters
    if found := re.search(r"rotation is by (\d+)", statement):
        angle = {3: 360, -1: 180, 0: 120, 1: 90, 2: 60}
        turns = [np.trace(r) for r in symmetry.rotations if np.linalg.det(r) > 0]
        return min(angle[int(trace)] for trace in turns) == int(found[1])
    shape = statement.split(" shape of ")[1]
    edges = np.linalg.norm(symmetry.std_lattice, axis=1)
    cosines = [
        symmetry.std_lattice[i] @ symmetry.std_lattice[j] / edges[i] / edges[j]
        for i, j in ((1, 2), (0, 2), (0, 1))
    ]
    right = [abs(cosine) < 0.02 for cosine in cosines]
    equal = [abs(edges[i] / edges[j] - 1) < 0.01 for i, j in ((1, 2), (0, 2), (0, 1))]
    return {
        "a box as wide and tall as it is deep.": all(right) and all(equal),
        "a tall or flat box on a square base.": all(right) and equal[2] and not any(equal[:2]),
        "a box of unequal width, depth and height.": all(right) and not any(equal),
        "a column on a 120° diamond.": equal[2] and abs(cosines[2] + 0.5) < 0.01,
        "a box that leans sideways.": right == [True, False, True],
        "a fully skewed box.": not any(right),
    }[shape]


def test_questions_are_in_english(rows):
    wrong = re.compile(
        r"\ba [aeiou]\w|\ban [^aeiou]|\b(\w+) \1\b|\bNone\b|[{}()]|  |and and|"
        r"\b\w+ and [\w-]+ family |the [\w-]+ families"
    )
    for statement in {s for row in rows for name in QUESTIONS for s in row[name]}:
        assert wrong.search(statement) is None, statement
        assert statement[0].isupper() and statement.endswith(".")


# --- shortcuts to the right choice without the crystal ---

TOLERANCE = 0.03


@pytest.fixture(scope="module")
def asked(rows):
    yield shortcuts.questions(rows, QUESTIONS)
    for remembered in (
        shortcuts.words, shortcuts.tokens, shortcuts.prefixes, shortcuts.without_formulas
    ):  # fmt: skip
        remembered.cache_clear()  # they contain all narratives


@pytest.mark.slow
@pytest.mark.parametrize("name", QUESTIONS)
def test_no_rule_or_learner_finds_the_right_choice_without_the_crystal(asked, name):
    some = [q for k, q in enumerate(asked[name]) if q.split != "train" or k % 5 == 0]
    found = shortcuts.measured(some)
    assert len(found) > 60
    off = {
        (shortcut, part): share
        for shortcut, parts in found.items()
        for part, share in parts.items()
        if abs(share - shortcuts.CHANCE) > TOLERANCE
    }
    assert not off


@pytest.mark.parametrize("name", QUESTIONS)
def test_statements_are_right_once_in_four_times_in_evaluated_splits(asked, name):
    for split in ("validation", "test"):
        right, given = Counter(), Counter()
        for question in asked[name]:
            if question.split == split:
                right[question.choices[0]] += 1
                given.update(question.choices)
        # A few unmatched crystals have their own choices: 3 + 1 + 1 + 1 for each.
        assert sum(abs(4 * right[s] - given[s]) for s in given) <= 6 * 8


@pytest.mark.parametrize("name", QUESTIONS)
def test_words_that_distinguish_choices_are_not_in_the_narrative(asked, name):
    num_revealing = 0
    for question in asked[name]:
        sets = [shortcuts.words(choice) for choice in question.choices]
        telling = frozenset.union(*sets) - frozenset.intersection(*sets)
        num_revealing += bool(telling & shortcuts.words(question.narrative))
    assert num_revealing <= 0.005 * len(asked[name])


def question(*choices: str, narrative: str = "Some text.", split: str = "test"):
    return shortcuts.Question(choices, narrative, "NaCl", split)


def test_a_tie_counts_as_a_fraction_of_a_right_answer():
    two_of_three = [question("aa", "bb", "c")]
    assert shortcuts.accuracy(lambda q: [len(c) for c in q.choices], two_of_three) == 0.5
    assert shortcuts.accuracy(lambda q: [-len(c) for c in q.choices], two_of_three) == 0.0
    assert shortcuts.accuracy(lambda q: [1.0] * 3, two_of_three) == pytest.approx(1 / 3)


def test_questions_with_shortcuts_are_detected():
    letters = "abcdefghijkl"
    given = [
        question(f"It is not {x} but {x}{y}.", f"It is {y}.", f"It is {x}.", "It is z.",
                 narrative=f"This one is {x}{y}.", split="train" if n % 3 else "test")
        for n, (x, y) in enumerate(itertools.permutations(letters, 2))
    ]  # fmt: skip
    found = shortcuts.measured(given)
    for shortcut in (
        "characters: most", "words: most", "negations: most", "learned: ranker of overlaps",
        "words shared with the narrative: most", "how often the choice is given: least",
        "learned: naive Bayes of words", "learned: ranker of words and rules",
    ):  # fmt: skip
        assert found[shortcut]["test"] > 0.9, shortcut
    assert found["learned: rate of the statement"]["test"] > 0.25


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 7), max_size=60), st.integers(0, 99))
def test_groups_share_their_choices_and_no_answer_is_favored(answers, seed):
    def fits(crystal, answer):  # 0 and 1 must not be in one group
        return {answers[crystal], answer} != {0, 1}

    rng = random.Random(seed)
    groups = quartets(dict(enumerate(answers)), fits, rng)
    members = [crystal for group in groups for crystal in group]
    assert len(set(members)) == len(members)
    for group in groups:
        assert len(set(group.values())) == len(group) == 4
        assert all(answers[crystal] == answer for crystal, answer in group.items())
        assert not {0, 1} <= set(group.values())
    right = Counter(choices[0] for choices in shared(groups).values())
    given = Counter(answer for choices in shared(groups).values() for answer in choices)
    assert all(given[answer] == 4 * right[answer] for answer in given)
    for crystal, choices in drawn(groups, fits, rng).items():
        assert choices[0] == answers[crystal] and len(set(choices)) == 4
        assert all(fits(crystal, answer) for answer in choices)
