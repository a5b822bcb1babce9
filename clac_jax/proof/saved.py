"""Whether the checkpoints of a run are those of its chain: every byte, array and description."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from clac_jax.chain.record import Entry, array_hash, digest_of, joined_hash, new_entry
from clac_jax.checkpoint import inspect
from clac_jax.checkpoint.arrays import read_arrays
from clac_jax.checkpoint.damage import DamagedCheckpointError
from clac_jax.checkpoint.layout import CheckpointInfo, Leaf
from clac_jax.checkpoint.lineage import arrays_digest
from clac_jax.digests.digest import until_saved
from clac_jax.digests.host import state_digests
from clac_jax.errors import one_line, shown
from clac_jax.journal.record import StepRecord
from clac_jax.proof.evidence import Evidence, Finding

SHOWN = 5


def check_saved(evidence: Evidence) -> list[Finding]:
    """Compares every checkpoint with its checksums, its record and the journal."""
    findings = [
        Finding(f"checkpoints/{step}", f"is damaged: {one_line(error)}")
        for step, error in evidence.damaged.items()
    ]
    for step, info in evidence.checkpoints.items():
        damage = inspect.verify(info.folder)
        if not info.folder.exists():  # removed by the run in the meantime
            continue
        if damage:
            findings.append(Finding(f"checkpoints/{step}", f"is damaged: {damage}"))
            continue
        entry, unlike = _record_of(evidence, info)
        findings += unlike
        findings += _check_description(evidence, info, entry) if entry else []
        findings += _check_arrays(evidence, info)
    return findings


def _record_of(evidence: Evidence, info: CheckpointInfo) -> tuple[Entry | None, list[Finding]]:
    """The record in the chain of a checkpoint, and how it differs from that in the checkpoint."""
    where, entries = f"checkpoints/{info.step}", evidence.records
    if info.record is None:
        first = min((entry.step for entry in entries), default=None)
        if first is None or info.step < first or _is_origin(evidence, info.step):
            return None, []  # saved by an earlier version
        return None, [Finding(where, "has no record, but the chain starts before it")]
    own = new_entry(info.record)
    for entry in entries:
        if entry.digest == own.digest:
            return entry, []
    same = [entry for entry in entries if entry.step == info.step]
    if not same:
        last = max((entry.step for entry in entries), default=None)
        if last is None:
            what = "has a record, and chain.jsonl has none: the file was removed or emptied"
        elif info.step > last:
            what = "its record is missing in chain.jsonl, whose end was cut off"
        else:
            what = "its record is not in chain.jsonl: the checkpoint is of another run, or the "
            what += "record was removed"
        return None, [Finding(where, what)]
    entry = same[-1]
    keys = [
        key
        for key in sorted(info.record.keys() | entry.record.keys())
        if info.record.get(key) != entry.record.get(key)
    ]
    what = f"is not the checkpoint in line {entry.line} of chain.jsonl: {', '.join(keys)} differ"
    return entry, [Finding(where, what)]


def _is_origin(evidence: Evidence, step: int) -> bool:
    """Whether the chain begins at this checkpoint because it had no record."""
    origin = (evidence.entries[0].record.get("origin") or {}) if evidence.entries else {}
    return "step" in origin and origin.get("run") is None and step <= int(origin["step"])


def _check_description(evidence: Evidence, info: CheckpointInfo, entry: Entry) -> list[Finding]:
    record, raw = entry.record, evidence.described[info.step]
    where = f"checkpoints/{info.step}/run/metadata"
    findings = []
    if digest_of(raw["config"]) != record.get("config"):
        keys = evidence.changed_keys(raw["config"], str(record.get("config")))
        findings.append(Finding(f"{where}, config", f"was changed: {keys}"))
    for key in ("progress", "metrics", "data", "digests"):
        if raw.get(key) != record.get(key):
            names = _names(raw.get(key), record.get(key))
            findings.append(Finding(f"{where}, {key}", f"was changed: {names}"))
    if arrays_digest(info) != record.get("arrays"):
        findings.append(
            Finding(f"{where}, leaves", "the SHA-256 of its arrays are not those of the chain")
        )
    return findings


def _check_arrays(evidence: Evidence, info: CheckpointInfo) -> list[Finding]:
    """Compares the arrays with their hashes, and their digests with those of the journal."""
    where = f"checkpoints/{info.step}"
    try:
        arrays = read_arrays(info, info.leaves)
    except DamagedCheckpointError as error:
        return [Finding(where, f"is damaged: {shown(error.path)} {error.what}")]
    wrong = [
        path
        for path, leaf in info.leaves.items()
        if leaf.sha256 and hash_in_pieces(arrays[path], leaf) != leaf.sha256
    ]
    findings = [
        Finding(f"{where}, array {path}", "was changed: its SHA-256 is not the recorded one")
        for path in wrong[:SHOWN]
    ]
    if len(wrong) > SHOWN:
        findings.append(Finding(where, f"{len(wrong) - SHOWN} more arrays were changed"))
    found = evidence.steps[evidence.steps["step"] == info.step]
    if not len(found):
        return findings
    recorded = StepRecord.from_row(found[-1]).digests
    for part, digest in until_saved(state_digests(arrays)).items():
        if recorded.get(part, digest) != digest:
            what = f"digest {digest}, and {recorded[part]} in steps.journal after this step"
            findings.append(Finding(f"{where}, {part}", what))
    return findings


def hash_in_pieces(array: np.ndarray, leaf: Leaf) -> str:
    """The hash of an array, from its pieces as it was saved."""
    count = len(leaf.checksums)
    regions = [leaf.grid.region(number) for number in range(count)]
    return joined_hash([array_hash(array[region] if count > 1 else array) for region in regions])


def _names(own: Any, recorded: Any) -> str:
    if not (isinstance(own, Mapping) and isinstance(recorded, Mapping)):
        return f"is {own!r:.40} and was {recorded!r:.40}"
    pairs = [
        f"{key} is {own.get(key)!r:.24} and was {recorded.get(key)!r:.24}"
        for key in sorted(own.keys() | recorded.keys())
        if own.get(key) != recorded.get(key)
    ]
    return ", ".join(pairs)
