"""Question lists: does the crystal find the true statement among the false ones?

The answer of a model is the statement whose similarity to the crystal is highest. The
accuracy is compared with what needs no crystal: chance, the lengths of the statements, their
frequencies, and the answers of the same model when shown a different crystal.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from clac_jax.crystals import elements
from clac_jax.datasets.record import QUESTIONS, Record
from clac_jax.evaluation.estimates import estimate, for_rows, plain
from clac_jax.evaluation.intervals import Estimate, Resampling, paired
from clac_jax.evaluation.measures import fair_credit
from clac_jax.evaluation.other_crystals import derangements
from clac_jax.evaluation.pool import Pool
from clac_jax.evaluation.section import Drawing, Section, Table, percent
from clac_jax.evaluation.text_vectors import vectors_of
from clac_jax.text.formula import replace_formulas

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

OTHER_CRYSTALS = 10
"""Number of other crystals shown instead of the right one, for the text-only accuracy."""
MIN_TOPIC = 20
"""Smallest number of questions of a topic that has a row of its own."""

_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:[.,]\d+)*")
_BASELINES = ("chance", "text_only", "longest_choice", "frequent_form", "frequent_statement")


@dataclass(frozen=True)
class Questions:
    """The questions of one list.

    Attributes:
        name: name of the list.
        rows: (q,) int64, the crystal that each question is about, as an index into the pool.
        choices: the statements of each question, the correct one first.
    """

    name: str
    rows: np.ndarray
    choices: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.choices)

    @property
    def chance(self) -> np.ndarray:
        """(q,) float64: 1 / number of choices."""
        return np.array([1 / len(choices) for choices in self.choices])

    def credits(self, value: Callable[[str], float]) -> np.ndarray:
        """(q,) float64 credit for always choosing the statement of the highest value."""
        scored = ([value(choice) for choice in choices] for choices in self.choices)
        return np.array([fair_credit(np.array(values)) for values in scored])

    def credits_of_scores(
        self, row_of: dict[str, int], scores: np.ndarray, columns: np.ndarray
    ) -> np.ndarray:
        """(q,) float64 credit of a model.

        Args:
            row_of: statement -> its row of `scores`.
            scores: (statements, crystals) scores.
            columns: (q,) the crystal shown for each question, as a column of `scores`.
        """
        asked = zip(self.choices, columns, strict=True)
        return np.array(
            [
                fair_credit(scores[[row_of[choice] for choice in choices], column])
                for choices, column in asked
            ]
        )


def questions_of(records: Sequence[Record], name: str) -> Questions:
    """The questions of a list; a question with fewer than two statements is left out."""
    found = [
        (row, record.questions[name])
        for row, record in enumerate(records)
        if len(record.questions.get(name, ())) > 1
    ]
    rows = np.array([row for row, _ in found], np.int64)
    return Questions(name, rows, tuple(choices for _, choices in found))


def form_of(statement: str) -> str:
    """A statement with its numbers, formulas and names of elements masked.

    "Oxygen accounts for 40% of its atoms." becomes "ELEMENT accounts for # of its atoms.", so that
    two statements have the same form if they differ in these only.
    """
    words = replace_formulas(statement, "FORMULA")
    return _element_names().sub("ELEMENT", _NUMBER.sub("#", words))


def share_correct(
    questions: Sequence[tuple[str, ...]], key: Callable[[str], str]
) -> Callable[[str], float]:
    """The probability that a statement is the right one, as estimated from other questions.

    Args:
        questions: the statements of each question, the correct one first.
        key: what is counted: the statement itself or its form.

    Returns:
        A function statement -> (times right + 1) / (times seen + c), where c is the mean number of
        choices; a statement that was never seen is therefore as probable as chance.
    """
    seen = Counter(key(choice) for choices in questions for choice in choices)
    right = Counter(key(choices[0]) for choices in questions)
    choices = sum(map(len, questions)) / len(questions) if questions else 1.0
    return lambda text: (right[key(text)] + 1) / (seen[key(text)] + choices)


def topic_of(choices: tuple[str, ...]) -> str:
    """The words that all statements of a question begin with; "" if there are none."""
    columns = zip(*(choice.split() for choice in choices), strict=False)
    common = []
    for words in columns:
        if len(set(words)) > 1:
            break
        common.append(words[0])
    return " ".join(common)


def answer_questions(pool: Pool) -> Section:
    """Accuracy on each question list, with its baselines; see `clac_jax.evaluation.tasks`."""
    lists = [questions_of(pool.records, name) for name in QUESTIONS]
    asked = [questions for questions in lists if len(questions)]
    if not asked:
        return Section(
            "questions",
            "Question lists",
            f"None of the {len(pool.records)} crystals of the {pool.split} split has questions, so "
            "there is nothing to ask. Question lists are columns of the data set, see the "
            "documentation of your data.",
            tables=[],
            values={"pool": {"split": pool.split, "crystals": len(pool.records)}, "lists": {}},
        )
    statements = sorted({s for questions in asked for c in questions.choices for s in c})
    vectors = vectors_of(pool.model, statements)
    scores = {"crystals": pool.scores(vectors)}
    if pool.model.is_dot_product:
        scores["texts"] = np.asarray(vectors @ pool.texts.T)
    row_of = {statement: row for row, statement in enumerate(statements)}
    answered = {q.name: _answer(pool, q, row_of, scores) for q in asked}
    lists_of_values = {q.name: _measure(pool, q, answered[q.name]) for q in asked}
    missing = [
        f"{len(pool.records) - len(questions)} without {_title(questions.name).lower()} questions"
        for questions in lists
        if len(questions) < len(pool.records)
    ]
    intro = (
        "Each crystal is shown several statements, of which one is true; the answer is the "
        f"statement with the highest similarity. Pool: {len(pool.records)} crystals of the "
        f"{pool.split} split" + (f" ({', '.join(missing)})" if missing else "") + ". Equal "
        "similarities share the credit. Text only: the same model shown other crystals, the mean "
        f"of {OTHER_CRYSTALS} deterministic reassignments; what it earns, the statements reveal "
        "by themselves."
    )
    shares = pool.model.config.augment
    trained = float(shares.statement_prob) > 0
    if trained:
        intro += (
            " The model was trained on true statements of the training crystals "
            f"(augment.statement_prob = {shares.statement_prob}), so this is not a zero-shot task."
        )
    return Section(
        "questions",
        "Question lists",
        intro,
        tables=[_main_table(lists_of_values, trained), _topic_table(lists_of_values)],
        figures=[_drawing(lists_of_values)],
        values={
            "pool": {"split": pool.split, "crystals": len(pool.records)},
            "other_crystals": OTHER_CRYSTALS,
            "trained_on_statements": trained,
            "lists": plain(lists_of_values),
        },
        examples={f"answers_{_short(q.name)}": _examples(pool, q, answered[q.name]) for q in asked},
    )


@dataclass(frozen=True)
class _Answers:
    """Credits (q,) of the answers to the questions of a list.

    Attributes:
        own: credit of the model.
        text_only: credit of the model shown other crystals, mean; NaN if there is no other crystal.
        by_text: credit of the texts of the crystals; None for a model without cosines.
    """

    own: np.ndarray
    text_only: np.ndarray
    by_text: np.ndarray | None


def _answer(
    pool: Pool, questions: Questions, row_of: dict[str, int], scores: dict[str, np.ndarray]
) -> _Answers:
    """Answers the questions of a list.

    Args:
        pool: the pool.
        questions: the questions.
        row_of: statement -> its row of the scores.
        scores: (statements, n) scores with the "crystals" of the pool, and with their "texts".
    """
    own, *by_text = (
        questions.credits_of_scores(row_of, matrix, questions.rows) for matrix in scores.values()
    )
    others = derangements(len(pool.records), OTHER_CRYSTALS, f"questions {questions.name}")
    shown = [
        questions.credits_of_scores(row_of, scores["crystals"], order[questions.rows])
        for order in others
    ]
    text_only = np.mean(shown, axis=0) if shown else np.full(len(own), np.nan)
    return _Answers(own, text_only, by_text[0] if by_text else None)


def _examples(pool: Pool, questions: Questions, answers: _Answers) -> pa.Table:
    """One row per question: its crystal, and the credit of the model."""
    import pyarrow as pa

    return pa.table(
        {
            "material_id": [pool.records[row].material_id for row in questions.rows],
            "formula": [pool.formulas[row] for row in questions.rows],
            "correct": [choices[0] for choices in questions.choices],
            "chance": questions.chance,
            "text_only": answers.text_only,
            f"credit_{_short(questions.name)}": answers.own,
        }
    )


def _measure(pool: Pool, questions: Questions, answers: _Answers) -> dict[str, Any]:
    """The estimates of one list, as named in eval.json."""
    train = questions_of(pool.train, questions.name).choices
    own, text_only = answers.own, answers.text_only
    by_formula = for_rows(pool.by_formula, questions.rows)
    baselines = (
        questions.chance,
        text_only,
        questions.credits(len),
        questions.credits(share_correct(train, form_of)),
        questions.credits(share_correct(train, str)),
    )
    return {
        "crystals_without_questions": len(pool.records) - len(questions),
        "choices": float(np.mean([len(choices) for choices in questions.choices])),
        "accuracy": estimate(own, by_formula),
        "accuracy_by_question": estimate(own, pool.resampling),
        **{
            name: estimate(credit, by_formula)
            for name, credit in zip(_BASELINES, baselines, strict=True)
        },
        "above_text_only": paired(own, text_only, resampling=by_formula).estimate,
        "by_own_text": (None if answers.by_text is None else estimate(answers.by_text, by_formula)),
        "train_questions": len(train),
        "topics": _topics(questions, own, text_only, by_formula),
    }


def _topics(
    questions: Questions, own: np.ndarray, text_only: np.ndarray, how: Resampling
) -> dict[str, dict[str, Estimate]]:
    """The estimates for each set of questions whose choices begin with the same words."""
    topics = np.array([topic_of(choices) for choices in questions.choices])
    found = {}
    for topic, count in Counter(topics.tolist()).most_common():
        if count < MIN_TOPIC:
            continue
        rows = np.flatnonzero(topics == topic)
        credits = {"accuracy": own, "chance": questions.chance, "text_only": text_only}
        found[topic] = {
            name: estimate(values[rows], for_rows(how, rows)) for name, values in credits.items()
        }
    return found


def _main_table(lists: dict[str, dict[str, Any]], trained: bool) -> Table:
    known = ", after training on statements of other crystals" if trained else ""
    return Table(
        f"Accuracy, percent{known}",
        (
            "list", "questions", "accuracy", "text only", "above text only", "chance",
            "longest choice", "frequent form", "frequent statement", "by own text",
        ),
        [
            (
                _title(name),
                str(values["accuracy"].n),
                percent(values["accuracy"]),
                percent(values["text_only"]),
                percent(values["above_text_only"]),
                *(percent(values[key].value) for key in _BASELINES if key != "text_only"),
                "-" if values["by_own_text"] is None else percent(values["by_own_text"].value),
            )
            for name, values in lists.items()
        ],
        note="Intervals (95 %) from a bootstrap over compositions. Frequent form, frequent "
        "statement: the choice that is most often right in the train split, by its text with "
        "numbers, formulas and elements masked, and by its exact text. By own text: the statements "
        "are compared with the text of the crystal instead of the crystal.",
    )  # fmt: skip


def _topic_table(lists: dict[str, dict[str, Any]]) -> Table:
    return Table(
        "Accuracy by topic, percent",
        ("the choices begin with", "list", "questions", "accuracy", "text only", "chance"),
        [
            (
                topic or "(no common beginning)",
                _title(name),
                str(values["accuracy"].n),
                percent(values["accuracy"]),
                percent(values["text_only"].value),
                percent(values["chance"].value),
            )
            for name, measured in lists.items()
            for topic, values in measured["topics"].items()
        ],
        note=f"Topics of at least {MIN_TOPIC} questions.",
        in_terminal=False,
    )


def _drawing(lists: dict[str, dict[str, Any]]) -> Drawing:
    shown = {"accuracy": "model", "text_only": "text only", "chance": "chance",
             "frequent_statement": "frequent statement"}  # fmt: skip

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        width = 0.8 / len(shown)
        for k, (key, label) in enumerate(shown.items()):
            estimates = [values[key].scaled(100) for values in lists.values()]
            heights = np.array([e.value for e in estimates])
            ends = np.array([[e.value - e.low for e in estimates],
                             [e.high - e.value for e in estimates]])  # fmt: skip
            places = np.arange(len(lists)) + (k - (len(shown) - 1) / 2) * width
            axes.bar(places, heights, width, yerr=np.maximum(ends, 0), capsize=3, label=label)
        axes.set_xticks(range(len(lists)), [_title(name) for name in lists])
        axes.set_ylabel("accuracy, %")
        axes.set_ylim(0, 100)
        axes.legend(frameon=False, ncols=2)

    numbers = "; ".join(
        f"{_title(name)}: {percent(v['accuracy'].value)} % (text only "
        f"{percent(v['text_only'].value)}, chance {percent(v['chance'].value)})"
        for name, v in lists.items()
    )
    return Drawing(
        "questions",
        "Accuracy on the question lists with 95 % intervals.",
        f"Bars of the accuracy per list. {numbers}.",
        draw,
    )


def _title(name: str) -> str:
    return _short(name).replace("_", " ").capitalize()


def _short(name: str) -> str:
    return name.removesuffix("_question_list")


@functools.cache
def _element_names() -> re.Pattern[str]:
    names = {elements.name(z) for z in range(1, elements.MAX_ATOMIC_NUMBER + 1)}
    choices = "|".join(sorted(names | {"aluminium", "caesium", "sulphur"}))
    return re.compile(rf"\b(?:{choices})\b", re.IGNORECASE)
