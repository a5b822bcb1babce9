"""The class of a failed request, from the exception that obstore raised."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass


class Kind(enum.Enum):
    """Classes of failures, by their meaning for the caller."""

    NOT_FOUND = "not found"
    CONFLICT = "conflict"
    NO_BUCKET = "no bucket"
    NO_CREDENTIALS = "no credentials"
    EXPIRED = "expired"
    DENIED = "denied"
    WRONG_REGION = "wrong region"
    REFUSED = "refused"
    THROTTLED = "throttled"
    UNAVAILABLE = "unavailable"

    @property
    def is_transient(self) -> bool:
        """Whether the same request may succeed a little later."""
        return self in (Kind.THROTTLED, Kind.UNAVAILABLE)


@dataclass(frozen=True)
class Failure:
    """A failed request.

    Attributes:
        kind: its class.
        detail: status and code ("503 SlowDown"), or a few words; never text of the store.
    """

    kind: Kind
    detail: str


_NO_BUCKET = {"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted"}
_EXPIRED = {"ExpiredToken", "TokenRefreshRequired", "ExpiredTokenException", "RequestExpired"}
_THROTTLED = {
    "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "ServerBusy",
    "TooManyRequests", "BandwidthLimitExceeded", "RequestThrottled", "rateLimitExceeded",
}  # fmt: skip
# Of a request that did not take place, because the store was busy with one of the same object, or
# of an upload in parts that the store has dropped.
_AGAIN = {"ConditionalRequestConflict", "OperationAborted", "RequestTimeout", "NoSuchUpload"}

_STATUS = re.compile(r"Server returned non-2xx status code: (\d{3})\b")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>|\"code\":\s*\"(\w{1,60})\"")
# Where the libraries look for credentials if neither variables nor files have any.
_METADATA = re.compile(
    r"Error performing \w+ https?://(169\.254\.|metadata\.google\.internal|[^/]+/(latest/api/token|"
    r"latest/meta-data/|computeMetadata/|metadata/identity/))"
)
_HTTP = re.compile(r"kind: (Connect|Request|Timeout|Interrupted|Decode)\b")
_REASONS = {
    "Connect": "no connection",
    "Timeout": "no answer in time",
    "Interrupted": "the connection broke",
    "Request": "the connection broke",
    "Decode": "the connection broke",
}


def classify(error: Exception) -> Failure:
    """The class of an exception that a call of obstore raised."""
    text = str(error)
    answer, _, debug = text.partition("\n\nDebug source:")
    # Names of objects precede the status: a file may be called anything.
    found = _STATUS.search(answer)
    status = int(found[1]) if found else 0
    code = _code(answer[found.end() :]) if found else ""
    detail = f"{status} {code}".strip() if status else ""
    name = type(error).__name__
    if code in _NO_BUCKET:
        return Failure(Kind.NO_BUCKET, detail)
    if code in _AGAIN:
        return Failure(Kind.UNAVAILABLE, detail)
    if code in _EXPIRED:
        return Failure(Kind.EXPIRED, detail)
    if code in _THROTTLED or status == 429:
        return Failure(Kind.THROTTLED, detail)
    if name in ("AlreadyExistsError", "PreconditionError", "NotModifiedError"):
        return Failure(Kind.CONFLICT, detail)
    if isinstance(error, FileNotFoundError):
        return Failure(Kind.NOT_FOUND, detail)
    if _METADATA.search(answer) or "MissingAccount" in debug:
        return Failure(Kind.NO_CREDENTIALS, detail)
    if "token request" in answer and 400 <= status < 500:
        return Failure(Kind.EXPIRED, detail)
    if status in (401, 403) or name in ("UnauthenticatedError", "PermissionDeniedError"):
        return Failure(Kind.DENIED, detail)
    if "BareRedirect" in debug or status in (301, 307):
        return Failure(Kind.WRONG_REGION, detail)
    if status == 404:
        return Failure(Kind.NOT_FOUND, detail)
    if 400 <= status < 500 and status != 408:
        return Failure(Kind.REFUSED, detail)
    if name in ("InvalidPathError", "ValueError", "NotSupportedError"):
        return Failure(Kind.REFUSED, "the name or the setting is not accepted")
    if not detail:
        found = _HTTP.search(debug)
        detail = _REASONS[found[1]] if found else "the request failed"
    return Failure(Kind.UNAVAILABLE, detail)


def _code(body: str) -> str:
    found = _CODE.search(body)
    return (found[1] or found[2]) if found else ""
