"""The signature of a chain: Ed25519 over the SHA-256 of a record, which covers all before it.

Keys are files as `openssl genpkey -algorithm ed25519` and `ssh-keygen -t ed25519` write them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import sys
import time
from dataclasses import dataclass
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clac_jax.chain.record import CHAIN_FILE
from clac_jax.checkpoint.layout import CHECKPOINTS
from clac_jax.errors import one_line
from clac_jax.files.paths import explain
from clac_jax.proof.errors import ProofError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
    )

SIGNATURE_FILE = "chain.signature.json"
_CONTEXT = b"clac_jax chain 1\n"  # a signature of a chain has no other meaning
_MAKE = "Make one with `clac-jax prove --new-key FILE`"


@dataclass(frozen=True)
class Signature:
    """A signed record.

    Attributes:
        record: its SHA-256, hexadecimal.
        step: its step.
        public_key: 32 bytes.
        signature: 64 bytes.
        signed_at: seconds since 1970, as the signer's clock said; not signed.
    """

    record: str
    step: int
    public_key: bytes
    signature: bytes
    signed_at: float = 0.0

    @property
    def key_name(self) -> str:
        """The fingerprint of the public key, as `ssh-keygen -l` prints it for such a key."""
        return fingerprint(self.public_key)

    def is_valid(self) -> bool:
        """Whether the owner of the public key has signed the record.

        Raises:
            ProofError: the library for signatures is missing.
        """
        library = _library()
        try:
            key = library.Ed25519PublicKey.from_public_bytes(self.public_key)
            key.verify(self.signature, _message(self.record))
        except (ValueError, _invalid_signature()):
            return False
        return True

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "algorithm": "ed25519",
            "record": self.record,
            "step": self.step,
            "public_key": base64.b64encode(self.public_key).decode(),
            "signature": base64.b64encode(self.signature).decode(),
            "signed_at": self.signed_at,
        }

    @classmethod
    def from_json(cls, values: Any, name: str) -> Signature:
        """The inverse of `to_json`.

        Raises:
            ProofError: it is not a signature.
        """
        try:
            if values["algorithm"] != "ed25519":
                raise ValueError(f"its algorithm is {values['algorithm']!r:.40}")
            decode = base64.b64decode
            return cls(
                record=str(values["record"]),
                step=int(values["step"]),
                public_key=decode(values["public_key"], validate=True),
                signature=decode(values["signature"], validate=True),
                signed_at=float(values["signed_at"]),
            )
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise ProofError(
                f"{name} is not a signature of a chain ({one_line(error, 80)}). Sign the run again "
                "with `clac-jax prove RUN --sign KEY`."
            ) from error


def sign(record: str, step: int, private_key: Ed25519PrivateKey) -> Signature:
    """Signs a record, which is given by its SHA-256 and its step."""
    public, signature = (
        private_key.public_key().public_bytes_raw(),
        private_key.sign(_message(record)),
    )
    return Signature(record, step, public, signature, round(time.time(), 3))


def read_signature(path: Path) -> Signature | None:
    """Reads a signature; None if there is no such file.

    Raises:
        ProofError: it is not one.
    """
    try:
        return Signature.from_json(json.loads(path.read_text(encoding="utf-8")), str(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ProofError(
            f"{path} cannot be read ({one_line(error, 80)}). Sign the run again with `clac-jax "
            "prove RUN --sign KEY`."
        ) from error


def new_key(path: Path) -> Path:
    """Makes a key: writes the private one, and the public one to the same name with ".pub".

    Returns:
        The path of the public one.

    Raises:
        ProofError: a file exists or cannot be written, or the folder is that of a run.
    """
    library = _library()
    from cryptography.hazmat.primitives import serialization as forms

    for folder in path.absolute().parents:
        if (folder / CHAIN_FILE).exists() or (folder / CHECKPOINTS).exists():
            raise ProofError(
                f"{path} would be in the workdir {folder}, which is copied and published. Name a "
                "file outside of it."
            )
    public_path = path.with_name(f"{path.name}.pub")
    key = library.Ed25519PrivateKey.generate()
    private = key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption())
    public = key.public_key().public_bytes(forms.Encoding.OpenSSH, forms.PublicFormat.OpenSSH)
    try:
        _write_new(path, private, 0o600)
        _write_new(public_path, public + b"\n", 0o644)
    except FileExistsError as error:
        raise ProofError(f"{error.filename} exists. Name another file.") from error
    except OSError as error:
        raise ProofError(f"Cannot write {error.filename}: {explain(error)}") from error
    return public_path


def read_public_key(path: Path) -> bytes:
    """The 32 bytes of a public key: in PEM, or a line as in `id_ed25519.pub`.

    Raises:
        ProofError: it is not one of Ed25519.
    """
    library, content = _library(), _read(path)
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization as forms

    load = forms.load_pem_public_key if content.startswith(b"-----") else forms.load_ssh_public_key
    try:
        key = load(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ProofError(f"{path} is not a public key. Give the .pub file of a key.") from error
    if not isinstance(key, library.Ed25519PublicKey):
        raise ProofError(f"{path} is not a key of Ed25519. {_MAKE}.")
    result: bytes = key.public_bytes_raw()
    return result


def fingerprint(public_key: bytes) -> str:
    """The fingerprint of a public key, as `ssh-keygen -l` prints it."""
    name = b"ssh-ed25519"
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in (name, public_key))
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """A private key; its passphrase, if it has one, is read from the terminal.

    Raises:
        ProofError: it cannot be read, or the library for signatures is missing.
    """
    library, content = _library(), _read(path)
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization as forms

    is_ssh = b"OPENSSH PRIVATE KEY" in content[:100]
    load: Any = forms.load_ssh_private_key if is_ssh else forms.load_pem_private_key
    try:
        try:
            key = load(content, password=None)
        except TypeError:  # it is encrypted
            key = load(content, password=_passphrase(path))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ProofError(
            f"{path} is not a private key, or its passphrase is wrong. {_MAKE}."
        ) from error
    if not isinstance(key, library.Ed25519PrivateKey):
        raise ProofError(f"{path} is not a key of Ed25519. {_MAKE}.")
    own: Ed25519PrivateKey = key
    return own


def _passphrase(path: Path) -> bytes:
    if not sys.stdin.isatty():
        raise ProofError(f"{path} needs a passphrase. Run the command in a terminal.")
    return getpass(f"Passphrase of {path}: ").encode()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ProofError(f"Cannot read {path}: {explain(error)}") from error


def _write_new(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "wb") as file:
        file.write(content)


def _message(record: str) -> bytes:
    return _CONTEXT + record.encode()


def _library() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise ProofError(
            'Signatures need cryptography. Install it with: pip install "clac-jax[sign]".'
        ) from error
    return ed25519


def _invalid_signature() -> type[Exception]:
    from cryptography.exceptions import InvalidSignature

    return InvalidSignature
