"""Whether config.json, the starts and the end of a run agree with its chain."""

from __future__ import annotations

from clac_jax.chain.chain_file import FINISHED_FILE, REPORT_FILE, file_hash
from clac_jax.chain.record import CHAIN_FILE, END, digest_of
from clac_jax.proof.evidence import CONFIG_FILE, Evidence, Finding


def check_config(evidence: Evidence, starts_differ: bool = False) -> list[Finding]:
    """Compares config.json with the newest start, and the config of each start with its records.

    Args:
        evidence: the files of the run.
        starts_differ: whether it is known that starts.jsonl is not as it was recorded.
    """
    findings = []
    starts = {start["start"]: start for start in evidence.starts}
    for number in sorted(starts) if not starts_differ else ():
        own = [e for e in evidence.records if e.record.get("start") == number]
        config = starts[number].get("config")
        if own and digest_of(config) != own[0].record.get("config"):
            keys = evidence.changed_keys(config, str(own[0].record.get("config")))
            where = f"starts.jsonl, config of start {number}"
            findings.append(Finding(where, f"was changed: {keys}"))
    if evidence.config is None or not starts:
        return findings
    newest = starts[max(starts)].get("config")
    recorded = [
        e.record.get("config") for e in evidence.records if e.record["start"] == max(starts)
    ]
    expected = recorded[0] if recorded else digest_of(newest)
    if digest_of(evidence.config) != expected:
        keys = evidence.changed_keys(evidence.config, str(expected))
        findings.append(Finding(CONFIG_FILE, f"was changed: {keys}"))
    return findings


def check_end(evidence: Evidence) -> list[Finding]:
    """Compares report.png and finished.json with the record of the end."""
    last = evidence.entries[-1] if evidence.entries else None
    if last is None:
        return []
    if last.kind != END:
        if not any(row["split"] == "test" for row in evidence.rows):
            return []
        what = (
            "has no record of the end, but metrics.jsonl has a test row: its end was cut off, or "
        )
        what += "the run was killed as it drew its report (start it again)"
        return [Finding(CHAIN_FILE, what)]
    findings = []
    for name, key in ((REPORT_FILE, "report"), (FINISHED_FILE, "finished")):
        own, recorded = file_hash(evidence.folder / name), last.record.get(key)
        if own != recorded:
            what = "is missing" if own is None else "is not the file that the run has written"
            findings.append(Finding(name, what))
    return findings
