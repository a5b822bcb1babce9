"""The client of a bucket: obstore, with its endpoint and credentials from the environment."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from clac_jax.stores.aws_files import settings_from_files
from clac_jax.stores.errors import StoreError
from clac_jax.stores.failures import Kind, classify
from clac_jax.stores.messages import error_of
from clac_jax.stores.url import BucketUrl

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

CONNECT_SECONDS = 10.0
# Endpoints other than the provider's own (MinIO, an emulator) are named by these variables.
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL", "STORAGE_EMULATOR_HOST"),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}


def open_client(url: BucketUrl, request_seconds: float, max_retries: int = 0) -> ObjectStore:
    """Opens a client of a bucket; nothing is sent yet.

    Args:
        url: the bucket; its prefix is ignored.
        request_seconds: limit for one request with its answer.
        max_retries: how often obstore itself repeats a failed request. Only for uploads in parts,
            where one part that fails would otherwise fail the upload of all of them.

    Raises:
        StoreError: obstore is not installed, or a setting from the environment is not accepted.
    """
    try:
        from obstore.store import from_url
    except ImportError as error:
        raise StoreError(
            f"{url} is in an object store, which needs obstore, and that is not installed. Install "
            'it with: pip install "clac-jax[cloud]".'
        ) from error
    endpoint = _endpoint(url.scheme)
    client: ClientConfig = {
        "timeout": timedelta(seconds=request_seconds),
        "connect_timeout": timedelta(seconds=min(CONNECT_SECONDS, request_seconds)),
        # Only where the user has written http:// and not https://.
        "allow_http": endpoint.startswith("http://") or _is_on("AZURE_STORAGE_USE_EMULATOR"),
    }
    retries: RetryConfig = {"max_retries": max_retries}
    settings: dict[str, Any] = settings_from_files() if url.scheme == "s3" else {}
    if url.scheme == "gs" and endpoint:
        settings["base_url"] = endpoint
        if os.environ.get("STORAGE_EMULATOR_HOST"):
            settings["bearer_token"] = "emulator"  # it accepts any
    try:
        return from_url(url.root, client_options=client, retry_config=retries, **settings)
    except Exception as error:
        failure = classify(error)
        if failure.kind is Kind.NO_CREDENTIALS:
            raise error_of(failure, "open", url.root) from None
        # Not its text, which may quote a setting.
        raise StoreError(
            f"The settings for {url.root} in the environment are not accepted "
            f"({type(error).__name__}). Check the variables that begin with "
            f"{_PREFIXES[url.scheme]}."
        ) from None


_PREFIXES = {"s3": "AWS_", "gs": "GOOGLE_", "az": "AZURE_"}


def _endpoint(scheme: str) -> str:
    values = (os.environ.get(name, "").strip() for name in _ENDPOINTS[scheme])
    value = next(filter(None, values), "")
    if value and scheme == "gs" and "://" not in value:
        return f"http://{value}"  # STORAGE_EMULATOR_HOST is often written without
    return value


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "on")
