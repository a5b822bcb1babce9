"""Multiple-choice questions: four statements about a crystal, of which only the first is true."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from functools import partial

from tools.materials_project_mini import choice_sets
from tools.materials_project_mini.aspects import COMPOSITION, OXIDE, STRUCTURE, Answer, Aspect
from tools.materials_project_mini.compound import Compound
from tools.materials_project_mini.shortcuts import words

LISTS = {
    "structure_question_list": STRUCTURE,
    "composition_question_list": COMPOSITION,
    "oxide_question_list": OXIDE,
}
_COMMON = 60  # smallest number of crystals that share an answer
_MATCHINGS = 4  # number of matchings for the training split
_ROUNDS, _DISSOLVED = 200, 0.05  # of the matching, see _QuestionList._matched


def question_columns(
    compounds: Sequence[Compound], narratives: Sequence[str], splits: Sequence[str]
) -> dict[str, list[list[str]]]:
    """The three question columns.

    Args:
        compounds: all crystals.
        narratives: the narratives of the crystals, whose words must not reveal the right choice.
        splits: the splits of the crystals; choices are balanced within each split.

    Raises:
        ValueError: there is no possible question for a crystal.
    """
    return {
        name: _QuestionList(name, aspects, compounds, narratives).column(splits)
        for name, aspects in LISTS.items()
    }


class _QuestionList:
    """Creates one of the columns."""

    def __init__(
        self,
        name: str,
        aspects: Sequence[Aspect],
        compounds: Sequence[Compound],
        narratives: Sequence[str],
    ) -> None:
        self.name, self.aspects, self.compounds = name, aspects, compounds
        self.heard = [words(text) for text in narratives]
        self.answers: list[list[Answer | None]] = []
        self.common: list[set[Answer]] = []
        self.telling: list[dict[Answer, frozenset[str]]] = []
        for aspect in aspects:
            answers = [aspect.answer(compound) for compound in compounds]
            known = {answer for answer in answers if answer is not None}
            said = {answer: words(aspect.statement(answer)) for answer in known}
            everywhere = frozenset.intersection(*said.values())
            self.telling.append({answer: said[answer] - everywhere for answer in known})
            self.answers.append(answers)
            counts = Counter(answers)
            self.common.append({answer for answer in known if counts[answer] >= _COMMON})

    def column(self, splits: Sequence[str]) -> list[list[str]]:
        """The four statements of each crystal, the right one first."""
        found: dict[int, list[str]] = {}
        for split in sorted(set(splits)):
            members = [i for i, side in enumerate(splits) if side == split]
            rng = random.Random(f"{self.name}/{split}")
            sets = self._independent(members, rng) if split == "train" else self._sets(members, rng)
            for crystal in members:
                k, answers = sets.get(crystal) or self._unmatched(crystal, rng)
                right, *wrong = map(self.aspects[k].statement, answers)
                found[crystal] = [right, *rng.sample(wrong, len(wrong))]
        return [found[i] for i in range(len(splits))]

    def _sets(
        self, members: Sequence[int], rng: random.Random, drawn: bool = False
    ) -> dict[int, tuple[int, tuple[Answer, ...]]]:
        """Crystal -> index of the aspect and the answers, its own first."""
        found = {}
        for k, groups in enumerate(self._matched(members, rng)):
            fits = partial(self._fits, k)
            sets = choice_sets.drawn(groups, fits, rng) if drawn else choice_sets.shared(groups)
            found |= {crystal: (k, answers) for crystal, answers in sets.items()}
        return found

    def _independent(
        self, members: Sequence[int], rng: random.Random
    ) -> dict[int, tuple[int, tuple[Answer, ...]]]:
        """Like `_sets`, for the training split, with crystals independent of each other.

        If each statement were right for exactly a quarter of the crystals it is a choice for, a
        learner could infer the answers of unseen crystals: the statements that were right too
        rarely so far. Each crystal therefore draws independently from several matchings.
        """
        matchings = [self._sets(members, rng, drawn=True) for _ in range(_MATCHINGS)]
        found = {}
        for crystal in members:
            for matching in rng.sample(matchings, len(matchings)):
                if crystal in matching:
                    found[crystal] = matching[crystal]
                    break
        return found

    def _matched(self, members: Sequence[int], rng: random.Random) -> list[list[dict[int, Answer]]]:
        """Groups of four for each aspect; if possible, fewer than four crystals remain unmatched.

        Each crystal is first matched in a randomly drawn aspect. To match the rest, some groups are
        repeatedly dissolved, and their crystals are matched in any aspect.
        """
        drawn = {i: self._preferred(i, rng) for i in members}
        groups = [
            self._quartets(k, [i for i in members if drawn[i] == k], rng)
            for k in range(len(self.aspects))
        ]
        left = set(members) - {i for made in groups for group in made for i in group}
        for turn in range(_ROUNDS):
            kept = [[g for g in made if not turn or rng.random() > _DISSOLVED] for made in groups]
            loose = set(members) - {i for made in kept for group in made for i in group}
            for k in range(len(self.aspects)):
                made = self._quartets(k, sorted(loose), rng)
                kept[k] += made
                loose -= {i for group in made for i in group}
            if len(loose) < len(left):
                groups, left = kept, loose
            if len(left) < choice_sets.CHOICES:
                break
        return groups

    def _quartets(
        self, k: int, members: Sequence[int], rng: random.Random
    ) -> list[dict[int, Answer]]:
        own = self.answers[k]
        able = {i: own[i] for i in members if self._fits(k, i, own[i])}
        return choice_sets.quartets(able, partial(self._fits, k), rng)

    def _preferred(self, crystal: int, rng: random.Random) -> int | None:
        weights = [
            aspect.weight * self._fits(k, crystal, self.answers[k][crystal])
            for k, aspect in enumerate(self.aspects)
        ]
        return rng.choices(range(len(weights)), weights)[0] if any(weights) else None

    def _fits(self, k: int, crystal: int, answer: Answer | None) -> bool:
        """Whether a statement can be a choice: true or surely false, not revealed by its words."""
        if answer not in self.common[k] or self.telling[k][answer] & self.heard[crystal]:
            return False
        return answer == self.answers[k][crystal] or self._is_false(k, crystal, answer)

    def _is_false(self, k: int, crystal: int, answer: Answer) -> bool:
        return self.aspects[k].is_false(self.compounds[crystal], answer)

    def _unmatched(self, crystal: int, rng: random.Random) -> tuple[int, tuple[Answer, ...]]:
        """(index of an aspect, four answers) for one of the few unmatched crystals."""
        for unheard in (True, False):
            for k in rng.sample(range(len(self.aspects)), len(self.aspects)):
                own = self.answers[k][crystal]
                if own is None or (unheard and not self._fits(k, crystal, own)):
                    continue
                suits = self._fits if unheard else self._is_false
                others = [
                    answer
                    for answer in sorted(self.telling[k], key=str)
                    if answer != own and suits(k, crystal, answer)
                ]
                if len(others) >= choice_sets.CHOICES - 1:
                    return k, (own, *rng.sample(others, choice_sets.CHOICES - 1))
        compound = self.compounds[crystal].facts
        raise ValueError(f"{self.name}: no question is possible for {compound.material_id}.")
