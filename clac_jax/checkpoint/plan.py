"""The plan of a restore: where each array of a model comes from, by names and shapes only."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from clac_jax.checkpoint.matching import OUTCOMES, Match, match_sources, problems
from clac_jax.checkpoint.sources import Wanted
from clac_jax.errors import noun_for

_SHORT = 30  # characters of a transform
_LISTED = 8  # modules per outcome in the table; the report lists all arrays


@dataclass(frozen=True)
class Plan:
    """Where each array of a model comes from.

    Attributes:
        sources: the sources, in their order.
        matches: the outcome for each array of the model and of the sources.
    """

    sources: tuple[Wanted, ...]
    matches: list[Match]

    def problems(self) -> list[Match]:
        """The matches that the options treat as errors."""
        found = []
        for each in self.matches:
            givers = self.sources[each.number - 1 : each.number] if each.number else self.sources
            if any(problems([each], giver.options) for giver in givers):
                found.append(each)
        return found

    def describe(self, report: str = "the report") -> str:
        """A table of the arrays and bytes with each outcome, and the modules that changed.

        Args:
            report: name of the file that lists all arrays.
        """
        lines = []
        if len(self.sources) > 1:
            lines += [
                f"source {number}    {each.arrays.place}"
                for number, each in enumerate(self.sources, start=1)
            ]
        for outcome in OUTCOMES:
            some = [m for m in self.matches if m.outcome == outcome]
            if not some:
                continue
            arrays = f"{noun_for(len(some), 'array'):<6}"
            lines.append(f"{outcome:<12}{len(some):>5} {arrays}  {self._megabytes(some):>10}")
            if outcome == "restored" and len(self.sources) == 1:
                continue
            if outcome == "unused":
                groups = collections.Counter(self._reason(m) for m in some)
            else:
                groups = collections.Counter(self._group(m) for m in some)
            lines += [f"  {count:>3} x {text}" for text, count in list(groups.items())[:_LISTED]]
            if len(groups) > _LISTED:
                more = noun_for(len(groups) - _LISTED, "group")
                lines.append(f"  and {len(groups) - _LISTED} more {more}, see {report}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values.

        `checkpoint` and `step` are those of the first source, for a plan with one; `sources` has
        the place and step of each; `counts` those of each outcome; `arrays` has one object per
        array, with `outcome`, `path`, `source`, `shape`, `saved_shape`, `reason`, `number` (of the
        source, from 1; 0 for none) and, if it is transformed, `transform` and `inputs`.
        """
        places = [
            {
                "checkpoint": each.arrays.place,
                "name": each.arrays.name,
                "step": None if each.arrays.info is None else each.arrays.info.step,
                "parts": list(each.options.parts),
                "only": each.options.only,
                "rules": [list(rule) for rule in each.options.rules],
            }
            for each in self.sources
        ]
        first = places[0] if len(places) == 1 else {"checkpoint": None, "step": None}
        return {
            "checkpoint": first["checkpoint"],
            "step": first["step"],
            "sources": places,
            "counts": {o: sum(m.outcome == o for m in self.matches) for o in OUTCOMES},
            "arrays": [_as_json(m) for m in self.matches],
        }

    def _megabytes(self, some: Sequence[Match]) -> str:
        """Megabytes of the arrays in the model, or in the checkpoint for dropped arrays."""
        total = 0
        for m in some:
            shape = m.shape if m.shape is not None else m.saved_shape
            leaf = (
                self.sources[m.number - 1].arrays.leaves.get(m.source or "") if m.number else None
            )
            size = np.dtype(leaf.dtype).itemsize if leaf else 4
            total += int(np.prod(shape or (), dtype=np.int64)) * size
        return f"{total / 1e6:.1f} MB"

    def _reason(self, m: Match) -> str:
        where = f"of source {m.number}, " if len(self.sources) > 1 else ""
        return f"{where}{m.reason}"

    def _group(self, m: Match) -> str:
        """The module of an array, to a depth of two names, and the reason for its outcome."""
        module = text = module_of(m.name)
        if m.outcome in ("renamed", "transformed") and module_of(m.source or "") != module:
            text = f"{module_of(m.source or '')} -> {module}"
        if m.change is not None and m.change.transform:
            text += f" by {short_transform(m.change.text)}"
        if m.number and len(self.sources) > 1:
            text += f", source {m.number}"
        return f"{text} ({m.reason})" if m.reason else text


def make_plan(sources: Sequence[Wanted], shapes: Mapping[str, jax.ShapeDtypeStruct]) -> Plan:
    """Plans a restore; no array is read.

    Args:
        sources: the sources, in their order.
        shapes: slash path -> shape and dtype of every array of the state.

    Raises:
        RestoreRuleError: a rule cannot be applied, see `matching.match`.
    """
    wanted = {path: leaf.shape for path, leaf in shapes.items()}
    return Plan(tuple(sources), match_sources([each.source for each in sources], wanted))


def short_transform(text: str) -> str:
    """The text of a transform for a line of a table: only its name if it is long."""
    return text if len(text) <= _SHORT else text.partition("(")[0]


def module_of(path: str) -> str:
    """The module of an array, to a depth of two names below its part."""
    names = path.split("/")
    return "/".join(names[: max(1, min(3, len(names) - 1))])


def _as_json(m: Match) -> dict[str, Any]:
    change = {}
    if m.change is not None:
        change = {"transform": m.change.text, "inputs": list(m.change.inputs)}
    return {
        "outcome": m.outcome,
        "path": m.path,
        "source": m.source,
        "shape": m.shape,
        "saved_shape": m.saved_shape,
        "reason": m.reason,
        "number": m.number,
        **change,
    }
