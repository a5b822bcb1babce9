"""`clac-jax prove`: whether a run is what it says."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from clac_jax.errors import UserError, shown
from clac_jax.files.paths import local_path
from clac_jax.stores.url import is_url

EXIT_NOT_PROVEN = 1


def add(group: argparse.ArgumentParser) -> None:
    """Adds the arguments of `prove`."""
    group.description = (
        "Check that a run is what it says: that its checkpoints follow each other in one chain "
        "from its first step, that every byte, array, row, config key and example is as it was "
        "recorded, and that random stretches of its steps give the same bits when they are "
        "computed again here. Nothing in the workdir is changed. Run it in the folder in which the "
        "run was started, since the paths in its config may be relative. Steps have the same bits "
        "on the number and kind of devices of the run (a CPU is divided), with the same versions "
        "of JAX and of clac_jax; elsewhere they are compared up to rounding. "
        "--segments 0 needs no devices. Exit code: 0 proven, 1 not."
    )
    group.add_argument(
        "run_folder",
        metavar="RUN",
        nargs="?",
        help="the workdir of a run, its URL, or a folder from `clac-jax publish`",
    )
    computed = group.add_argument_group("computed again")
    computed.add_argument(
        "--segments", type=int, default=1, metavar="K", help="stretches of steps (default: 1)"
    )
    computed.add_argument(
        "--steps",
        type=int,
        default=40,
        metavar="N",
        help="longest stretch; 0: up to the next checkpoint (default: 40)",
    )
    computed.add_argument(
        "--seed", type=int, metavar="S", help="choose the same stretches each time"
    )
    computed.add_argument(
        "--minutes", type=float, default=0.0, metavar="M", help="begin no further step after that"
    )
    computed.add_argument(
        "--tolerance",
        type=float,
        default=1e-3,
        metavar="X",
        help="largest relative difference that is put down to rounding, if the run was made on "
        "other devices or with other versions (default: 1e-3)",
    )
    signed = group.add_argument_group('signatures (pip install "clac-jax[sign]")')
    signed.add_argument(
        "--sign", metavar="KEY", help="then sign the chain with this private key, if it is proven"
    )
    signed.add_argument(
        "--public-key", metavar="FILE", help="require that the owner of this key has signed it"
    )
    signed.add_argument(
        "--new-key", metavar="FILE", help="make a key: the private one in FILE, and FILE.pub"
    )
    group.add_argument(
        "--keep",
        action="store_true",
        help="add the result to RUN/proofs.jsonl, from where `clac-jax publish` takes it",
    )
    group.add_argument("--json", action="store_true", help="print JSON")
    group.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from clac_jax.proof.signature import new_key, read_public_key

    if options.new_key:
        if options.run_folder or options.sign:
            raise UserError("--new-key makes a key and nothing else. Leave out RUN and --sign.")
        print(new_key(local_path(options.new_key, "--new-key")))
        return 0
    if not options.run_folder:
        raise UserError("No run is named. Give RUN: its workdir, or its URL.")
    _check(options)
    public_key = None
    if options.public_key:
        public_key = read_public_key(local_path(options.public_key, "--public-key"))
    if not is_url(options.run_folder):
        folder = local_path(options.run_folder, "RUN")
        if _is_published(folder):
            return _prove_published(folder, public_key, options)
    return _prove_run(options, public_key)


def _check(options: argparse.Namespace) -> None:
    """Rejects values that mean nothing.

    Raises:
        UserError: names the flag.
    """
    for flag in ("segments", "steps", "minutes", "tolerance"):
        if not getattr(options, flag) >= 0:
            raise UserError(f"--{flag} is {getattr(options, flag)}. Give a number from 0.")


def _prove_run(options: argparse.Namespace, public_key: bytes | None) -> int:
    from clac_jax.proof.kept import check_keepable, keep, sign_run
    from clac_jax.proof.proof import prove
    from clac_jax.proof.segments import Limits
    from clac_jax.proof.signature import read_private_key
    from clac_jax.replay.history import folder_of

    def say(line: str) -> None:
        print(shown(line), file=sys.stderr, flush=True)

    key = read_private_key(local_path(options.sign, "--sign")) if options.sign else None
    if options.sign or options.keep:
        check_keepable(options.run_folder)
    limits = Limits(
        options.segments, options.steps, options.seed, options.minutes, options.tolerance
    )
    proof = prove(options.run_folder, limits, public_key, say)
    print(json.dumps(proof.to_json(), indent=1) if options.json else "\n".join(proof.lines()))
    folder = folder_of(options.run_folder)
    if options.keep:
        keep(proof, folder)
    if key is not None and proof.is_proven:
        signature = sign_run(options.run_folder, folder, key)
        say(f"signed    step {signature.step:,}, with {signature.key_name}")
    elif key is not None:
        say("not signed, since it is not proven")
    return 0 if proof.is_proven else EXIT_NOT_PROVEN


def _is_published(folder: Path) -> bool:
    from clac_jax.checkpoint.export import MODEL_FILE
    from clac_jax.checkpoint.layout import CHECKPOINTS

    return (folder / MODEL_FILE).is_file() and not (folder / CHECKPOINTS).exists()


def _prove_published(folder: Path, public_key: bytes | None, options: argparse.Namespace) -> int:
    from clac_jax.inference.published_proof import prove_published

    if options.sign or options.keep:
        flag = "sign" if options.sign else "keep"
        raise UserError(
            f"--{flag} is about a run, and {folder} is a published model. Name its run."
        )
    proof = prove_published(folder, public_key)
    print(json.dumps(proof.to_json(), indent=1) if options.json else "\n".join(proof.lines()))
    return 0 if proof.is_proven else EXIT_NOT_PROVEN
