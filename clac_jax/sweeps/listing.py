"""A sweep as text: its trials in a table, one trial in detail, the summary at its end."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clac_jax.errors import counted, noun_for, one_line
from clac_jax.sweeps.definition import Definition
from clac_jax.sweeps.disk import ranked
from clac_jax.sweeps.opened import LINEAGE, folder_of
from clac_jax.sweeps.sampling import trials_at_most
from clac_jax.sweeps.storage import State, TrialRecord

_ORDER = (State.COMPLETE, State.PRUNED, State.RUNNING, State.WAITING, State.FAILED)


def table(definition: Definition, trials: Sequence[TrialRecord]) -> str:
    """The trials with what they tried: complete ones from the best to the worst, then others."""
    best = ranked(definition, trials)
    others = [trial for trial in trials if trial not in best]
    others.sort(key=lambda trial: (_ORDER.index(trial.state), trial.number))
    header = ["trial", "state", definition.monitor or "value", "epochs", "time", *definition.space]
    rows = [header, *([*_facts(trial), *_params(definition, trial)] for trial in (*best, *others))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, "", status(definition, trials)])


def status(definition: Definition, trials: Sequence[TrialRecord]) -> str:
    """One line: how many trials there are in each state, and of how many."""
    counts = [
        f"{sum(trial.state is state for trial in trials)} {state.value}"
        for state in _ORDER
        if any(trial.state is state for trial in trials)
    ]
    limit = trials_at_most(definition)
    of = "" if limit is None else f" of {limit}"
    return f"{counted(len(trials), 'trial')}{of}: {', '.join(counts) or 'none has started'}"


def details(definition: Definition, trial: TrialRecord, workdir: Path) -> str:
    """One trial: its values, its validations, and the last lines of one that has failed."""
    facts = {
        "trial": str(trial.number),
        "state": trial.state.value,
        **_lineage(trial),
        definition.monitor: _number(trial.value),
        "time": _duration(trial),
        "folder": str(folder_of(workdir, trial)),
    }
    if trial.holder is not None:
        runs = trial.state is State.RUNNING
        facts["machine"] = str(trial.holder) if runs else trial.holder.host
    if note := trial.result.get("note"):
        facts["why"] = str(note)
    for name, value in trial.params.items():
        facts[name] = _number(value)
    width = max(map(len, facts))
    lines = [f"{name.ljust(width)}  {value}" for name, value in facts.items()]
    if trial.values:
        lines += ["", f"epoch  step  {definition.monitor}"]
        lines += [f"{epoch:5}  {step:4}  {value:.5g}" for step, epoch, value in trial.values]
    if last := trial.result.get("lines"):
        lines += ["", "last lines of its output:", *(f"  {line}" for line in last)]
    return "\n".join(lines)


def _lineage(trial: TrialRecord) -> dict[str, str]:
    """The member that a trial of a population is, and whom it exploits; {} for other trials."""
    plan = trial.extra.get(LINEAGE)
    if plan is None:
        return {}
    facts = {"member": f"{plan['member']}, generation {plan['generation']}"}
    if plan["parent"] not in (None, plan["member"]):
        facts["exploits"] = f"member {plan['parent']}: {plan['why']}"
    if changes := plan["changed"]:
        pairs = (f"{name} {_number(a)} -> {_number(b)}" for name, (a, b) in changes.items())
        facts["changed"] = ", ".join(pairs)
    return facts


def summary(definition: Definition, trials: Sequence[TrialRecord], workdir: Path) -> str:
    """The lines at the end of a sweep: what there was, the best trial, and what has failed."""
    lines = [f"finished: {status(definition, trials)}"]
    best = ranked(definition, trials)
    if best:
        values = ", ".join(_params_of(best[0]))
        lines.append(f"best: trial {best[0].number}, {definition.monitor} {_number(best[0].value)}")
        lines += [f"      {values}", f"      {folder_of(workdir, best[0])}"]
    if failed := [trial for trial in trials if trial.state is State.FAILED]:
        numbers = " ".join(str(trial.number) for trial in failed)
        command = f"clac-jax sweep revive {numbers} --workdir={shlex.quote(str(workdir))}"
        why = one_line(failed[0].result.get("note") or "unknown", 300)
        lines += [
            f"failed: {noun_for(len(failed), 'trial')} {numbers.replace(' ', ', ')}; "
            f"trial {failed[0].number}: {why}",
            f"      `{command}` and the same command run them again",
        ]
    return "\n".join(lines)


def to_json(trial: TrialRecord, workdir: Path) -> dict[str, Any]:
    """A trial as plain values."""
    return {
        "number": trial.number,
        "state": trial.state.value,
        "value": trial.value,
        "params": dict(trial.params),
        "values": [list(value) for value in trial.values],
        "seconds": (trial.result or trial.progress).get("seconds"),
        "note": trial.result.get("note", ""),
        "folder": str(folder_of(workdir, trial)),
        "holder": None if trial.holder is None else dataclasses.asdict(trial.holder),
    }


def _facts(trial: TrialRecord) -> list[str]:
    epochs = str(len(trial.values)) if trial.values else "-"
    return [str(trial.number), trial.state.value, _number(trial.value), epochs, _duration(trial)]


def _params(definition: Definition, trial: TrialRecord) -> list[str]:
    return [_number(trial.params[n]) if n in trial.params else "-" for n in definition.space]


def _params_of(trial: TrialRecord) -> list[str]:
    return [f"{name}={_number(value)}" for name, value in trial.params.items()]


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _duration(trial: TrialRecord) -> str:
    seconds = (trial.result or trial.progress).get("seconds")
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(float(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
