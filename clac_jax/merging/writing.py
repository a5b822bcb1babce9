"""A config file that holds the sources and rules of a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clac_jax.checkpoint.matching import PARTS, Match
from clac_jax.checkpoint.plan import Plan
from clac_jax.checkpoint.renaming import Rule
from clac_jax.config.saving import MERGED_PARTS
from clac_jax.errors import UserError, counted
from clac_jax.files.atomic import write_atomically
from clac_jax.files.paths import explain
from clac_jax.merging.listing import list_refusals, quoted, text_of
from clac_jax.merging.proposing import Proposal, rules_for_leftovers


class WritingError(UserError):
    """The file for the rules cannot be written."""


def write_config(
    path: Path, base: str, overrides: Mapping[str, Any], proposal: Proposal, *, resumes: bool
) -> None:
    """Writes a config file with everything that a run needs to start as planned.

    What the model has and no source gives is accepted, and what a source has and the model does not
    is left out by rules, so that a plan with this config has nothing open.

    Args:
        path: the file, which must not exist.
        base: the value of `--config`.
        overrides: dotted key -> value, where the config differs from that of `base`.
        proposal: the rules.
        resumes: whether the plan has one source that the run resumes from (`config.resume_from`).

    Raises:
        WritingError: the file exists, or cannot be written.
    """
    if path.exists():
        raise WritingError(f"--write={path} exists. Remove it, or name another file.")
    plan = proposal.plan
    open_arrays = plan.problems()
    lines = [
        f'"""The config {base} with what its run starts from; from `clac-jax ckpt plan`."""',
        "",
        "import ml_collections",
        "",
        "from clac_jax.config.shipped import config_named",
        "",
        "",
        "def get_config() -> ml_collections.ConfigDict:",
        f"    config = config_named({quoted(base)})",
    ]
    given = {k: v for k, v in overrides.items() if not k.startswith(("restore.", "resume_from"))}
    lines += [f"    config.{key} = {quoted(value)}" for key, value in given.items()]
    if resumes:
        source = plan.sources[0]
        lines.append(f"    config.resume_from = {quoted(source.arrays.name)}")
        if source.options.parts != PARTS:
            lines.append(f"    config.restore.parts = {_tuple(source.options.parts)}")
        if rules := _rules(plan, 1):
            lines += ["    config.restore.rules = (", *_listed(rules, 8), "    )"]
    else:
        lines += ['    config.resume_from = ""', "    config.restore.rules = ()"]
        lines.append("    config.restore.sources = (")
        for number, source in enumerate(plan.sources, start=1):
            lines += ["        {", f'            "from": {quoted(source.arrays.name)},']
            if source.options.parts != MERGED_PARTS:
                lines.append(f'            "parts": {_tuple(source.options.parts)},')
            if source.options.only:
                lines.append(f'            "only": {quoted(source.options.only)},')
            if rules := _rules(plan, number):
                lines += ['            "rules": (', *_listed(rules, 16), "            ),"]
            lines.append("        },")
        lines.append("    )")
    fresh = sum(m.source is None for m in open_arrays)
    first = plan.sources[0].options
    if fresh or not first.strict:
        lines.append("    # What no source gives starts from scratch.")
        lines.append("    config.restore.strict = False")
    differ = [m for m in open_arrays if m.path is not None and m.source is not None]
    if differ or first.on_shape_mismatch != "error":
        way = first.on_shape_mismatch if first.on_shape_mismatch != "error" else "skip"
        if way == "skip":
            lines += _why_fresh(differ, proposal)
        elif proposal.grows:
            lines.append("    # Arrays of a different shape grow out of the saved ones.")
        lines.append(f"    config.restore.on_shape_mismatch = {quoted(way)}")
    lines.append("    return config")
    try:
        write_atomically(path, "\n".join(lines) + "\n")
    except OSError as error:
        raise WritingError(f"Cannot write --write={path}: {explain(error)}") from error


def _why_fresh(differ: Sequence[Match], proposal: Proposal) -> list[str]:
    """Comments: how many arrays start from scratch since their shapes differ, and why."""
    arrays = counted(len(differ), "array")
    lines = [f"{arrays} of a different shape: initialized, not grown. See `ckpt plan --all`."]
    return [f"    # {line}" for line in (*lines, *list_refusals(proposal))]


def _rules(plan: Plan, number: int) -> list[Rule]:
    return [*plan.sources[number - 1].options.rules, *rules_for_leftovers(plan, number)]


def _listed(rules: list[Rule], indent: int) -> list[str]:
    return [f"{' ' * indent}{text_of(rule)}," for rule in rules]


def _tuple(values: tuple[str, ...]) -> str:
    return f"({', '.join(map(quoted, values))}{',' if len(values) == 1 else ''})"
