"""The proof of a run: what was checked, what was found, what was computed again."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clac_jax.chain.record import CHAIN_FILE, END, Entry
from clac_jax.errors import UserError, one_line
from clac_jax.journal.journal_file import START, STARTS_FILE
from clac_jax.proof.data_rows import check_data, check_row_digests, note_on_row_digests
from clac_jax.proof.errors import ProofError
from clac_jax.proof.evidence import Evidence, Finding, gather
from clac_jax.proof.links import check_links
from clac_jax.proof.other_files import check_config, check_end
from clac_jax.proof.rows import check_rows, covered
from clac_jax.proof.saved import check_saved
from clac_jax.proof.segments import Limits, Segment, Stretch, choose, recompute, stretches
from clac_jax.proof.signature import SIGNATURE_FILE, Signature, read_signature

if TYPE_CHECKING:
    from clac_jax.replay.history import History

Say = Callable[[str], None]


@dataclass(frozen=True)
class Proof:
    """The result of examining a run.

    Attributes:
        run: its name.
        entries: its chain.
        findings: what is not as it was recorded.
        counts: what was compared, by name: rows, steps, events, checkpoints, examples.
        segments: what was computed again.
        notes: what could not be computed again, and why.
        signature: the valid signature of one of its records; None without one.
        uncovered: number of rows, steps and starts after the last record, by name.
        has_lost_chain: whether the chain is missing although a checkpoint refers to it.
        seconds: time that it took.
    """

    run: str
    entries: Sequence[Entry]
    findings: Sequence[Finding]
    counts: Mapping[str, int]
    segments: Sequence[Segment] = ()
    notes: Sequence[str] = ()
    signature: Signature | None = None
    uncovered: Mapping[str, int] = field(default_factory=dict)
    has_lost_chain: bool = False
    seconds: float = field(default=0.0, compare=False)

    @property
    def is_proven(self) -> bool:
        """Whether the chain is complete, nothing was found, and what was recomputed agrees."""
        return bool(self.entries) and not self.findings and all(s.agrees for s in self.segments)

    @property
    def digest(self) -> str:
        """The digest of the last record; "" without a chain."""
        return self.entries[-1].digest if self.entries else ""

    def lines(self) -> list[str]:
        """The result in words."""
        lines = [self._chain_line(), self._files_line()]
        lines += [f"steps     {each.steps} recomputed: {each.words}" for each in self._unequal()]
        if equal := [each.steps for each in self.segments if each.is_equal]:
            lines.append(f"steps     {', '.join(equal)} recomputed: equal")
        lines += [f"note      {note}" for note in self.notes]
        if any(self.uncovered.values()):
            words = ", ".join(_counted(self.uncovered))
            lines.append(f"          {words} after the last record: not covered")
        if self.signature:
            at = f" (up to step {self.signature.step:,})"
            signed = "the last record" if self.signature.record == self.digest else "a record"
            lines.append(f"signature by {self.signature.key_name} of {signed}{at}: valid")
        lines += [f"FOUND     {finding.words}" for finding in self.findings]
        return [*lines, self._verdict()]

    def _unequal(self) -> list[Segment]:
        return [each for each in self.segments if not each.is_equal]

    def _chain_line(self) -> str:
        if not self.entries:
            why = "this run was made by an earlier version of clac_jax, which wrote none"
            if self.has_lost_chain:
                why = "the checkpoints have records of one, so it was removed or emptied"
            return f"chain     none in {CHAIN_FILE}: {why}"
        first, last = self.entries[0], self.entries[-1]
        origin = first.record.get("origin") or {}
        begins = ""
        if origin.get("run"):
            begins = f", from {origin['run']} (step {origin['step']:,})"
        elif origin:
            begins = f", which starts at step {origin['step']:,}: no record is older"
        ended = ", ended" if last.kind == END else ""
        return (
            f"chain     {len(self.entries)} records, steps {first.step:,} to {last.step:,}{ended}"
            f"{begins}; last {self.digest[:16]}"
        )

    def _files_line(self) -> str:
        return f"compared  {', '.join(_counted(self.counts))} ({self.seconds:.0f} s)"

    def _verdict(self) -> str:
        if self.has_lost_chain:
            return f"NOT PROVEN: put {CHAIN_FILE} back from a copy of the run, and try again."
        if not self.entries:
            result = "see above" if self.findings else "intact"
            return (
                "NOT PROVEN: without a chain, nothing shows that checkpoints and files belong "
                f"together. Their checksums and digests were compared: {result}. If the run is "
                "resumed and does further steps, a chain begins at the checkpoint from which it "
                "resumes; a proof from the first step on needs a new run."
            )
        if not self.is_proven:
            return f"NOT PROVEN: {self.run} is not as it was recorded."
        if any(not each.is_equal for each in self.segments):
            return "proven, up to rounding: see above why the bits may differ here."
        if not self.segments:
            return "intact: everything is as it was recorded; no step was computed again."
        return "proven."

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "run": self.run,
            "proven": self.is_proven,
            "records": len(self.entries),
            "digest": self.digest,
            "step": self.entries[-1].step if self.entries else None,
            "compared": dict(self.counts),
            "findings": [{"where": each.where, "what": each.what} for each in self.findings],
            "segments": [each.to_json() for each in self.segments],
            "notes": list(self.notes),
            "signature": self.signature.to_json() if self.signature else None,
            **{f"uncovered_{name}": number for name, number in self.uncovered.items()},
            "seconds": round(self.seconds, 3),
        }


def prove(run: str, limits: Limits, public_key: bytes | None = None, say: Say = print) -> Proof:
    """Examines a run; nothing in its workdir is changed.

    Args:
        run: its workdir: a folder, or a URL in a bucket.
        limits: how much is computed again.
        public_key: the key that must have signed it; None: any, or none.
        say: receives a line on what is being done.

    Raises:
        UserError: the run cannot be read.
    """
    from clac_jax.replay.history import folder_of

    began = time.monotonic()
    evidence = gather(folder_of(run))
    if not (evidence.checkpoints or evidence.damaged or evidence.rows or evidence.entries):
        raise ProofError(
            f"{run} holds no checkpoint, no row of metrics and no chain: it is not a run. Name the "
            "workdir of a run, or a folder made by `clac-jax publish`."
        )
    signature, unlike = check_signature(evidence, public_key)  # first: the library may be missing
    plan = _plan(run, evidence, limits)  # before an array is read, which starts JAX
    say(f"comparing {len(evidence.checkpoints)} checkpoints")
    findings = [*compare_files(evidence), *unlike]
    say("comparing the data")
    rows: Mapping[str, int] = {}
    try:
        wrong, rows = check_data(evidence, run)
        findings += wrong
    except UserError as error:
        findings.append(Finding("the data", f"cannot be compared: {one_line(error, 400)}"))
    segments, unlike = _computed(plan, limits, say)
    uncovered = _uncovered(evidence)
    found = {
        "rows": len(evidence.rows),
        "steps": len(evidence.steps),
        "starts": len(evidence.starts),
    }
    return Proof(
        run=run,
        entries=evidence.entries,
        findings=[*findings, *plan.findings, *unlike],
        counts={
            **{name: number - uncovered[name] for name, number in found.items()},
            "checkpoints": len(evidence.checkpoints) + len(evidence.damaged),
            "examples": sum(rows.values()),
        },
        segments=segments,
        notes=[*note_on_row_digests(evidence), *plan.notes],
        signature=signature,
        uncovered=uncovered,
        has_lost_chain=not evidence.entries
        and any(info.record is not None for info in evidence.checkpoints.values()),
        seconds=time.monotonic() - began,
    )


def compare_files(evidence: Evidence) -> list[Finding]:
    """Compares the files of a run with its chain; `prove` also compares its data and steps."""
    findings = list(evidence.findings)
    if evidence.entries:
        rows_differ = check_rows(evidence)
        findings += check_links(evidence.entries) + rows_differ
        findings += check_config(evidence, any(STARTS_FILE in f.where for f in rows_differ))
        findings += check_end(evidence)
    return findings + check_row_digests(evidence) + check_saved(evidence)


def check_signature(
    evidence: Evidence, public_key: bytes | None
) -> tuple[Signature | None, list[Finding]]:
    """The signature of a run if it is valid, and what is wrong with it otherwise.

    Args:
        evidence: the files of the run.
        public_key: the key that must have signed it; None: any.

    Raises:
        ProofError: the file is not a signature.
    """
    signature = read_signature(evidence.folder / SIGNATURE_FILE)
    return judge_signature(signature, {e.digest for e in evidence.entries}, public_key)


def judge_signature(
    signature: Signature | None, digests: set[str], public_key: bytes | None
) -> tuple[Signature | None, list[Finding]]:
    """The signature if it is valid and of one of some records; otherwise what is wrong with it."""
    from clac_jax.proof.signature import fingerprint

    if signature is None:
        if public_key is None:
            return None, []
        return None, [Finding(SIGNATURE_FILE, "does not exist: the run is not signed")]
    if not signature.is_valid():
        return None, [Finding(SIGNATURE_FILE, "is not valid: the key has not signed this record")]
    if public_key is not None and public_key != signature.public_key:
        what = f"is by {signature.key_name}, not by {fingerprint(public_key)}"
        return None, [Finding(SIGNATURE_FILE, what)]
    if signature.record not in digests:
        what = f"the signed record of step {signature.step:,} is not in the chain any more"
        return None, [Finding(SIGNATURE_FILE, what)]
    return signature, []


@dataclass(frozen=True)
class _Plan:
    """Stretches of a history to be computed again; see `Proof` for the notes and findings."""

    history: History | None = None
    chosen: Sequence[Stretch] = ()
    notes: Sequence[str] = ()
    findings: Sequence[Finding] = ()


def _plan(run: str, evidence: Evidence, limits: Limits) -> _Plan:
    """Chooses stretches, and prepares the devices for them."""
    from clac_jax.replay.devices import prepare_devices
    from clac_jax.replay.history import read_history
    from clac_jax.replay.parent_run import origin_of

    if not limits.segments:
        return _Plan()
    notes, can_begin = [], False
    try:
        history = read_history(run)
        try:
            can_begin = origin_of(history) is not None
        except UserError as error:  # the other run may have been removed, this one is as it was
            why = one_line(error, 400)
            notes.append(f"the first steps, to the first checkpoint, cannot be computed: {why}")
        last = evidence.entries[-1].step if evidence.entries else history.last_step
        chosen = choose(stretches(history, last, can_begin), limits)
        if chosen:
            prepare_devices(history, chosen[0].first)
    except UserError as error:
        return _Plan(notes=notes, findings=[_impossible(error)])
    return _Plan(history, chosen, notes)


def _computed(plan: _Plan, limits: Limits, say: Say) -> tuple[list[Segment], list[Finding]]:
    from clac_jax.replay.replayer import Replayer

    if plan.history is None or not plan.chosen:
        return [], []
    try:
        with tempfile.TemporaryDirectory(prefix="clac_jax_prove_") as scratch:
            segments = recompute(Replayer(plan.history, Path(scratch), say), plan.chosen, limits)
    except UserError as error:
        return [], [_impossible(error)]
    findings = [Finding(f"steps {each.steps}", each.words) for each in segments if not each.agrees]
    return segments, findings


def _impossible(error: UserError) -> Finding:
    return Finding("recomputing", f"is not possible: {one_line(error, 400)}")


def _uncovered(evidence: Evidence) -> dict[str, int]:
    """Number of rows, steps and starts after the last record."""
    if not evidence.entries:
        return {"rows": 0, "steps": 0, "starts": 0}
    later = evidence.events[covered(evidence, "events") :]
    return {
        "rows": max(0, len(evidence.rows) - covered(evidence, "rows")),
        "steps": max(0, len(evidence.steps) - covered(evidence, "steps")),
        "starts": sum(event["event"] == START for event in later),
    }


def _counted(numbers: Mapping[str, int]) -> list[str]:
    return [
        f"{number:,} {name if number > 1 else name.removesuffix('s')}"
        for name, number in numbers.items()
        if number
    ]


def where_made() -> dict[str, Any]:
    """This machine, as a kept proof names it."""
    from clac_jax.replay.devices import devices_here
    from clac_jax.reporting.start_facts import cpu_model

    return {"devices": devices_here(), "cpu": cpu_model(), "system": platform.platform()}
