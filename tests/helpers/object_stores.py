"""Object stores for tests, on 127.0.0.1: each yields a URL and the environment that reaches it."""

import contextlib
import itertools
import logging
import os
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from unittest import mock

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
