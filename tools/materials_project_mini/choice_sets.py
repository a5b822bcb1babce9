"""Balanced sets of choices: only the text of the crystal reveals the right one.

Four crystals with four different answers, each false for the other three, share one set of choices.
Each choice is right for one of the four crystals, so anything computed from the choices (length,
words, a model fitted to them) has an accuracy of one in four.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence

CHOICES = 4

Answer = Hashable
Fits = Callable[[int, Answer], bool]
"""Whether the answer of a different crystal can be a choice for a crystal."""


def quartets(
    answers: Mapping[int, Answer], fits: Fits, rng: random.Random
) -> list[dict[int, Answer]]:
    """Groups of four crystals whose answers can be combined into a set of choices.

    Args:
        answers: crystal -> its answer. Crystals for which no group is found are omitted.
        fits: see `Fits`; must hold for each crystal and each answer of the other three.
        rng: source of randomness.
    """
    pools: dict[Answer, list[int]] = defaultdict(list)
    for crystal in rng.sample(sorted(answers), len(answers)):
        pools[answers[crystal]].append(crystal)
    groups = []
    while len(pools) >= CHOICES:
        # The most common answer must be included, or its crystals would remain.
        first = max(pools, key=lambda answer: len(pools[answer]))
        group = {pools[first][-1]: first}
        for answer in _shuffled(pools, rng):
            member = _member(pools[answer], answer, group, fits)
            if answer != first and member is not None:
                group[member] = answer
            if len(group) == CHOICES:
                groups.append(group)
                break
        else:
            group = {pools[first][-1]: first}  # nothing fits this crystal: omit it
        for crystal, answer in group.items():
            pools[answer].remove(crystal)
            if not pools[answer]:
                del pools[answer]
    return groups


def _shuffled(pools: Mapping[Answer, list[int]], rng: random.Random) -> list[Answer]:
    """All answers in random order, the common ones sooner (Efraimidis and Spirakis, 2006)."""
    keys = {answer: rng.random() ** (1 / len(pool)) for answer, pool in pools.items()}
    return sorted(keys, key=lambda answer: -keys[answer])


def _member(
    pool: Sequence[int], answer: Answer, group: Mapping[int, Answer], fits: Fits
) -> int | None:
    """A crystal of the pool that fits the group, and vice versa."""
    if not all(fits(other, answer) for other in group):
        return None
    for crystal in pool[-20:]:  # enough: most misfits are between answers, not crystals
        if all(fits(crystal, theirs) for theirs in group.values()):
            return crystal
    return None


def shared(groups: Sequence[Mapping[int, Answer]]) -> dict[int, tuple[Answer, ...]]:
    """The choices for each crystal: the answers of its group, with its own first."""
    return {
        crystal: (answer, *dict.fromkeys(other for other in group.values() if other != answer))
        for group in groups
        for crystal, answer in group.items()
    }


def drawn(
    groups: Sequence[Mapping[int, Answer]], fits: Fits, rng: random.Random
) -> dict[int, tuple[Answer, ...]]:
    """Like `shared`, but each crystal draws its choices from all groups with its answer.

    A choice is still right with a probability of one in four, now independently for each crystal:
    other crystals give no information, so cross-validation folds may separate them.
    """
    holding: dict[Answer, list[Mapping[int, Answer]]] = defaultdict(list)
    for group in groups:
        for answer in group.values():
            holding[answer].append(group)
    found = shared(groups)
    for crystal, (answer, *_) in found.items():
        for group in rng.sample(holding[answer], len(holding[answer])):
            others = tuple(dict.fromkeys(other for other in group.values() if other != answer))
            if all(fits(crystal, other) for other in others):
                found[crystal] = (answer, *others)
                break
    return found
