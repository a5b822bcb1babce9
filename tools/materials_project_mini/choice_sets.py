"""Which answers stand beside each other: no text but the crystal's own tells the right one.

Four crystals with four different answers, each false of the other three, share one set of choices.
Each choice is then right for one crystal of the four, so whatever is computed from the choices
(their lengths, their words, what a model has learned about them) is right once in four times.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence

CHOICES = 4

Answer = Hashable
Fits = Callable[[int, Answer], bool]
"""Whether another crystal's answer can stand among the choices of a crystal."""


def quartets(
    answers: Mapping[int, Answer], fits: Fits, rng: random.Random
) -> list[dict[int, Answer]]:
    """Groups of four crystals whose answers can stand beside each other.

    Args:
        answers: crystal -> its answer. Crystals that find no group are in none of the result.
        fits: see `Fits`; asked for each crystal and each answer of the other three.
        rng: makes all choices.
    """
    pools: dict[Answer, list[int]] = defaultdict(list)
    for crystal in rng.sample(sorted(answers), len(answers)):
        pools[answers[crystal]].append(crystal)
    groups = []
    while len(pools) >= CHOICES:
        # The most common answer must take part, or its crystals would be left over.
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
            group = {pools[first][-1]: first}  # nothing fits it: leave this crystal out
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
    """A crystal of the pool that fits the group and that the group fits."""
    if not all(fits(other, answer) for other in group):
        return None
    for crystal in pool[-20:]:  # enough: most misfits are between answers, not crystals
        if all(fits(crystal, theirs) for theirs in group.values()):
            return crystal
    return None


def shared(groups: Sequence[Mapping[int, Answer]]) -> dict[int, tuple[Answer, ...]]:
    """The choices of each crystal of each group: those of its group, its own answer first."""
    return {
        crystal: (answer, *dict.fromkeys(other for other in group.values() if other != answer))
        for group in groups
        for crystal, answer in group.items()
    }


def drawn(
    groups: Sequence[Mapping[int, Answer]], fits: Fits, rng: random.Random
) -> dict[int, tuple[Answer, ...]]:
    """As `shared`, but each crystal draws its choices from all groups that hold its answer.

    A choice is right with a probability of one in four still, now for each crystal by itself: the
    other crystals of a group tell nothing, so folds of a cross-validation may part them.
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
