"""Keys and signatures of chains."""

import json
import shutil
import subprocess
import sys

import pytest

from clac_jax.proof.errors import ProofError
from clac_jax.proof.signature import (
    Signature,
    fingerprint,
    new_key,
    read_private_key,
    read_public_key,
    read_signature,
    sign,
)

RECORD = "ab" * 32


@pytest.fixture
def key(tmp_path):
    new_key(tmp_path / "key")
    return tmp_path / "key"


def test_a_signature_is_valid_for_its_record_only(key):
    signature = sign(RECORD, 40, read_private_key(key))
    assert signature.is_valid()
    again = Signature.from_json(json.loads(json.dumps(signature.to_json())), "a file")
    assert again == signature
    assert again.public_key == read_public_key(key.with_name("key.pub"))
    values = signature.to_json()
    assert not Signature.from_json({**values, "record": "cd" * 32}, "a file").is_valid()
    other = new_key(key.with_name("other"))
    forged = Signature(RECORD, 40, read_public_key(other), signature.signature)
    assert not forged.is_valid()


def test_private_keys_are_for_their_owner_and_not_in_workdirs(key, tmp_path):
    assert key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ProofError, match=r"key exists\. Name another file"):
        new_key(key)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ProofError, match="would be in the workdir"):
        new_key(tmp_path / "run" / "key")


def test_files_that_are_not_keys_or_signatures_are_refused(key, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.write_text("nothing")
    with pytest.raises(ProofError, match="is not a private key"):
        read_private_key(wrong)
    with pytest.raises(ProofError, match="is not a public key"):
        read_public_key(wrong)
    with pytest.raises(ProofError, match="Cannot read"):
        read_public_key(tmp_path / "absent")
    with pytest.raises(ProofError, match="cannot be read"):
        read_signature(wrong)
    wrong.write_text(
        json.dumps({**sign(RECORD, 1, read_private_key(key)).to_json(), "algorithm": "rsa"})
    )
    with pytest.raises(ProofError, match="its algorithm is 'rsa'"):
        read_signature(wrong)
    assert read_signature(tmp_path / "absent") is None


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
def test_keys_of_ssh_sign_and_have_their_fingerprint(tmp_path):
    path = tmp_path / "id"
    make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(make, check=True, timeout=60)
    signature = sign(RECORD, 40, read_private_key(path))
    assert signature.is_valid()
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", f"{path}.pub"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    public = read_public_key(tmp_path / "id.pub")
    assert fingerprint(public) == signature.key_name == shown.stdout.split()[1]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_keys_of_openssl_sign(tmp_path):
    path, public = tmp_path / "key.pem", tmp_path / "key.pub.pem"
    for command in (
        ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(path)],
        ["openssl", "pkey", "-in", str(path), "-pubout", "-out", str(public)],
    ):
        subprocess.run(command, check=True, timeout=60, capture_output=True)
    assert sign(RECORD, 40, read_private_key(path)).public_key == read_public_key(public)


def test_without_the_extra_one_line_names_it(key, tmp_path, monkeypatch):
    signature = sign(RECORD, 40, read_private_key(key))
    for name in [name for name in sys.modules if name.split(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for action in (
        signature.is_valid,
        lambda: new_key(tmp_path / "new"),
        lambda: read_public_key(key.with_name("key.pub")),
        lambda: read_private_key(key),
    ):
        with pytest.raises(ProofError, match=r'pip install "clac-jax\[sign\]"'):
            action()
