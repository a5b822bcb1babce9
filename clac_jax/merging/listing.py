"""The text of a plan, by modules."""

from __future__ import annotations

import collections
import math
import textwrap
from collections.abc import Iterable, Sequence

from clac_jax.checkpoint.matching import KEPT, Match
from clac_jax.checkpoint.plan import Plan, module_of, short_transform
from clac_jax.checkpoint.renaming import STRICT_PARTS, Rule, natural
from clac_jax.errors import counted, noun_for
from clac_jax.merging.proposing import Proposal

_MODULES = 4  # modules that are named where growth is refused
_WIDTH = 88  # characters of its reason per line
_ORDER = (*STRICT_PARTS, "opt_state", "key", "progress")


def list_plan(plan: Plan, *, all_arrays: bool = False) -> str:
    """The sources, where the arrays of each module come from, what is left over, and what is open.

    Args:
        plan: a plan.
        all_arrays: whether every array is listed, instead of modules.
    """
    lines = [
        f"{'source' if number == 1 else '':<10}{number}  {source.arrays.place}"
        f"{_progress(source.arrays.info)}, {counted(len(source.arrays.leaves), 'array')}"
        for number, source in enumerate(plan.sources, start=1)
    ]
    for part in _ORDER:
        mine = [m for m in plan.matches if m.part == part and m.path is not None]
        if not mine:
            continue
        lines += ["", f"{part}, {counted(len(mine), 'array')}"]
        if part == "opt_state" and not all_arrays:
            lines += _optimizer(mine)
        else:
            lines += _table(mine, plan, all_arrays)
    for number, source in enumerate(plan.sources, start=1):
        left = [m for m in plan.matches if m.path is None and m.number == number]
        if left:
            lines += ["", f"left in source {number}, {source.arrays.name}"]
            lines += _table(left, plan, all_arrays)
    return "\n".join(lines)


def list_open(plan: Plan, *, can_grow: bool = True) -> str:
    """A line on what a run would not accept; "" if it would start.

    Args:
        plan: a plan.
        can_grow: whether the model can grow out of those of the sources, as far as is known.
    """
    found = plan.problems()
    if not found:
        return ""
    counts = (
        (sum(m.source is None for m in found), "only in the model"),
        (sum(m.path is None for m in found), "only in a source"),
        (sum(m.path is not None and m.source is not None for m in found), "of a different shape"),
    )
    what = ", ".join(f"{count} {words}" for count, words in counts if count)
    line = f"open      {counted(len(found), 'array')}: {what}. A run would stop"
    if not counts[2][0]:
        return line
    ways = ["overlap (keeps the common part)", "skip (starts from scratch)"]
    if can_grow:
        ways.insert(0, "grow (the model computes what it did)")
    some = f"{', '.join(ways[:-1])} or {ways[-1]}"
    text = f"of a different shape: add --config.restore.on_shape_mismatch={some}"
    return f"{line}\n{textwrap.indent(textwrap.fill(text, _WIDTH), ' ' * 10)}"


def list_proposal(proposal: Proposal, several: bool) -> str:
    """The rules and the growth that are proposed, and what they leave open; "" if there are none.

    Args:
        proposal: the proposal.
        several: whether the plan has several sources.
    """
    lines = []
    for number, rules in proposal.rules.items():
        where = f" for source {number}" if several else ""
        lines.append(f"proposed  {counted(len(rules), 'rule')}{where}")
        lines += [f"          {text_of(rule)},  # {why}" for rule, why in rules]
    if proposal.grows:
        lines.append(f"proposed  on_shape_mismatch=grow: {_growth(proposal.plan)}")
    if lines:
        left = list_open(proposal.plan, can_grow=not proposal.refusals)
        lines.append(left.replace("open      ", "then      ") or "then      nothing is open")
    if proposal.refusals:
        lines.append("no growth " + f"\n{' ' * 10}".join(list_refusals(proposal)))
    return "\n".join(lines)


def list_refusals(proposal: Proposal) -> list[str]:
    """Lines that say which arrays cannot be grown, by modules, and why."""
    lines = []
    for refusal in proposal.refusals:
        names = {module_of(f"params/{name}").removeprefix("params/") for name in refusal.arrays}
        some = sorted(names, key=natural)
        modules = ", ".join(some[:_MODULES]) + (", ..." if len(some) > _MODULES else "")
        text = f"{counted(len(refusal.arrays), 'array')} of {modules}: {refusal.reason}"
        lines += textwrap.wrap(text, _WIDTH)
    return lines


def _growth(plan: Plan) -> str:
    """The number of arrays that grow, and of those that are added."""
    mine = [m for m in plan.matches if m.part in STRICT_PARTS and m.path is not None]
    grown = sum(m.outcome == "transformed" and bool(m.reason) for m in mine)
    new = sum(m.source is None and m.number > 0 for m in mine)
    parts = ((grown, "made of smaller ones"), (new, "added without effect"))
    return ", ".join(f"{counted(count, 'array')} {what}" for count, what in parts if count)


def text_of(rule: Rule) -> str:
    """A rule as Python source."""
    return f"({', '.join(map(quoted, rule))})"


def quoted(value: object) -> str:
    """A value as Python source, a text in double quotes and raw where that is easier to read."""
    if not isinstance(value, str) or '"' in value or value.endswith("\\"):
        return repr(value)
    raw = "r" if "\\" in value else ""
    return f'{raw}"{value}"' if value.isprintable() else repr(value)


def _progress(info: object) -> str:
    step = getattr(info, "step", None)
    return "" if step is None else f", step {step:,}"


def _table(matches: Sequence[Match], plan: Plan, all_arrays: bool) -> list[str]:
    if all_arrays:
        rows = [(m.name, _shape(m), _origin(m, plan, in_full=True)) for m in matches]
    else:
        groups: dict[tuple[str, str], list[Match]] = collections.defaultdict(list)
        for m in matches:
            module = module_of(m.name) if m.outcome != "unused" else _tower_of(m.name)
            groups[module, _origin(m, plan)].append(m)
        rows = [(module, _counts(some), origin) for (module, origin), some in groups.items()]
    widths = [max(len(row[k]) for row in rows) for k in range(2)]
    return [f"  {a:<{widths[0]}}  {b:>{widths[1]}}  {c}" for a, b, c in rows]


def _tower_of(path: str) -> str:
    return "/".join(path.split("/")[:2]) if path.startswith(STRICT_PARTS) else path.split("/")[0]


def _origin(m: Match, plan: Plan, in_full: bool = False) -> str:
    """Where an array comes from, or why it is not used."""
    reason = f" ({m.reason})" if m.reason else ""
    if m.outcome not in KEPT:
        return f"{m.outcome}{reason}"
    where = f"source {m.number}" if len(plan.sources) > 1 else "restored"
    if m.source != m.path:
        old = ", ".join(m.sources) if in_full else module_of(m.source or "")
        where += f", from {old}"
    if m.change is not None and m.change.transform:
        text = m.change.text
        where += f" by {text if in_full else short_transform(text)}"
    return where + (", resized" if m.outcome == "resized" else "") + reason


def _optimizer(matches: Sequence[Match]) -> list[str]:
    """The number of arrays of the optimizer that are kept, and why the others are not."""
    kept = [m for m in matches if m.outcome in KEPT]
    lines = [f"  kept         {_counts(kept)}"]
    reasons = collections.Counter(m.reason or "not in a source" for m in matches if m not in kept)
    lines += [
        f"  starts over  {count} {noun_for(count, 'array')} ({reason})"
        for reason, count in reasons.items()
    ]
    return lines


def _counts(some: Iterable[Match]) -> str:
    shapes = [m.shape if m.shape is not None else m.saved_shape or () for m in some]
    numbers = sum(math.prod(shape) for shape in shapes)
    return f"{len(shapes)} {noun_for(len(shapes), 'array'):<6} {numbers:>10,} numbers"


def _shape(m: Match) -> str:
    return " x ".join(map(str, m.shape if m.shape is not None else m.saved_shape or ())) or "()"
