"""`proof.json` of a published model: the chain of its run, and what was computed again where.

The model is checked against it: the SHA-256 of each array, under the digest in the chain.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clac_jax.chain.record import CHAIN_FILE, Entry, array_hash, digest_of, entry_of, read_chain
from clac_jax.checkpoint.export import CONFIG_FILE, read_export
from clac_jax.checkpoint.files import read_json
from clac_jax.checkpoint.layout import CHECKPOINTS, RUN_FILE, CheckpointInfo
from clac_jax.config.renamed import upgraded
from clac_jax.config.schema import differences
from clac_jax.errors import UserError, one_line
from clac_jax.files.json import read_json_object
from clac_jax.inference.published import verify
from clac_jax.proof.errors import ProofError
from clac_jax.proof.evidence import Finding
from clac_jax.proof.kept import read_proofs
from clac_jax.proof.links import check_links
from clac_jax.proof.proof import Proof, judge_signature
from clac_jax.proof.signature import SIGNATURE_FILE, Signature, read_signature

PROOF_FILE = "proof.json"
_FORMAT = 1
_SHOWN = 5


@dataclass(frozen=True)
class PublishedProof:
    """The proof of a run, as carried by a model that was published from it.

    Attributes:
        entries: the chain of its run, up to the newest record.
        record: the digest of the record of the published checkpoint.
        hashes: slash path -> SHA-256 of every array of the checkpoint.
        config: the nested config of the checkpoint, as saved.
        signature: that of the run; None without one.
        proofs: the proofs that were kept of the run, oldest first.
    """

    entries: Sequence[Entry]
    record: str
    hashes: Mapping[str, str]
    config: Mapping[str, Any]
    signature: Signature | None
    proofs: Sequence[Mapping[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "format": _FORMAT,
            "record": self.record,
            "chain": [{"sha256": each.stated, "record": each.record} for each in self.entries],
            "arrays": dict(self.hashes),
            "config": self.config,
            "signature": self.signature.to_json() if self.signature else None,
            "proofs": list(self.proofs),
        }

    def section(self) -> str:
        """The section of a model card."""
        last = self.entries[-1]
        first = self.entries[0].record.get("origin") or {}
        begins = (
            f"; it begins from {first['run']}, step {first['step']:,}" if first.get("run") else ""
        )
        lines = [
            "## Proof",
            "",
            f"- Chain: {len(self.entries)} records up to step {last.step:,}, SHA-256 of the last "
            f"`{last.digest}`{begins}",
            f"- This checkpoint: record `{self.record}`",
        ]
        lines += [f"- {_described(proof)}" for proof in self.proofs]
        if self.signature:
            lines.append(f"- Signed by `{self.signature.key_name}` (Ed25519)")
        lines.append(
            "- Check this folder with `clac-jax prove FOLDER`; the chain is in `proof.json`"
        )
        return "\n".join(lines)


def proof_of(info: CheckpointInfo) -> PublishedProof | None:
    """The proof for a model published from a checkpoint; None if its run has no chain.

    Raises:
        UserError: a file of the run cannot be read.
    """
    if info.record is None or Path(info.folder).parent.name != CHECKPOINTS:
        return None
    run = Path(info.folder).parent.parent
    entries = read_chain(run / CHAIN_FILE)
    record = digest_of(json.loads(json.dumps(info.record)))
    digests = {entry.digest for entry in entries}
    if record not in digests:
        return None
    signature = read_signature(run / SIGNATURE_FILE)
    if signature is not None and signature.record not in digests:
        signature = None
    return PublishedProof(
        entries=entries,
        record=record,
        hashes={path: leaf.sha256 for path, leaf in info.leaves.items()},
        config=read_json(info.folder / RUN_FILE)["config"],
        signature=signature,
        proofs=[each for each in read_proofs(run) if each["digest"] in digests],
    )


def read_proof(folder: Path) -> PublishedProof:
    """The proof in a published folder.

    Raises:
        ProofError: there is none, or it is damaged.
    """
    path = folder / PROOF_FILE
    if not path.exists():
        raise ProofError(
            f"{folder} has no {PROOF_FILE}: the run that it was published from has no chain. "
            "Publish a checkpoint of a run that was made by this version."
        )
    try:
        values = read_json_object(path)
        if values["format"] != _FORMAT:
            raise ValueError(f"it has format {values['format']!r:.20}")
        signature = values["signature"]
        return PublishedProof(
            entries=[entry_of(each, line) for line, each in enumerate(values["chain"], start=1)],
            record=str(values["record"]),
            hashes={str(name): str(text) for name, text in values["arrays"].items()},
            config=dict(values["config"]),
            signature=None if signature is None else Signature.from_json(signature, str(path)),
            proofs=list(values["proofs"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProofError(
            f"{path} is not the proof of a run ({one_line(error, 80)}). Publish or download it "
            "again."
        ) from error


def prove_published(folder: Path, public_key: bytes | None = None) -> Proof:
    """Checks that a published model is a checkpoint in the chain that it carries.

    Args:
        folder: the folder.
        public_key: the key that must have signed it; None: any, or none.

    Raises:
        ProofError: it carries no proof.
        UserError: a file cannot be read.
    """
    began = time.monotonic()
    proof = read_proof(folder)
    findings: list[Finding] = []
    try:
        verify(folder)
    except UserError as error:
        findings.append(Finding(str(folder), one_line(error, 400)))
    findings += check_links(proof.entries)
    arrays = read_export(folder)[2]
    own = next((entry for entry in proof.entries if entry.digest == proof.record), None)
    if own is None:
        findings.append(Finding(PROOF_FILE, "has no record of the published checkpoint"))
    else:
        if digest_of(proof.hashes) != own.record.get("arrays"):
            what = "the SHA-256 of the arrays are not those of the record"
            findings.append(Finding(f"{PROOF_FILE}, arrays", what))
        if digest_of(proof.config) != own.record.get("config"):
            findings.append(Finding(f"{PROOF_FILE}, config", "is not that of the record"))
    upgraded_config = upgraded(dict(proof.config))[0]
    changes = differences(upgraded_config, read_json_object(folder / CONFIG_FILE))
    findings += [
        Finding(f"{CONFIG_FILE}, {key}", f"is {new!r:.40} and was {old!r:.40}")
        for key, old, new in changes[:_SHOWN]
    ]
    wrong = [path for path, array in arrays.items() if array_hash(array) != proof.hashes.get(path)]
    findings += [
        Finding(f"model.safetensors, array {path}", "is not that of the checkpoint")
        for path in wrong[:_SHOWN]
    ]
    signature, unlike = judge_signature(
        proof.signature, {entry.digest for entry in proof.entries}, public_key
    )
    return Proof(
        run=str(folder),
        entries=proof.entries,
        findings=[*findings, *unlike],
        counts={"arrays": len(arrays)},
        signature=signature,
        seconds=time.monotonic() - began,
    )


def _described(proof: Mapping[str, Any]) -> str:
    """A kept proof in words."""
    segments = proof.get("segments") or []
    equal = [f"{each['first']}-{each['last']}" for each in segments if each["bit_for_bit"]]
    close = [f"{each['first']}-{each['last']}" for each in segments if not each["bit_for_bit"]]
    where = proof.get("where") or {}
    words = [f"steps {', '.join(equal)} recomputed: equal"] if equal else []
    words += [f"steps {', '.join(close)} recomputed: not bit for bit"] if close else []
    words += [] if segments else ["all files compared, no step recomputed"]
    verdict = "proven" if proof.get("proven") else "NOT proven"
    return f"{'; '.join(words)}; {verdict} (on {where.get('cpu', 'unknown')})"
