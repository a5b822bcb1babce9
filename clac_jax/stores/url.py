"""URLs of buckets and of objects in them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from clac_jax.errors import UserError, one_line

SCHEMES = ("gs", "s3", "az")


class UrlError(UserError, ValueError):
    """The URL of a bucket or object cannot be used."""


def is_url(text: Any) -> bool:
    """Whether a text from the user names an object store: gs://, s3:// or az://."""
    if not isinstance(text, str | os.PathLike):
        return False  # bytes, or not a path at all, which `local_path` refuses
    return os.fsdecode(text).lstrip().lower().startswith(tuple(f"{s}://" for s in SCHEMES))


@dataclass(frozen=True)
class BucketUrl:
    """A bucket and a folder in it.

    Attributes:
        scheme: "gs", "s3" or "az".
        bucket: name of the bucket (of the container, on Azure).
        prefix: names of folders, joined by "/"; empty for the bucket itself.
    """

    scheme: str
    bucket: str
    prefix: str = ""

    def __str__(self) -> str:
        return f"{self.root}/{self.prefix}" if self.prefix else self.root

    @property
    def root(self) -> str:
        """The URL of the bucket itself."""
        return f"{self.scheme}://{self.bucket}"

    def child(self, prefix: str) -> BucketUrl:
        """The URL of a folder below this one."""
        return BucketUrl(self.scheme, self.bucket, self.key(prefix.strip("/")))

    def key(self, name: str) -> str:
        """The full name, in the bucket, of an object named relative to the prefix."""
        return "/".join(part for part in (self.prefix, name) if part)


def parse_url(text: str) -> BucketUrl:
    """Splits a URL into scheme, bucket and prefix.

    Raises:
        UrlError: the scheme is not supported, the bucket is missing, a part of the path is empty,
            "." or "..", or the URL has a part that may be a password.
    """
    scheme, separator, rest = text.strip().partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in SCHEMES:
        raise UrlError(
            f"{one_line(text.partition('?')[0], 80)!r} is not the URL of an object store. Use "
            "gs://BUCKET/..., s3://BUCKET/... or az://CONTAINER/...."
        )
    bucket, *parts = rest.rstrip("/").split("/")
    # Not repeated in the message: what precedes an "@" or follows a "?" may be a password.
    if "@" in bucket or "?" in rest:
        raise UrlError(
            f"A {scheme}:// URL has a part that does not belong there ('@' or '?'). Write only "
            f"{scheme}://BUCKET/FOLDER; credentials are taken from the environment."
        )
    if not bucket:
        raise UrlError(f"The URL {text!r} has no bucket. Write {scheme}://BUCKET/FOLDER.")
    if any(part in ("", ".", "..") for part in parts):
        raise UrlError(
            f"The URL {one_line(text, 80)} has an empty part, '.' or '..' in its path. Write the "
            "names of the folders, separated by single slashes."
        )
    return BucketUrl(scheme, bucket, "/".join(parts))
