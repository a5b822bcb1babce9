"""Whether metrics.jsonl, steps.journal and starts.jsonl hold the rows that a chain covers."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from clac_jax.chain.chain_file import FILES
from clac_jax.chain.portions import (
    FIELDS,
    MARK_DIGITS,
    Portion,
    mark_of,
    row_contents,
    step_contents,
)
from clac_jax.chain.record import CHECKPOINT, END, Entry
from clac_jax.proof.evidence import Evidence, Finding

SHOWN = 5
_WINDOW = 2000  # rows compared with each other after the first difference


def check_rows(evidence: Evidence) -> list[Finding]:
    """Compares the rows of all three files with the records; names those that differ."""
    findings = _check_file(evidence, "rows", row_contents(evidence.rows))
    findings += _check_file(evidence, "events", row_contents(evidence.events))
    known = [entry for entry in evidence.entries if set(_fields(entry)) <= set(FIELDS)]
    if len(known) < len(evidence.entries):
        findings.append(
            Finding(FILES["steps"], "was recorded by a later version of clac_jax, with more values")
        )
        return findings
    return findings + _check_file(evidence, "steps", step_contents(evidence.steps))


def covered(evidence: Evidence, name: str) -> int:
    """Number of rows of a file ("rows", "steps" or "events") that the records cover."""
    return max((int(entry.record[name]["to"]) for entry in evidence.entries), default=0)


def _check_file(evidence: Evidence, name: str, contents: Sequence[bytes]) -> list[Finding]:
    if FILES[name] in evidence.unread:
        return []
    wrong = [entry for entry in evidence.entries if not _fits(evidence, entry, name, contents)]
    count = covered(evidence, name)
    has_ended = evidence.entries[-1].kind == END  # then the run has written nothing after that
    if not wrong and not (has_ended and len(contents) > count):
        return []
    if count and not (evidence.folder / FILES[name]).exists():
        return [Finding(FILES[name], "is missing")]
    expected = [mark for entry in evidence.entries for mark in _marks(entry, name)]
    places = []
    if len(expected) == count:
        places = differing(expected, [mark_of(content) for content in contents], has_ended)
    elif not wrong:
        places = [("added", number) for number in range(count, len(contents))]
    findings = [_finding(evidence, name, kind, number) for kind, number in places[:SHOWN]]
    if len(places) > SHOWN:
        findings.append(Finding(FILES[name], f"{len(places) - SHOWN} more rows differ"))
    if not findings:
        first, last = wrong[0].record[name]["from"] + 1, wrong[0].record[name]["to"]
        findings = [Finding(FILES[name], f"rows {first:,} to {last:,} are not those of the chain")]
    return findings


def _fits(evidence: Evidence, entry: Entry, name: str, contents: Sequence[bytes]) -> bool:
    portion = entry.record[name]
    first, last = portion["from"], portion["to"]
    if not 0 <= first <= last <= len(contents):
        return False
    own, fields = contents[first:last], _fields(entry)
    if name == "steps" and fields != FIELDS:
        own = step_contents(evidence.steps[first:last], fields)
    return bool(Portion(first, own).to_json()["sha256"] == portion["sha256"])


def _fields(entry: Entry) -> tuple[str, ...]:
    return tuple(entry.record["steps"].get("fields", FIELDS))


def _marks(entry: Entry, name: str) -> list[str]:
    text = entry.marks.get(name, "")
    return [text[k : k + MARK_DIGITS] for k in range(0, len(text), MARK_DIGITS)]


def differing(
    expected: Sequence[str], actual: Sequence[str], has_ended: bool = False
) -> list[tuple[str, int]]:
    """The places where two lists of marks differ.

    Args:
        expected: the marks of the rows as recorded.
        actual: those of the rows as they are.
        has_ended: whether no rows may follow that were recorded later.

    Returns:
        ("changed" or "added", number of the row as it is, from 0) or ("missing", its number as
        recorded), in this order.
    """
    start = 0
    while start < min(len(expected), len(actual)) and expected[start] == actual[start]:
        start += 1
    left = expected[start : start + _WINDOW]
    right = actual[start : start + _WINDOW]
    places: list[tuple[str, int]] = []
    matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)
    for kind, a, a_end, b, b_end in matcher.get_opcodes():
        if kind == "equal":
            continue
        common = min(a_end - a, b_end - b)
        places += [("changed", start + b + k) for k in range(common)]
        places += [("missing", start + k) for k in range(a + common, a_end)]
        is_tail = b_end == len(right) and a_end == len(left)
        is_end = has_ended and start + len(left) == len(expected)
        if is_end or not is_tail:  # rows after the last record are not covered
            places += [("added", start + k) for k in range(b + common, b_end)]
    return places


def _finding(evidence: Evidence, name: str, kind: str, number: int) -> Finding:
    unit = "record" if name == "steps" else "line"
    where = f"{FILES[name]}, {unit} {number + 1:,}"
    if kind == "missing":
        return Finding(where, "is missing")
    label, keys = _DESCRIBED[name](evidence, number)
    what = "was changed" if kind == "changed" else "was not written by the run"
    return Finding(f"{where} ({label})", f"{what}{': ' + keys if keys else ''}")


def _row(evidence: Evidence, number: int) -> tuple[str, str]:
    row = evidence.rows[number]
    label = f"{row['split']} row of step {row['step']:,}"
    other: Mapping[str, Any] = {}
    if row["split"] == "train":
        found = evidence.steps[evidence.steps["step"] == row["step"]]
        if len(found):
            names = ("loss", "grad_norm", "learning_rate")
            other = {key: float(found[-1][key]) for key in names if key in row}
        return label, _unlike({key: _single(row[key]) for key in other}, other, "steps.journal")
    if row["split"] == "val":
        other = _saved_metrics(evidence, int(row["step"]))
        return label, _unlike({key: row.get(key) for key in other}, other, "the chain")
    return label, ""


def _step(evidence: Evidence, number: int) -> tuple[str, str]:
    record = evidence.steps[number]
    step = int(record["step"])
    rows = [row for row in evidence.rows if row["split"] == "train" and row["step"] == step]
    names = ("loss", "grad_norm", "learning_rate")
    other = {key: _single(rows[-1][key]) for key in names if rows and key in rows[-1]}
    own = {key: float(record[key]) for key in other}
    return f"step {step:,}", _unlike(own, other, "metrics.jsonl")


def _event(evidence: Evidence, number: int) -> tuple[str, str]:
    event = evidence.events[number]
    label = f"{event['event']} number {event['start']} at step {event['step']:,}"
    for entry in evidence.records:
        if entry.record.get("start") != event["start"] or "config" not in event:
            continue
        keys = [
            name
            for name in ("source", "commit", "versions", "devices")
            if name in entry.record and entry.record[name] != event.get(name)
        ]
        config = evidence.changed_keys(event["config"], entry.record["config"])
        return label, ", ".join([*keys, *([config] if config else [])])
    return label, ""


_DESCRIBED: Mapping[str, Callable[[Evidence, int], tuple[str, str]]] = {
    "rows": _row,
    "steps": _step,
    "events": _event,
}


def _saved_metrics(evidence: Evidence, step: int) -> Mapping[str, Any]:
    for entry in evidence.records:
        if entry.kind == CHECKPOINT and entry.step == step and entry.record.get("metrics"):
            metrics: Mapping[str, Any] = entry.record["metrics"]
            return metrics
    return {}


def _single(value: Any) -> float:
    """A value in single precision, as a journal has it."""
    return float(np.float32(value)) if isinstance(value, int | float) else float("nan")


def _unlike(own: Mapping[str, Any], other: Mapping[str, Any], place: str) -> str:
    pairs = [
        f"{key} is {own[key]!r:.24} and in {place} {other[key]!r:.24}"
        for key in other
        if own[key] != other[key]
    ]
    return ", ".join(pairs)
