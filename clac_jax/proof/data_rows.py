"""Whether the data of a run are those that it was trained on; if not, which rows differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from clac_jax.chain.row_digests import ROW_DIGESTS_FILE, fingerprint_of, read_row_digests
from clac_jax.input_pipeline.splits import SPLITS, Splits
from clac_jax.proof.evidence import Evidence, Finding
from clac_jax.replay.setting import config_of

SHOWN = 5


def check_data(evidence: Evidence, run: str) -> tuple[list[Finding], dict[str, int]]:
    """Reads every row, and compares it with what the newest start of the run has recorded.

    Args:
        evidence: the files of the run.
        run: its name, for messages.

    Returns:
        What differs, and the number of rows of each split that was compared.

    Raises:
        UserError: the data cannot be read.
    """
    newest = evidence.starts[-1] if evidence.starts else {}
    recorded = newest.get("data") or (
        evidence.records[-1].record["data"] if evidence.records else {}
    )
    values = newest.get("config") or evidence.config
    if not recorded or not isinstance(values, dict):
        return [], {}
    config = config_of(values, run)
    splits = Splits(config.dataset, config.property.name if config.task == "property" else "")
    then = read_row_digests(evidence.folder)
    findings: list[Finding] = []
    for split in SPLITS:
        if split in recorded:
            findings += _check_split(splits, split, recorded[split], then)
    return findings, {split: splits.sizes[split] for split in SPLITS if split in recorded}


def check_row_digests(evidence: Evidence) -> list[Finding]:
    """Compares `data.digests`, if it exists, with the fingerprints that the run has recorded.

    Raises:
        WorkdirError: it cannot be read.
    """
    recorded = [event["data"] for event in evidence.starts if event.get("data")]
    recorded += [entry.record["data"] for entry in evidence.records if entry.record.get("data")]
    if not recorded or not (evidence.folder / ROW_DIGESTS_FILE).exists():
        return []
    then = {
        split: fingerprint_of(digests)
        for split, digests in read_row_digests(evidence.folder).items()
    }
    if then in recorded:
        return []
    newest = next((event["data"] for event in evidence.starts[::-1] if event.get("data")), None)
    expected = newest or recorded[-1]
    wrong = [split for split in expected if then.get(split) != expected[split]]
    which = f" in the {', '.join(wrong)} split{'s' * (len(wrong) != 1)}" if then and wrong else ""
    return [Finding(ROW_DIGESTS_FILE, f"is not the file that the run has written{which}")]


def note_on_row_digests(evidence: Evidence) -> list[str]:
    """A note if a run with a chain has lost `data.digests`."""
    if not evidence.entries or (evidence.folder / ROW_DIGESTS_FILE).exists():
        return []
    return [f"{ROW_DIGESTS_FILE} is missing: if a row of the data changes, it cannot be named"]


def _check_split(
    splits: Splits, split: str, recorded: str, then: Mapping[str, np.ndarray]
) -> list[Finding]:
    records: Any = splits[split]
    now = np.array([records[k].digest() for k in range(len(records))], np.uint64)
    if fingerprint_of(now) == recorded:
        return []
    where = f"the {split} split"
    if split not in then or fingerprint_of(then[split]) != recorded:
        what = f"its fingerprint was {recorded} and is {fingerprint_of(now)}; data.digests is not "
        return [Finding(where, f"{what}that of the run, so the rows cannot be named")]
    places = changed_rows(then[split], now)
    findings = [
        Finding(f"{where}, row {row + 1:,} ({records[row].material_id})", f"was {kind}")
        for kind, row in places[:SHOWN]
    ]
    missing = len(set(then[split].tolist()) - set(now.tolist()))
    if len(now) != len(then[split]):
        what = f"has {len(now):,} rows and had {len(then[split]):,}; {missing:,} of them are gone"
        findings.insert(0, Finding(where, what))
    if len(places) > SHOWN:
        findings.append(Finding(where, f"{len(places) - SHOWN:,} more rows were changed"))
    return findings


def changed_rows(then: np.ndarray, now: np.ndarray) -> list[tuple[str, int]]:
    """("changed", "added" or "moved", row) of each row that is not as it was.

    Args:
        then: (rows,) uint64, the digests of the rows as they were.
        now: those of the rows as they are.
    """
    known = set(then.tolist())
    added = [row for row, digest in enumerate(now.tolist()) if digest not in known]
    if added:
        kind = "changed" if len(now) == len(then) else "added"
        return [(kind, row) for row in added]
    common = min(len(now), len(then))
    return [("moved", row) for row in np.flatnonzero(now[:common] != then[:common]).tolist()]
