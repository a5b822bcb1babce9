"""Errors of object stores."""

from __future__ import annotations

from clac_jax.errors import UserError


class StoreError(UserError):
    """A request to an object store failed.

    No message contains what the store or its library answered, except for a status and a code such
    as "403 AccessDenied": answers may contain parts of credentials.
    """


class NotFoundError(StoreError):
    """No object has this name."""


class ConflictError(StoreError):
    """The condition of a conditional put does not hold: somebody else has written the object."""


class MissingBucketError(StoreError):
    """The bucket (the container, on Azure) does not exist."""


class CredentialsError(StoreError):
    """Credentials are missing, have expired, or do not permit the request.

    Attributes:
        reason: "missing", "expired" or "denied".
    """

    def __init__(self, message: str, reason: str = "denied"):
        super().__init__(message)
        self.reason = reason


class UnavailableError(StoreError):
    """The store did not answer, or not in time, although the request was repeated.

    Whether a put took place is then not known. Repeating it later is safe, also a conditional one.

    Attributes:
        is_throttled: whether the store requires fewer requests.
        waited: seconds during which the request was repeated.
    """

    exit_code = 1  # nothing has to be corrected: `clac-jax run` tries again

    def __init__(self, message: str, is_throttled: bool = False, waited: float = 0.0):
        super().__init__(message)
        self.is_throttled, self.waited = is_throttled, waited
