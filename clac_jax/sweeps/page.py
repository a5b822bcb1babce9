"""`sweep.html`: a sweep as one page that is read offline."""

from __future__ import annotations

import html
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import clac_jax
from clac_jax.errors import counted, one_line
from clac_jax.evaluation.page import STYLE
from clac_jax.files.atomic import write_atomically
from clac_jax.sweeps.importance import importance_of
from clac_jax.sweeps.space import Choice, Range
from clac_jax.sweeps.view import STATES, SweepView, TrialView

PAGE_FILE = "sweep.html"
_LONGEST = 40  # characters of a value in the table


def write_page(view: SweepView, workdir: Path) -> Path:
    """Writes the page of a sweep into its folder, in place of an earlier one.

    Raises:
        WorkdirError: the file cannot be written.
    """
    path = workdir / PAGE_FILE
    write_atomically(path, page_of(view))
    return path


def page_of(view: SweepView) -> str:
    """The page: all of it in one text, without references to anything outside."""
    sections = dict(_sections(view))
    links = "".join(f'<li><a href="#{_anchor(title)}">{title}</a></li>' for title in sections)
    body = "\n".join(
        f'<section id="{_anchor(title)}">\n<h2>{title}</h2>\n{content}\n</section>'
        for title, content in sections.items()
    )
    facts = "".join(f"<dt>{_text(k)}</dt><dd>{_text(value)}</dd>" for k, value in _facts(view))
    title = _text(f"Sweep {view.name}")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}{_asset('sweep.css')}</style>\n</head>\n"
        f'<body>\n<main>\n<h1>{title}</h1>\n<dl class="facts">{facts}</dl>\n'
        f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n{body}\n</main>\n'
        f'<div id="tip" role="status" hidden></div>\n'
        f'<script type="application/json" id="data">{_embedded(_data(view))}</script>\n'
        f"<script>{_asset('sweep.js')}</script>\n</body>\n</html>\n"
    )


def _facts(view: SweepView) -> Iterator[tuple[str, str]]:
    lower = "lower" if view.mode == "min" else "higher"
    yield "Measure", f"{view.monitor} on the validation split, {lower} is better"
    counts = Counter(trial.state for trial in view.trials)
    states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    yield "Trials", f"{len(view.trials)}: {states}" if view.trials else "none yet"
    if view.is_population:
        members = len({trial.member for trial in view.trials})
        generations = len({trial.generation for trial in view.trials})
        yield (
            "Population",
            f"{counted(members, 'member')}, {counted(generations, 'generation')} so far, "
            f"{counted(sum(trial.exploits for trial in view.trials), 'exploit')}",
        )
    for best in view.best_first()[:1]:
        params = ", ".join(f"{key}={_short(value)}" for key, value in best.params.items())
        yield "Best", f"{name_of(best)}: {_number(best.value)}" + (f" with {params}" * bool(params))
    seconds = [trial.seconds for trial in view.trials if trial.seconds is not None]
    if seconds:
        yield "Trained", f"{_duration(sum(seconds))} in all trials together"
    yield from view.facts
    yield "Program", f"clac_jax {clac_jax.__version__}"


def _sections(view: SweepView) -> Iterator[tuple[str, str]]:
    yield (
        "Trials",
        "<p>A click on a heading sorts by it; a click on a row marks the trial in all "
        "figures.</p>" + _table(view),
    )
    if view.is_population:
        yield (
            "Lineage",
            "<p>Each column is a generation and each row a member; the better the measure, the "
            "stronger the colour. A thick line is an exploit: the member starts from the checkpoint of "
            "a different one, with the keys of the table changed.</p>"
            f'<figure id="lineage-chart"></figure>{_exploits(view)}',
        )
    yield (
        "Parameters",
        "<p>One line per trial, from key to key to the measure; the best are strongest. Drag along "
        "an axis to keep only the trials within that part, and double-click it to undo "
        'that.</p><figure id="parallel-chart"></figure>',
    )
    found = importance_of(view)
    bars = "".join(
        f'<tr><th scope="row"><code>{_text(key)}</code></th><td>{share:.2f}</td>'
        f'<td class="bar"><span style="width:{100 * share:.1f}%"></span></td></tr>'
        for key, share in found.shares.items()
    )
    table = (
        '<div class="scroll"><table id="importance-table"><thead><tr><th scope="col">key</th>'
        f'<th scope="col">share</th><th scope="col"></th></tr></thead><tbody>{bars}</tbody>'
        "</table></div>"
    )
    yield "Importance", f"<p>{_text(found.words)}</p>{table if bars else ''}"
    yield (
        "Learning curves",
        f"<p>{_text(view.monitor)} at every validation. Trials that were pruned are dashed.</p>"
        '<figure id="curves-chart"></figure>',
    )


def _table(view: SweepView) -> str:
    keys = view.used_keys()
    columns = ["trial", "state", view.monitor, "epochs", "time", *keys, "folder"]
    head = "".join(
        f'<th scope="col"{_kind(name)}><button type="button">{_text(name)}</button></th>'
        for name in columns
    )
    rows = "".join(_row(trial, keys) for trial in view.trials)
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Trials">'
        f'<table id="trials-table"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
        "</div>"
    )


def _row(trial: TrialView, keys: Sequence[str]) -> str:
    value = trial.value if trial.has_value else None
    state = f'<span class="state {trial.state}">{trial.state}</span>'
    cells = [
        ("state", state, trial.state),
        ("", _number(value), value),
        ("", str(_epochs(trial)), _epochs(trial)),
        ("", _duration(trial.seconds), trial.seconds),
        *(("", _text(_short(trial.params[key])), trial.params[key]) if key in trial.params
          else ("", "–", None) for key in keys),
        ("folder", f"<code>{_text(trial.workdir)}</code>", trial.workdir),
    ]  # fmt: skip
    shown = "".join(
        f'<td{_kind(name)} data-sort="{_sorted_by(by)}">{text}</td>' for name, text, by in cells
    )
    note = f' title="{_text(trial.note)}"' if trial.note else ""
    return (
        f'<tr data-trial="{trial.number}"{note}><th scope="row" data-sort="{trial.number}">'
        f"{_text(name_of(trial))}</th>{shown}</tr>"
    )


def _kind(column: str) -> str:
    """The class of a column's cells: words begin at the left, numbers end at the right."""
    return ' class="text"' if column in ("state", "folder") else ""


def _exploits(view: SweepView) -> str:
    by_number = {trial.number: trial for trial in view.trials}
    rows = "".join(
        f'<tr data-trial="{trial.number}"><th scope="row">{_text(name_of(trial))}</th>'
        f"<td>{_text(name_of(by_number[trial.parent]))}</td><td>{_text(changes)}</td></tr>"
        for trial in view.trials
        if trial.exploits and trial.parent in by_number
        for changes in [_changes(trial)]
    )
    if not rows:
        return '<p class="note">No member has exploited a better one yet.</p>'
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Exploits">'
        '<table id="exploits-table"><caption>Exploits</caption><thead><tr><th scope="col">trial'
        '</th><th scope="col">starts from</th><th scope="col">changed keys</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def name_of(trial: TrialView) -> str:
    """A trial's name on the page: its number, or member and generation."""
    if trial.member is None:
        return str(trial.number)
    return f"member {trial.member}, generation {trial.generation}"


def _changes(trial: TrialView) -> str:
    pairs = trial.changed.items()
    return ", ".join(f"{key}: {_short(then)} → {_short(now)}" for key, (then, now) in pairs)


def _data(view: SweepView) -> dict[str, Any]:
    """The values that the figures show, as plain JSON; numbers that are not finite are null."""
    return {
        "monitor": view.monitor,
        "mode": view.mode,
        "axes": [_axis(view, key) for key in view.used_keys()],
        "trials": [
            {
                "number": trial.number,
                "name": name_of(trial),
                "state": trial.state,
                "value": trial.value if trial.has_value else None,
                "params": {key: _plain(value) for key, value in trial.params.items()},
                "curve": [
                    [epoch + 1, value]
                    for _, epoch, value in trial.values
                    if math.isfinite(value)
                ],
                "member": trial.member,
                "generation": trial.generation,
                "parent": trial.parent,
                "exploits": trial.exploits,
                "changes": _changes(trial),
            }
            for trial in view.trials
        ],
    }  # fmt: skip


def _axis(view: SweepView, key: str) -> dict[str, Any]:
    """A key of the space: its scale, and its bounds or values in order."""
    domain = view.space.get(key)
    values = [trial.params[key] for trial in view.trials if key in trial.params]
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if isinstance(domain, Choice) or len(numbers) < len(values) or not numbers:
        given = domain.values if isinstance(domain, Choice) else ()
        texts = dict.fromkeys(_plain(value) for value in (*given, *values))
        return {"key": key, "values": [str(text) for text in texts]}
    low, high = min(numbers), max(numbers)
    is_log = low > 0 and high / low >= 30
    if isinstance(domain, Range):  # a population leaves it where factors are multiplied
        is_log = domain.is_log and low > 0
        low, high = min(low, domain.low), max(high, domain.high)
    return {"key": key, "low": low, "high": high, "log": is_log}


def _plain(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _short(value)
    return value if math.isfinite(value) else None


def _epochs(trial: TrialView) -> int:
    return trial.values[-1][1] + 1 if trial.values else 0


def _sorted_by(value: Any) -> str:
    return "" if value is None else _text(str(value))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.5g}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    count = round(seconds)
    return f"{count // 3600}:{count // 60 % 60:02}:{count % 60:02}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "none" if value is None else one_line(str(value), _LONGEST)


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _embedded(values: Mapping[str, Any]) -> str:
    """JSON for a script element, in which nothing can end the element."""
    text = json.dumps(values, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("&", "\\u0026")


def _asset(name: str) -> str:
    return (resources.files("clac_jax.sweeps") / "assets" / name).read_text(encoding="utf-8")


def _text(text: str) -> str:
    return html.escape(text, quote=True)
