"""Credentials and region from the files of the AWS command line (~/.aws), which obstore ignores."""

from __future__ import annotations

import configparser
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clac_jax.stores.errors import CredentialsError

if TYPE_CHECKING:
    from obstore.store import S3Credential

# Read again after this time: programs that log in write temporary credentials there.
_MAX_AGE = timedelta(minutes=5)
# Variables that obstore reads itself; they come first, as in AWS's own tools.
_OTHER_SOURCES = (
    "AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_SKIP_SIGNATURE",
)  # fmt: skip


def settings_from_files() -> dict[str, Any]:
    """Settings of obstore from ~/.aws: a `credential_provider`, a `region`; may be empty.

    Raises:
        CredentialsError: the profile that AWS_PROFILE names does not exist, or needs boto3.
    """
    profile = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE") or ""
    config = _section("AWS_CONFIG_FILE", "config", f"profile {profile}" if profile else "default")
    settings: dict[str, Any] = {}
    has_region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if (region := config.get("region")) and not has_region:
        settings["region"] = region
    if any(os.environ.get(name) for name in _OTHER_SOURCES):
        return settings
    if _keys(profile):
        settings["credential_provider"] = lambda: _credential(profile)
    elif profile or any(name.startswith(("sso_", "role_arn", "credential_")) for name in config):
        settings["credential_provider"] = _provider_of_boto3(profile)
    return settings


def _credential(profile: str) -> S3Credential:
    keys = _keys(profile)
    return {
        "access_key_id": keys.get("aws_access_key_id", ""),
        "secret_access_key": keys.get("aws_secret_access_key", ""),
        "token": keys.get("aws_session_token"),
        "expires_at": datetime.now(UTC) + _MAX_AGE,
    }


def _keys(profile: str) -> dict[str, str]:
    """The static keys of a profile, from either of the two files."""
    name = profile or "default"
    for variable, file, section in (
        ("AWS_SHARED_CREDENTIALS_FILE", "credentials", name),
        ("AWS_CONFIG_FILE", "config", f"profile {profile}" if profile else "default"),
    ):
        keys = _section(variable, file, section)
        if "aws_access_key_id" in keys and "aws_secret_access_key" in keys:
            return keys
    return {}


def _section(variable: str, file: str, section: str) -> dict[str, str]:
    path = Path(os.environ.get(variable) or Path.home() / ".aws" / file).expanduser()
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, OSError, UnicodeDecodeError) as error:
        # Not its text, which quotes lines of the file.
        raise CredentialsError(
            f"{path} cannot be read ({type(error).__name__}). Correct it, for example with "
            "`aws configure`.",
            "missing",
        ) from None
    return dict(parser.items(section)) if parser.has_section(section) else {}


def _provider_of_boto3(profile: str) -> Callable[[], S3Credential]:
    """For profiles with single sign-on, a role or a program: boto3 knows all kinds."""
    try:
        import boto3
        import botocore.exceptions
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        raise CredentialsError(
            f"The profile {profile or 'default'!r} in ~/.aws has no keys of its own; for single "
            "sign-on, roles and programs, boto3 is needed. Install it with: pip install boto3.",
            "missing",
        ) from None
    try:
        return Boto3CredentialProvider(boto3.Session(profile_name=profile or None))
    except (botocore.exceptions.BotoCoreError, ValueError) as error:
        raise CredentialsError(
            f"The profile {profile or 'default'!r} in ~/.aws gives no credentials "
            f"({type(error).__name__}). Run `aws configure` or `aws sso login`, or set AWS_PROFILE "
            "to another profile.",
            "missing",
        ) from None
