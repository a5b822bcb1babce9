"""Whether the records of a chain follow each other."""

from __future__ import annotations

from collections.abc import Sequence

from clac_jax.chain.record import CHAIN_FILE, END, PORTIONS, Entry
from clac_jax.proof.evidence import Finding


def place_of(entry: Entry) -> str:
    """The line of a record, for messages."""
    kind = "end, " if entry.kind == END else ""
    return f"{CHAIN_FILE}, line {entry.line} ({kind}step {entry.step:,})"


def check_links(entries: Sequence[Entry]) -> list[Finding]:
    """Compares each record with its digest, and with the parent that the next one names."""
    findings = [
        Finding(place_of(entry), "the record was changed: its SHA-256 is not the one of the line")
        for entry in entries
        if entry.digest != entry.stated
    ]
    by_digest = {digest: entry for entry in entries for digest in (entry.digest, entry.stated)}
    before: Entry | None = None
    for entry in entries:
        findings += _check_parent(entry, before, by_digest)
        if before is not None and before.kind == END:
            findings.append(Finding(place_of(before), "the end of the run is not the last record"))
        before = entry
    return findings


def _check_parent(entry: Entry, before: Entry | None, by_digest: dict[str, Entry]) -> list[Finding]:
    parent = entry.record["parent"]
    if before is None:
        if parent is None or entry.record.get("origin"):
            return []
        what = "the records before it are missing"
        if parent in by_digest:
            what = f"out of order: it follows the record in line {by_digest[parent].line}"
        return [Finding(place_of(entry), what)]
    if parent in (before.digest, before.stated):
        return _check_rows(entry, before)
    if parent in by_digest:
        line = by_digest[parent].line
        return [Finding(place_of(entry), f"out of order: it follows the record in line {line}")]
    if entry.record["rows"]["from"] == before.record["rows"]["to"] and (
        entry.record["steps"]["from"] == before.record["steps"]["to"]
    ):
        what = f"was replaced: line {entry.line} names another record as its parent"
        return [Finding(place_of(before), what)]
    return [
        Finding(
            place_of(entry),
            f"its parent is missing: a record after step {before.step:,} was removed or replaced",
        )
    ]


def _check_rows(entry: Entry, before: Entry) -> list[Finding]:
    return [
        Finding(
            place_of(entry),
            f"covers {name} from {entry.record[name]['from']:,}, and the record before it up to "
            f"{before.record[name]['to']:,}: rows were lost while the run did not run",
        )
        for name in PORTIONS
        if entry.record[name]["from"] != before.record[name]["to"]
    ]
