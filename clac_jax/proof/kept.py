"""The files that keep a proof: `proofs.jsonl` of a run, and the signature of its chain."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clac_jax.chain.record import CHAIN_FILE, Entry, read_chain
from clac_jax.files.atomic import check_writable, write_atomically
from clac_jax.files.paths import local_path
from clac_jax.proof.errors import ProofError
from clac_jax.proof.proof import Proof, where_made
from clac_jax.proof.signature import SIGNATURE_FILE, Signature, sign
from clac_jax.stores.outputs import check_output
from clac_jax.stores.store import open_store
from clac_jax.stores.url import is_url

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
    )

PROOFS_FILE = "proofs.jsonl"


def keep(proof: Proof, folder: Path) -> None:
    """Adds a proof to `proofs.jsonl` of its run, for `clac-jax publish`.

    Args:
        proof: a proof of the run.
        folder: its workdir, or the copy of one in a bucket.

    Raises:
        WorkdirError, StoreError: it cannot be written.
    """
    values = {**proof.to_json(), "at": round(time.time(), 3), "where": where_made()}
    lines = [*read_proofs(folder), values]
    content = "".join(json.dumps(line) + "\n" for line in lines)
    _put(proof.run, folder, PROOFS_FILE, content)


def read_proofs(folder: Path) -> list[Mapping[str, Any]]:
    """The proofs that were kept of a run; lines that are not proofs are left out."""
    path = folder / PROOFS_FILE
    found: list[Mapping[str, Any]] = []
    for line in path.read_bytes().split(b"\n") if path.is_file() else []:
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(values, dict) and isinstance(values.get("digest"), str):
            found.append(values)
    return found


def sign_run(run: str, folder: Path, private_key: Ed25519PrivateKey) -> Signature:
    """Signs the last record of a run, and writes the signature next to its chain.

    Args:
        run: the run, as named by the user.
        folder: its workdir, or the copy of one in a bucket.
        private_key: the key.

    Raises:
        ProofError: the run has no chain.
        WorkdirError, StoreError: the signature cannot be written.
    """
    entries: list[Entry] = read_chain(folder / CHAIN_FILE)
    if not entries:
        raise ProofError(f"{run} has no {CHAIN_FILE}, so there is nothing to sign.")
    signature = sign(entries[-1].digest, entries[-1].step, private_key)
    _put(run, folder, SIGNATURE_FILE, json.dumps(signature.to_json(), indent=1) + "\n")
    return signature


def check_keepable(run: str) -> None:
    """Checks, before the run is examined, that a file can be added to it.

    Raises:
        WorkdirError, StoreError: it cannot.
    """
    if is_url(run):
        check_output(run.strip().rstrip("/"))
    else:
        check_writable(local_path(run, "RUN"))


def _put(run: str, folder: Path, name: str, content: str) -> None:
    """Writes a file of a run: into its workdir, or into the bucket and its copy."""
    if is_url(run):
        open_store(run.strip().rstrip("/")).put(name, content.encode())
    write_atomically(folder / name, content)
