"""A PostgreSQL server on 127.0.0.1, in a folder of its own; not started by root."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

PASSWORD = "not-a-secret"
START_SECONDS = 60


def program(name):
    """The path of a program of the server; skips the test if it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    path = found[-1] if found else shutil.which(name)
    if path is None:
        pytest.skip(f"PostgreSQL is not installed (no {name}): apt-get install postgresql")
    return str(path)


def owner():
    """Arguments of `Popen` for the user that owns the server, which may not be root."""
    return {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}


@contextlib.contextmanager
def postgres_server():
    """Runs a server -> URL of its database, with a password."""
    initdb, server = program("initdb"), program("postgres")
    with tempfile.TemporaryDirectory(prefix="postgres-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o777)
        data, file = folder / "data", folder / "password"
        file.write_text(PASSWORD)
        file.chmod(0o644)
        words = [initdb, "-D", data, "-U", "sweeper", f"--pwfile={file}", "--auth=scram-sha-256"]
        subprocess.run(
            [*words, "--no-sync"], check=True, capture_output=True, cwd=folder, **owner()
        )
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        words = [server, "-D", data, "-p", port, "-c", "listen_addresses=127.0.0.1"]
        words += ["-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
        with open(folder / "log", "wb") as log:
            running = subprocess.Popen(
                list(map(str, words)), stdout=log, stderr=log, cwd=folder, **owner()
            )
        try:
            deadline = time.monotonic() + START_SECONDS
            while b"ready to accept connections" not in (folder / "log").read_bytes():
                assert running.poll() is None and time.monotonic() < deadline, folder
                time.sleep(0.1)
            yield f"postgresql://sweeper:{PASSWORD}@127.0.0.1:{port}/postgres"
        finally:
            running.terminate()
            running.wait(30)
