"""Question lists: credit, ties, and the figures that need no crystal."""

import ml_collections
import numpy as np
import pytest
from helpers.pools import StubModel, pool_of, records_of

from clac_jax.evaluation import questions
from clac_jax.evaluation.comparison import measures_of
from clac_jax.evaluation.questions import (
    answer_questions,
    form_of,
    questions_of,
    share_correct,
    topic_of,
)
from configs import smoke

STRUCTURE, OXIDE = "structure_question_list", "oxide_question_list"


def pool_with(asked, vectors, crystals=None, **options):
    """Crystals along the axes, their `structure` questions, and vectors of the statements."""
    count = len(asked)
    crystals = np.eye(count) if crystals is None else crystals
    records = records_of(
        [f"X{k}" for k in range(count)],
        questions=[{STRUCTURE: choices} if choices else {} for choices in asked],
    )
    model = StubModel(smoke.get_config(), np.shape(crystals)[1], vectors)
    return pool_of(crystals, crystals, records=records, model=model, **options)


def figures(pool, name=STRUCTURE):
    return answer_questions(pool).values["lists"][name]


def test_the_answer_is_the_statement_with_the_highest_similarity():
    # Crystal k is along axis k. Two of three find "true k"; the last prefers a false statement.
    vectors = {
        "true 0": [1, 0, 0], "true 1": [0, 1, 0], "true 2": [0, 0, 0.5],
        "false 0": [0, 0, 0], "false 1": [0, 0, 0], "false 2": [0, 0, 0.9],
    }  # fmt: skip
    found = figures(pool_with([(f"true {k}", f"false {k}") for k in range(3)], vectors))
    assert found["accuracy"]["value"] == pytest.approx(2 / 3)
    assert found["accuracy"]["n"] == 3
    assert found["chance"]["value"] == 0.5


def test_a_model_that_sees_no_difference_gets_the_chance_not_the_first_choice():
    choices = ("right", "wrong", "worse", "worst")
    found = figures(pool_with([choices] * 5, dict.fromkeys(choices, np.ones(5))))
    for name in ("accuracy", "text_only", "frequent_form", "chance"):
        assert found[name]["value"] == 0.25, name
    assert found["above_text_only"]["value"] == 0


@pytest.mark.parametrize("share", [0.0, 0.15])
def test_training_on_statements_is_reported(share):
    choices = ("a", "b")
    pool = pool_with([choices] * 5, dict.fromkeys(choices, np.ones(5)))
    config = ml_collections.ConfigDict(pool.model.config.to_dict())
    config.augment.statement_prob = share
    pool.model.config = ml_collections.FrozenConfigDict(config)
    section = answer_questions(pool)
    assert section.values["trained_on_statements"] == (share > 0)
    assert ("not a zero-shot task" in section.intro) == (share > 0)
    assert ("after training on statements" in section.tables[0].caption) == (share > 0)


def test_text_only_shows_other_crystals():
    # Each crystal knows its own statement, which no other crystal recognizes.
    vectors = {"false": 0.1 * np.ones(4)} | {f"true {k}": np.eye(4)[k] for k in range(4)}
    found = figures(pool_with([(f"true {k}", "false") for k in range(4)], vectors))
    assert found["accuracy"]["value"] == 1
    assert found["text_only"]["value"] == 0
    assert found["above_text_only"]["value"] == 1


def test_text_only_shows_the_share_that_the_wording_reveals():
    vectors = {"true": np.ones(4), "false": np.zeros(4)}
    found = figures(pool_with([("true", "false")] * 4, vectors))
    assert found["accuracy"]["value"] == found["text_only"]["value"] == 1
    assert found["above_text_only"]["value"] == 0


def test_a_single_crystal_has_no_text_only_figure():
    found = figures(pool_with([("true", "false")], {"true": [1.0], "false": [0.0]}))
    assert found["accuracy"]["value"] == 1
    assert found["text_only"]["value"] is None


def test_longest_choice_shares_ties():
    found = figures(pool_with([("long one", "short"), ("same 1", "same 2")], {}))
    assert found["longest_choice"]["value"] == pytest.approx((1 + 1 / 2) / 2)


def test_statements_differ_in_form_by_more_than_numbers_elements_and_formulas():
    assert form_of("Oxygen accounts for 40% of NaCl.") == "ELEMENT accounts for #% of FORMULA."
    assert form_of("The axis is 4.5 long.") == form_of("The axis is 12 long.")
    assert form_of("It is binary.") != form_of("It is ternary.")
    assert form_of("tin") == form_of("Cesium") == form_of("caesium")
    assert "ELEMENT" not in form_of("It is listing.")  # "tin" within a word


def test_the_share_of_the_frequent_is_estimated_from_the_training():
    train = [("a", "b"), ("a", "c"), ("b", "a")]
    share = share_correct(train, str)
    assert share("a") == pytest.approx((2 + 1) / (3 + 2))
    assert share("c") == pytest.approx((0 + 1) / (1 + 2))
    assert share("never seen") == pytest.approx(1 / 2)  # chance of two choices
    assert share_correct([], str)("a") == share_correct([], str)("b")


def test_the_most_frequent_statement_comes_from_the_train_split():
    asked = [("cubic 1", "cubic 2"), ("cubic 2", "cubic 1")]
    train = records_of(["A", "B"], questions=[{STRUCTURE: ("cubic 1", "cubic 2")}] * 2)
    found = figures(pool_with(asked, {}, train=train))
    assert found["train_questions"] == 2
    assert found["frequent_statement"]["value"] == 0.5  # "cubic 1" both times, right once
    assert found["frequent_form"]["value"] == 0.5  # both have the form "cubic #"


def test_topics_are_the_words_that_the_choices_share():
    assert topic_of(("The cell is cubic.", "The cell is a box.")) == "The cell is"
    assert topic_of(("Yes.", "No.")) == ""
    assert topic_of(("The cell", "The cell is cubic")) == "The cell"


def test_topics_with_enough_questions_have_rows(monkeypatch):
    monkeypatch.setattr(questions, "MIN_TOPIC", 2)
    vectors = {"Size: 1": [1, 1, 1], "Size: 2": [0, 0, 0], "Mass: 1": [1, 1, 1],
               "Mass: 2": [2, 2, 2]}  # fmt: skip
    asked = [("Size: 1", "Size: 2"), ("Size: 1", "Size: 2"), ("Mass: 1", "Mass: 2")]
    section = answer_questions(pool_with(asked, vectors))
    topics = section.values["lists"][STRUCTURE]["topics"]
    assert list(topics) == ["Size:"]
    assert topics["Size:"]["accuracy"]["value"] == 1
    assert section.tables[1].rows[0][0] == "Size:"


def test_crystals_without_questions_are_counted():
    pool = pool_with([("true", "false"), None, ("only one",)], {})
    section = answer_questions(pool)
    assert section.values["lists"][STRUCTURE]["crystals_without_questions"] == 2
    assert "2 without structure questions" in section.intro
    assert list(section.values["lists"]) == [STRUCTURE]
    assert len(questions_of(pool.records, OXIDE)) == 0


def test_data_without_questions_are_reported_in_one_line():
    section = answer_questions(pool_with([None, None], {}))
    assert section.tables == [] and section.figures == []
    assert "None of the 2 crystals of the test split has questions" in section.intro


def test_the_texts_of_the_crystals_answer_too():
    vectors = {"true": [1, 0], "false": [0, 1]}
    pool = pool_with([("true", "false")] * 2, vectors, crystals=[[0, 1], [0, 1]])
    object.__setattr__(pool, "texts", np.array([[1, 0], [1, 0]], np.float32))
    found = figures(pool)
    assert found["accuracy"]["value"] == 0
    assert found["by_own_text"]["value"] == 1
    pool.model.is_dot_product = False
    assert figures(pool)["by_own_text"] is None


def test_it_is_the_same_every_time():
    pool = pool_with([(f"true {k}", f"false {k}") for k in range(6)], {})
    assert answer_questions(pool).values == answer_questions(pool).values


def test_the_credit_of_each_question_is_kept_for_comparisons():
    vectors = {"true": np.ones(3), "false": np.array([0, 0, 2])}
    section = answer_questions(pool_with([("true", "false"), None, ("true", "false")], vectors))
    (rows,) = section.examples.values()
    assert list(section.examples) == ["answers_structure"]
    assert rows.column("material_id").to_pylist() == ["id-0", "id-2"]
    assert rows.column("credit_structure").to_pylist() == [1.0, 0.0]
    assert list(measures_of(rows)) == ["structure"]
