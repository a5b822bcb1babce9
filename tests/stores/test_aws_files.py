"""Credentials from ~/.aws."""

import sys

import pytest
from helpers.object_stores import S3_CREDENTIALS, misbehaving_store

from clac_jax.stores.aws_files import settings_from_files
from clac_jax.stores.errors import CredentialsError
from clac_jax.stores.store import StoreOptions, open_store

KEYS = "aws_access_key_id = {0}-id\naws_secret_access_key = {0}-secret\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """~/.aws of a user who has set no variable of AWS."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (*S3_CREDENTIALS, "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".aws").mkdir()
    return tmp_path / ".aws"


def keys_of(settings):
    credential = settings["credential_provider"]()
    return credential["access_key_id"], credential["secret_access_key"], credential["token"]


def test_without_files_there_are_no_settings(folder):
    assert settings_from_files() == {}


def test_the_default_profile(folder):
    (folder / "credentials").write_text(f"[default]\n{KEYS.format('d')}aws_session_token = t%s\n")
    (folder / "config").write_text("[default]\nregion = eu-north-1\n")
    settings = settings_from_files()
    assert settings["region"] == "eu-north-1"
    assert keys_of(settings) == ("d-id", "d-secret", "t%s")


def test_a_named_profile_in_either_file(folder, monkeypatch):
    (folder / "credentials").write_text(f"[default]\n{KEYS.format('d')}[a]\n{KEYS.format('a')}")
    (folder / "config").write_text(f"[profile b]\nregion = b-1\n{KEYS.format('b')}")
    monkeypatch.setenv("AWS_PROFILE", "a")
    assert keys_of(settings_from_files()) == ("a-id", "a-secret", None)
    monkeypatch.setenv("AWS_PROFILE", "b")
    assert keys_of(settings_from_files()) == ("b-id", "b-secret", None)
    assert settings_from_files()["region"] == "b-1"


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"])
def test_variables_come_first(folder, monkeypatch, variable):
    (folder / "credentials").write_text(f"[default]\n{KEYS.format('d')}")
    (folder / "config").write_text("[default]\nregion = eu-north-1\n")
    monkeypatch.setenv(variable, "x")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    assert settings_from_files() == {}


def test_a_damaged_file_is_named_and_not_quoted(folder):
    (folder / "credentials").write_text("aws_secret_access_key hunter2")
    with pytest.raises(CredentialsError, match=r"\.aws/credentials cannot be read") as caught:
        settings_from_files()
    assert "hunter2" not in str(caught.value)


def test_an_unknown_profile(folder, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "missing")
    with pytest.raises(CredentialsError, match=r"'missing' in ~/\.aws gives no credentials"):
        settings_from_files()


def test_other_kinds_of_profiles_need_boto3(folder, monkeypatch):
    (folder / "config").write_text("[default]\nsso_session = x\n")
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(CredentialsError, match=r"boto3 is needed\. Install it with: pip install"):
        settings_from_files()


def test_a_program_gives_out_credentials_through_boto3(folder):
    program = folder / "program"
    program.write_text(
        '#!/bin/sh\necho \'{"Version": 1, "AccessKeyId": "p-id", "SecretAccessKey": "p-secret"}\'\n'
    )
    program.chmod(0o755)
    (folder / "config").write_text(f"[default]\ncredential_process = {program}\n")
    assert keys_of(settings_from_files()) == ("p-id", "p-secret", None)


def test_renewed_credentials_are_read_again(folder, monkeypatch):
    with misbehaving_store() as server, server.activated() as url:
        for name in list(S3_CREDENTIALS)[:2]:
            monkeypatch.delenv(name)
        (folder / "credentials").write_text(f"[default]\n{KEYS.format('old')}")
        store = open_store(url, StoreOptions(patience_seconds=1))
        server.control(accepted_key="old-id")
        store.put("x", b"1")
        server.control(accepted_key="new-id")
        with pytest.raises(CredentialsError, match="have expired"):
            store.put("x", b"2")
        (folder / "credentials").write_text(f"[default]\n{KEYS.format('new')}")
        store.put("x", b"3")
        assert server.truth("x") == b"3"
