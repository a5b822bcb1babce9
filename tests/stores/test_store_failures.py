"""Each class of failure, its error and its sentence, without a word of the store's answer."""

import socket
import traceback

import pytest
from helpers.object_stores import S3_CREDENTIALS, misbehaving_store, quick_retries
from obstore.exceptions import AlreadyExistsError, GenericError, PermissionDeniedError

from clac_jax.stores.errors import (
    CredentialsError,
    MissingBucketError,
    StoreError,
    UnavailableError,
)
from clac_jax.stores.failures import Kind, classify
from clac_jax.stores.messages import error_of
from clac_jax.stores.store import StoreOptions, open_store

IMPATIENT = StoreOptions(patience_seconds=0.05, request_seconds=0.3)


@pytest.fixture(scope="module")
def server():
    with misbehaving_store() as running, running.activated(), quick_retries():
        yield running


@pytest.fixture
def store(server):
    yield open_store(f"{server.url}/folder", IMPATIENT)
    server.control(faults={}, expired=False, denied=False, slow_seconds=0.05)


def error_of_get(store):
    with pytest.raises(StoreError) as caught:
        store.get("x")
    shown = "".join(traceback.format_exception(caught.value))
    for secret in (*list(S3_CREDENTIALS.values())[:2], "Signature", "Credential=", "<Error>"):
        assert secret not in shown
    assert "Debug source" not in shown
    return caught.value


def test_throttled(server, store):
    server.control(faults={"throttled": 1})
    error = error_of_get(store)
    assert isinstance(error, UnavailableError)
    assert error.is_throttled
    assert "throttling requests (503 SlowDown)" in str(error)


@pytest.mark.parametrize(
    "fault, detail",
    [
        ("unavailable", "503 ServiceUnavailable"),
        ("internal", "500 InternalError"),
        ("reset", "the connection broke"),
        ("slow", "no answer in time"),
    ],
)
def test_unavailable(server, store, fault, detail):
    server.control(faults={fault: 1}, slow_seconds=1)
    error = error_of_get(store)
    assert isinstance(error, UnavailableError)
    assert not error.is_throttled
    assert f"not been available ({detail}). Check the network" in str(error)


def test_nothing_listens(monkeypatch):
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        for name, value in {**S3_CREDENTIALS, "AWS_ENDPOINT_URL": endpoint}.items():
            monkeypatch.setenv(name, value)
        error = error_of_get(open_store("s3://bucket", IMPATIENT))
    assert isinstance(error, UnavailableError)
    assert "(no connection)" in str(error)


def test_expired(server, store):
    server.control(expired=True)
    error = error_of_get(store)
    assert isinstance(error, CredentialsError)
    assert error.reason == "expired"
    assert "credentials have expired (400 ExpiredToken). Renew them" in str(error)


def test_denied_immediately(server, store):
    server.control(denied=True)
    before = store.counts.requests
    error = error_of_get(store)
    assert store.counts.requests == before + 1, "not repeated"
    assert isinstance(error, CredentialsError)
    assert error.reason == "denied"
    assert "do not permit it (403 AccessDenied)" in str(error)


@pytest.mark.parametrize(
    "url, variables",
    [
        ("s3://bucket/x", {"AWS_METADATA_ENDPOINT": "ENDPOINT", "AWS_REGION": "us-east-1"}),
        ("az://container/x", {}),
        (
            "az://container/x",
            {"AZURE_STORAGE_ACCOUNT_NAME": "account", "AZURE_MSI_ENDPOINT": "ENDPOINT/metadata/"
             "identity/oauth2/token"},
        ),
    ],
    ids=["s3", "azure without an account", "azure"],
)  # fmt: skip
def test_no_credentials(server, monkeypatch, tmp_path, url, variables):
    for name in (*S3_CREDENTIALS, "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(name, value.replace("ENDPOINT", server.endpoint))
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    with pytest.raises(CredentialsError, match="there are no credentials for") as caught:
        open_store(url, IMPATIENT).get("x")
    assert caught.value.reason == "missing"


def test_a_service_that_renews_credentials_may_be_away_for_a_moment(server, store, monkeypatch):
    store.put("x", b"1")
    away = GenericError(
        "Generic S3 error: Error performing PUT http://169.254.169.254/latest/api/token in 1s - "
        "HTTP error: error sending request\n\nDebug source:\nkind: Connect"
    )
    client, tries = store._connection.client(), []

    class Client:
        def get(self, *arguments, **options):
            tries.append(1)
            if len(tries) < 3:
                raise away
            return client.get(*arguments, **options)

    monkeypatch.setattr(store._connection, "client", Client)
    assert store.get("x").data == b"1"
    assert len(tries) == 3


def answer(status, code, before="Error performing PUT http://h/b/k in 1s - "):
    body = f"<?xml?>\n<Error><Code>{code}</Code><Message>m</Message></Error>" if code else ""
    return f"Generic S3 error: {before}Server returned non-2xx status code: {status}: {body}"


@pytest.mark.parametrize(
    "error, kind",
    [
        (FileNotFoundError(answer("404 Not Found", "NoSuchKey")), Kind.NOT_FOUND),
        (FileNotFoundError(answer("404 Not Found", "BlobNotFound")), Kind.NOT_FOUND),
        (FileNotFoundError(answer("404 Not Found", "")), Kind.NOT_FOUND),
        (FileNotFoundError(answer("404 Not Found", "ContainerNotFound")), Kind.NO_BUCKET),
        (FileNotFoundError(answer("404 Not Found", "NoSuchUpload")), Kind.UNAVAILABLE),
        (GenericError(answer("404 Not Found", "NoSuchBucket")), Kind.NO_BUCKET),
        (AlreadyExistsError(answer("409 Conflict", "BlobAlreadyExists")), Kind.CONFLICT),
        (AlreadyExistsError(answer("409 Conflict", "ConditionalRequestConflict")),
         Kind.UNAVAILABLE),
        (AlreadyExistsError(answer("412 Precondition Failed", "PreconditionFailed")),
         Kind.CONFLICT),
        (GenericError(answer("400 Bad Request", "ExpiredToken")), Kind.EXPIRED),
        (GenericError(answer("400 Bad Request", "RequestTimeout")), Kind.UNAVAILABLE),
        (GenericError(answer("400 Bad Request", "EntityTooLarge")), Kind.REFUSED),
        (GenericError(answer("408 Request Timeout", "")), Kind.UNAVAILABLE),
        (GenericError(answer("429 Too Many Requests", "")), Kind.THROTTLED),
        (GenericError(answer("503 Slow Down", "SlowDown")), Kind.THROTTLED),
        (GenericError(answer("503 Server Busy", "ServerBusy")), Kind.THROTTLED),
        (GenericError(answer("503 Service Unavailable", "")), Kind.UNAVAILABLE),
        (PermissionDeniedError(answer("403 Forbidden", "SignatureDoesNotMatch")), Kind.DENIED),
        (GenericError(answer("401 Unauthorized", "", "Error performing token request: ")),
         Kind.EXPIRED),
        (GenericError("Received redirect without LOCATION\n\nDebug source:\nBareRedirect"),
         Kind.WRONG_REGION),
        # Names of objects are not read as answers.
        (FileNotFoundError("Object at location status code: 503 <Code>NoSuchBucket</Code> not "
                           "found: " + answer("404 Not Found", "NoSuchKey")), Kind.NOT_FOUND),
        (ValueError("Could not parse path"), Kind.REFUSED),
        (GenericError("something new"), Kind.UNAVAILABLE),
    ],
)  # fmt: skip
def test_classes(error, kind):
    failure = classify(error)
    assert failure.kind is kind
    assert "<" not in failure.detail


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_every_class_has_two_sentences_with_the_url(scheme):
    url = f"{scheme}://bucket/folder/x"
    for kind in Kind:
        failure = classify(GenericError(answer("418 Teapot", "Code")))
        error = error_of(type(failure)(kind, "418 Code"), "write", url, 12.3)
        assert url in str(error) or (isinstance(error, MissingBucketError))
        assert f"{scheme}://bucket" in str(error)
        assert str(error).count(". ") >= 1
        assert str(error).endswith(".")
        assert error.exit_code == (1 if isinstance(error, UnavailableError) else 2)
