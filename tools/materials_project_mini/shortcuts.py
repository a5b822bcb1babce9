"""Accuracy of shortcuts on the multiple-choice questions, without the crystal.

python -m tools.materials_project_mini.shortcuts [--parquet=FILE]

A rule scores the choices of a question and selects the best one; a tie of k choices counts as 1/k.
Rules see the choices, some also the narrative, but not the order of the choices.
"""

from __future__ import annotations

import argparse
import itertools
import re
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from sys import intern

import numpy as np
import pyarrow.parquet as pq

from clac_jax.datasets.materials_project_mini.builder import PARQUET
from clac_jax.text.formula import replace_formulas
from tools.materials_project_mini.splits import splits_of

LISTS = ("structure_question_list", "composition_question_list", "oxide_question_list")
CHANCE = 0.25

STOP_WORDS = frozenset({
    "a", "an", "and", "are", "as", "at", "by", "for", "from", "has", "have", "in", "is", "it",
    "its", "of", "on", "or", "that", "the", "this", "to", "which", "with",
})  # fmt: skip
_NEGATIONS = frozenset({
    "no", "not", "nor", "neither", "never", "none", "without", "lacks", "cannot",
})  # fmt: skip


@cache
def words(text: str) -> frozenset[str]:
    """The words and numbers of a text without stop words; plurals count as their singulars."""
    found = re.findall(r"[a-z]+|\d+(?:\.\d+)?", text.lower())
    return frozenset(intern(w.removesuffix("s") if len(w) > 3 else w) for w in found) - STOP_WORDS


@cache
def tokens(text: str) -> frozenset[str]:
    """All alphanumeric tokens, including stop words; "2.10" is two tokens."""
    return frozenset(map(intern, re.findall(r"\w+", text.lower())))


@cache
def prefixes(text: str) -> frozenset[str]:
    """The first five letters of each longer word, as a coarse stem."""
    return frozenset(intern(w[:5]) for w in re.findall(r"[a-z]{5,}", text.lower()))


@cache
def grams(text: str, n: int) -> frozenset[str]:
    """All runs of n characters."""
    lower = text.lower()
    return frozenset(lower[k : k + n] for k in range(len(lower) - n + 1))


@cache
def without_formulas(text: str, formula: str) -> str:
    """The text with all formulas replaced, including the given one."""
    return replace_formulas(text, also=(formula,))


@dataclass(frozen=True)
class Question:
    """A multiple-choice question.

    Attributes:
        choices: statements; the first is right, which no rule uses.
        narrative: narrative of the crystal.
        formula: formula of the crystal as written in the narrative.
        split: split of the crystal.
    """

    choices: tuple[str, ...]
    narrative: str
    formula: str
    split: str


Rule = Callable[[Question], Sequence[float]]
"""A score for each choice."""


def questions(rows: Sequence[dict], names: Sequence[str] = LISTS) -> dict[str, list[Question]]:
    """List name -> its questions, with narratives and splits."""
    splits = splits_of(rows)
    found: dict[str, list[Question]] = {name: [] for name in names}
    for row, split in zip(rows, splits, strict=True):
        text = f"{row['gpt_text']} {row['gpt_explanation']}"
        for name in names:
            found[name].append(Question(tuple(row[name]), text, row["formula"], split))
    return found


def accuracy(rule: Rule, asked: Sequence[Question]) -> float:
    """The fraction of right answers; a tie of k choices with the right one counts as 1/k."""
    return _share_right(_scores(rule, asked))


def _scores(rule: Rule, asked: Sequence[Question]) -> np.ndarray:
    if isinstance(rule, Ranker):
        return rule.scores(asked)
    return np.array([rule(question) for question in asked], float)


def _share_right(scores: np.ndarray) -> float:
    """The fraction of right answers from scores (questions, choices)."""
    best = scores >= scores.max(1, keepdims=True) - 1e-9
    return float(np.mean(best[:, 0] / best.sum(1)))


def _each(score: Callable[[str], float]) -> Rule:
    return _of_choices(lambda choices: [score(choice) for choice in choices])


def _of_choices(scores: Callable[[tuple[str, ...]], Sequence[float]]) -> Rule:
    remembered = cache(scores)
    return lambda question: remembered(question.choices)


def _numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]


def _typical(choices: Sequence[str], pieces: Callable[[str], frozenset[str]]) -> list[float]:
    """The Jaccard similarities of each choice to the other ones, summed."""
    sets = [pieces(choice) for choice in choices]
    return [
        sum(len(a & b) / (len(a | b) or 1) for j, b in enumerate(sets) if j != i)
        for i, a in enumerate(sets)
    ]


def _median(choices: Sequence[str]) -> list[float]:
    values = [np.mean(_numbers(choice) or [0]) for choice in choices]
    middle = np.median(values)
    return [-abs(value - middle) for value in values]


def rules_of_choices(asked: Sequence[Question]) -> dict[str, Rule]:
    """Rules that only see the choices; each is tried with the highest and the lowest score."""
    seen = Counter(choice for question in asked for choice in question.choices)
    in_choices = Counter(word for choice, n in seen.items() for word in [*tokens(choice)] * n)
    in_narratives = Counter(word for question in asked for word in tokens(question.narrative))

    def mean_count(counts: Counter[str]) -> Callable[[str], float]:
        return lambda text: float(np.mean([np.log1p(counts[word]) for word in tokens(text)]))

    def three(text: str) -> frozenset[str]:
        return grams(text, 3)

    places = {choice: float(k) for k, choice in enumerate(sorted(seen))}
    return {
        "characters": _each(len),
        "words": _each(lambda text: len(text.split())),
        "length of its words": _each(lambda text: len(text) / len(text.split())),
        "longest word": _each(lambda text: max(map(len, text.split()))),
        "digits": _each(lambda text: sum(map(str.isdigit, text))),
        "how many numbers": _each(lambda text: len(_numbers(text))),
        "size of its numbers": _each(lambda text: sum(_numbers(text))),
        "nearness to the median number": _of_choices(_median),
        "alphabetical order": _each(places.__getitem__),
        "commas": _each(lambda text: text.count(",")),
        "hyphens": _each(lambda text: text.count("-")),
        "'and'": _each(lambda text: text.split().count("and")),
        "capitals": _each(lambda text: sum(map(str.isupper, text))),
        "'a' and 'an'": _each(lambda text: len(re.findall(r"\ban?\b", text))),
        "plurals": _each(lambda text: len(re.findall(r"\w{3}s\b", text))),
        "negations": _each(lambda text: len(_NEGATIONS & set(text.lower().split()))),
        "likeness to the other choices, words": _of_choices(lambda c: _typical(c, tokens)),
        "likeness to the other choices, letters": _of_choices(lambda c: _typical(c, three)),
        "how often the choice is given": _each(seen.__getitem__),
        "how common its words are in choices": _each(mean_count(in_choices)),
        "how common its words are in narratives": _each(mean_count(in_narratives)),
    }


def rules_of_overlap(asked: Sequence[Question]) -> dict[str, Rule]:
    """Rules that use the overlap between a choice and the narrative of the crystal."""
    holding = Counter(word for question in asked for word in words(question.narrative))
    rarity = {word: np.log(len(asked) / n) for word, n in holding.items()}

    def shared(pieces: Callable[[str], frozenset[str]], text: Callable[[Question], str]) -> Rule:
        def rule(question: Question) -> list[float]:
            there = pieces(text(question))
            return [len(pieces(choice) & there) for choice in question.choices]

        return rule

    def portion(question: Question) -> list[float]:
        there = words(question.narrative)
        return [len(words(c) & there) / (len(words(c)) or 1) for c in question.choices]

    def by_rarity(question: Question) -> list[float]:
        there = words(question.narrative)
        return [sum(rarity[word] for word in words(c) & there) for c in question.choices]

    def runs(question: Question) -> list[float]:
        there = question.narrative.lower()
        return [sum(gram in there for gram in grams(choice, 4)) for choice in question.choices]

    def bare(question: Question) -> str:
        return without_formulas(question.narrative, question.formula)

    def narrative(question: Question) -> str:
        return question.narrative

    return {
        "words shared with the narrative": shared(words, narrative),
        "words shared, without formulas": shared(words, bare),
        "words shared, split at punctuation": shared(tokens, narrative),
        "words shared, share of the choice": portion,
        "words shared, rare ones count more": by_rarity,
        "numbers shared": shared(lambda t: frozenset(re.findall(r"\d+(?:\.\d+)?", t)), narrative),
        "five-letter stems shared": shared(prefixes, narrative),
        "runs of 4 characters shared": runs,
    }


# --- learned shortcuts ---


@dataclass
class Prior:
    """The rate at which each statement is right in the training questions."""

    right: Counter[str] = field(default_factory=Counter)
    given: Counter[str] = field(default_factory=Counter)

    def fit(self, asked: Sequence[Question]) -> Prior:
        """Counts."""
        self.right = Counter(question.choices[0] for question in asked)
        self.given = Counter(choice for question in asked for choice in question.choices)
        return self

    def __call__(self, question: Question) -> list[float]:
        """Smoothed rates."""
        return [(self.right[c] + 1) / (self.given[c] + 1 / CHANCE) for c in question.choices]


class NaiveBayes:
    """Naive Bayes classifier with the words and word pairs of right and wrong choices."""

    def fit(self, asked: Sequence[Question]) -> NaiveBayes:
        """Counts."""
        right: Counter[str] = Counter()
        wrong: Counter[str] = Counter()
        for question in asked:
            for k, choice in enumerate(question.choices):
                (wrong if k else right).update(ngrams(choice))
        n_right, n_wrong = right.total() + len(wrong), wrong.total() + len(wrong)
        self.odds = {
            gram: np.log((right[gram] + 1) / n_right) - np.log((wrong[gram] + 1) / n_wrong)
            for gram in right | wrong
        }
        return self

    def __call__(self, question: Question) -> list[float]:
        """Sums of log-odds."""
        return [sum(self.odds.get(gram, 0.0) for gram in ngrams(c)) for c in question.choices]


@cache
def ngrams(text: str) -> tuple[str, ...]:
    """Words and pairs of neighboring words."""
    found = re.findall(r"\w+", text.lower())
    return (*found, *map(" ".join, itertools.pairwise(found)))


_BUCKETS = 1024


class Ranker:
    """A linear ranker, softmax over the choices, on hashed n-grams and on the scores of rules.

    Args:
        rules: rules whose scores, scaled to unit deviation, are features in addition to n-grams.
        use_words: whether the n-grams are features.
    """

    def __init__(self, rules: Sequence[Rule], use_words: bool = True) -> None:
        self.rules, self.use_words = tuple(rules), use_words

    def fit(self, asked: Sequence[Question], steps: int = 100, penalty: float = 1e-4) -> Ranker:
        """Fits the weights with Adam on the full set."""
        self.scale = np.ones(len(self.rules))
        x, which, grams_of = self._features(asked)
        self.scale = x.std((0, 1)) + 1e-9
        x = x / self.scale
        flat = x.reshape(-1, x.shape[-1])
        self.dense, self.hashed = np.zeros(len(self.rules)), np.zeros(_BUCKETS)
        moments = [np.zeros_like(w) for w in (self.dense, self.hashed) for _ in "mv"]
        for step in range(1, steps + 1):
            scores = x @ self.dense + (grams_of @ self.hashed)[which]
            p = np.exp(scores - scores.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            p[:, 0] -= 1
            p /= len(asked)
            of_statements = np.bincount(which.ravel(), p.ravel(), minlength=len(grams_of))
            gradients = [p.ravel() @ flat, of_statements @ grams_of]
            for k, (weight, gradient) in enumerate(
                zip((self.dense, self.hashed), gradients, strict=True)
            ):
                gradient = gradient + penalty * weight
                m, v = moments[2 * k], moments[2 * k + 1]
                m += 0.1 * (gradient - m)
                v += 0.01 * (gradient**2 - v)
                weight -= 0.05 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.99**step)) + 1e-9)
        return self

    def _features(self, asked: Sequence[Question]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores (questions, choices, rules), statement numbers (questions, choices), n-grams."""
        x = np.stack([_scores(rule, asked) for rule in self.rules], axis=-1)
        x = (x - x.mean(1, keepdims=True)) / self.scale
        numbers = {c: k for k, c in enumerate(dict.fromkeys(c for q in asked for c in q.choices))}
        which = np.array([[numbers[choice] for choice in q.choices] for q in asked])
        grams_of = np.zeros((len(numbers), _BUCKETS))
        for choice, number in numbers.items() if self.use_words else ():
            buckets = [zlib.crc32(gram.encode()) % _BUCKETS for gram in ngrams(choice)]
            grams_of[number] = np.bincount(buckets, minlength=_BUCKETS)
        return x, which, grams_of

    def scores(self, asked: Sequence[Question]) -> np.ndarray:
        """Linear scores, (questions, choices)."""
        x, which, grams_of = self._features(asked)
        return x @ self.dense + (grams_of @ self.hashed)[which]

    def __call__(self, question: Question) -> list[float]:
        """Linear scores of one question."""
        return self.scores([question])[0].tolist()


def learners(
    of_choices: Sequence[Rule], of_overlap: Sequence[Rule]
) -> dict[str, Callable[[Sequence[Question]], Rule]]:
    """Name -> function that fits a rule to training questions."""
    return {
        "learned: rate of the statement": lambda known: Prior().fit(known),
        "learned: naive Bayes of words": lambda known: NaiveBayes().fit(known),
        "learned: ranker of words and rules": lambda known: Ranker(of_choices).fit(known),
        "learned: ranker of overlaps": lambda known: Ranker(of_overlap, False).fit(known),
    }


def measured(asked: Sequence[Question], folds: int = 0) -> dict[str, dict[str, float]]:
    """Shortcut -> accuracy on "all" questions, on "held out" ones (validation and test), on "test".

    Rules are tried with the highest and with the lowest score. Learners are fitted to the training
    split; "all" is a cross-validation over all questions, with folds > 1.
    """
    splits = np.array([question.split for question in asked])
    parts = {"all": splits != "", "held out": splits != "train", "test": splits == "test"}
    found: dict[str, dict[str, float]] = {}
    of_choices, of_overlap = rules_of_choices(asked), rules_of_overlap(asked)
    for name, rule in (of_choices | of_overlap).items():
        scores = _scores(rule, asked)
        for way, sign in (("most", 1), ("least", -1)):
            found[f"{name}: {way}"] = {
                part: _share_right(sign * scores[inside]) for part, inside in parts.items()
            }
    for name, make in learners([*of_choices.values()], [*of_overlap.values()]).items():
        rule = make([question for question in asked if question.split == "train"])
        held = [question for question in asked if question.split != "train"]
        scores = _scores(rule, held)
        tested = splits[parts["held out"]] == "test"
        found[name] = {"held out": _share_right(scores), "test": _share_right(scores[tested])}
        if folds > 1:
            found[name]["all"] = _cross_validated(make, asked, folds)
    return found


def _cross_validated(
    make: Callable[[Sequence[Question]], Rule], asked: Sequence[Question], folds: int
) -> float:
    order = np.random.default_rng(0).permutation(len(asked))
    total = 0.0
    for fold in range(folds):
        inside = set(order[fold::folds].tolist())
        rule = make([q for k, q in enumerate(asked) if k not in inside])
        total += accuracy(rule, [asked[k] for k in sorted(inside)]) * len(inside)
    return total / len(asked)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parquet", type=Path, default=PARQUET)
    parser.add_argument("--folds", type=int, default=5)
    options = parser.parse_args()
    rows = pq.read_table(options.parquet).to_pylist()
    print("Percent right; chance is 25.0. Learned: fitted to train; 'all' is cross-validated.")
    for name, asked in questions(rows).items():
        print(f"\n{name:54} {'all':>8} {'held out':>9} {'test':>6}")
        for shortcut, parts in measured(asked, options.folds).items():
            shown = [
                f"{100 * parts[p]:.1f}" if p in parts else "" for p in ("all", "held out", "test")
            ]
            print(f"{shortcut:54} {shown[0]:>8} {shown[1]:>9} {shown[2]:>6}")


if __name__ == "__main__":
    main()
