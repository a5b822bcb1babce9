"""Sentences for failed requests: what is wrong with which object, and what to do."""

from __future__ import annotations

from clac_jax.stores.errors import (
    ConflictError,
    CredentialsError,
    MissingBucketError,
    NotFoundError,
    StoreError,
    UnavailableError,
)
from clac_jax.stores.failures import Failure, Kind

_LOG_IN = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, run `aws configure`, or give the "
    "machine a role",
    "gs": "run `gcloud auth application-default login`, set GOOGLE_APPLICATION_CREDENTIALS, or "
    "give the machine a service account",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or another credential, "
    "or give the machine an identity",
}


def error_of(failure: Failure, action: str, url: str, waited: float = 0.0) -> StoreError:
    """The error of a request that is not repeated any more.

    Args:
        failure: its class.
        action: "read", "write", "delete" or "list".
        url: the object.
        waited: seconds during which the request was repeated.
    """
    scheme, _, rest = url.partition("://")
    bucket = f"{scheme}://{rest.partition('/')[0]}"
    detail = f" ({failure.detail})" if failure.detail else ""
    since = f" for {waited:.0f} s" if waited >= 1 else ""
    cannot = f"Cannot {action} {url}"
    match failure.kind:
        case Kind.NOT_FOUND:
            return NotFoundError(f"{url} does not exist. Check the name.")
        case Kind.CONFLICT:
            return ConflictError(
                f"{cannot}: it has been written by somebody else in the meantime{detail}. Read it "
                "again before writing."
            )
        case Kind.NO_BUCKET:
            return MissingBucketError(
                f"There is no bucket {bucket}{detail}. Create it, or correct its name."
            )
        case Kind.NO_CREDENTIALS:
            return CredentialsError(
                f"{cannot}: there are no credentials for {bucket}. To provide them, "
                f"{_LOG_IN[scheme]}.",
                "missing",
            )
        case Kind.EXPIRED:
            return CredentialsError(
                f"{cannot}: the credentials have expired{detail}. Renew them: {_LOG_IN[scheme]}.",
                "expired",
            )
        case Kind.DENIED:
            return CredentialsError(
                f"{cannot}: the credentials do not permit it{detail}. Ask for the permission to "
                f"read, write, delete and list in {bucket}, or use other credentials.",
                "denied",
            )
        case Kind.WRONG_REGION:
            return StoreError(
                f"{cannot}: the bucket is in another region{detail}. Set AWS_REGION to the region "
                f"of {bucket}."
            )
        case Kind.THROTTLED:
            return UnavailableError(
                f"{cannot}: the store has been throttling requests{since}{detail}. "
                "Try again later, or limit the bandwidth.",
                is_throttled=True,
                waited=waited,
            )
        case Kind.UNAVAILABLE:
            return UnavailableError(
                f"{cannot}: the store has not been available{since}{detail}. Check the network "
                "and the status of the store, and try again later.",
                waited=waited,
            )
        case _:
            return StoreError(f"{cannot}: the store refuses it{detail}. Check the name.")
