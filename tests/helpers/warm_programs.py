"""`main.py` in forks of a process that has already imported what it needs.

Importing JAX, Orbax and the rest takes a third of the time of a small run. A fork runs `main.py` from
its first line to the exit of the interpreter, with its own environment, folder and output; it has
not started a device before. Unlike the program that a user starts, it finds its modules imported,
and shares its hash seed and what JAX reads from JAX_... at import with the other forks.
Tests of exactly that start the program themselves.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path

_PRELOADED = (
    "absl.app",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "ml_collections.config_flags",
    "tensorboardX",
    "clac_jax.cli.flag_errors",
    "clac_jax.training_run",
    "clac_jax.reporting.figures",
)
_ROOT = Path(__file__).parents[2]
_MAIN = _ROOT / "main.py"
_MAX_BYTES = 1 << 20


class WarmPrograms:
    """Context manager: starts forks of `main.py`.

    Args:
        environment: of the process that is forked; only variables that are read after the imports
            may differ between its forks.
    """

    def __init__(self, environment):
        self._environment = environment
        self._server = None

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        if self._server is not None:
            self._socket.close()
            self._server.wait(timeout=30)

    def start(self, arguments, env, stdout=None, stderr=None):
        """`main.py ARGUMENTS` in a fork: a `WarmProcess`; streams as for `subprocess.Popen`."""
        if self._server is None:
            self._start_server()
        names = {name for name in env if name.startswith(("JAX_", "PYTHON"))}
        assert {name: env[name] for name in names} == {
            name: self._environment[name] for name in names
        }, "read before the fork"
        return WarmProcess(self._socket, arguments, env, stdout, stderr)

    def _start_server(self):
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env=self._environment,
                cwd=_ROOT,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )


class WarmProcess:
    """A running fork; what the tests use of `subprocess.Popen`."""

    def __init__(self, server, arguments, env, stdout, stderr):
        self.returncode = None
        self._out, out = _stream(stdout)
        self._err, err = (None, out) if stderr == subprocess.STDOUT else _stream(stderr)
        self._status, theirs = socket.socketpair()
        for stream in (self._out, self._err, self._status):
            if stream is not None:
                weakref.finalize(self, stream.close)
        request = json.dumps({"arguments": [str(_MAIN), *arguments], "env": dict(env)}) + "\n"
        with theirs:
            socket.send_fds(server, [request.encode()], [out, err, theirs.fileno()])
        self.pid = int(_line(self._status))

    def poll(self):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout=None):
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("main.py", timeout)
            self.returncode = int(_line(self._status))
            self._status.close()  # until here its process id belongs to nobody else
        return self.returncode

    def communicate(self, timeout=None):
        """(output, errors), after the end; None for what is not a pipe."""
        self.wait(timeout)
        texts = []
        for stream in (self._out, self._err):
            if stream is not None:
                stream.seek(0)
            texts.append(stream and stream.read())
        return tuple(texts)

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def _stream(stream):
    """(the file to read from, the descriptor to write to); a pipe is a file that cannot fill up."""
    if stream == subprocess.PIPE:
        file = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        return file, file.fileno()
    return None, (1 if stream is None else stream.fileno())


def _line(connection):
    """A line of text; raises EOFError if there is none."""
    text = b""
    while not text.endswith(b"\n"):
        if not (more := connection.recv(4096)):
            raise EOFError("The process from which programs are forked has ended.")
        text += more
    return text.decode()


def _serve(connection):
    """Forks for each request; returns only in the forks: the arguments of `main.py`."""
    while True:
        request, descriptors, *_ = socket.recv_fds(connection, _MAX_BYTES, 3)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not request:
            os._exit(0)
        while not request.endswith(b"\n"):
            request += connection.recv(_MAX_BYTES)
        asked = json.loads(request)
        if os.fork() == 0:
            connection.close()
            if _is_program(socket.socket(fileno=descriptors[2])):
                os.dup2(descriptors[0], 1)
                os.dup2(descriptors[1], 2)
                for number in descriptors[:2]:
                    os.close(number)
                os.environ.clear()
                os.environ.update(asked["env"])
                return asked["arguments"]
        for number in descriptors:
            os.close(number)


def _is_program(status):
    """Forks the program: True in it; the parent reports its process id and its end, and exits."""
    pid = os.fork()
    if pid == 0:
        status.close()
        return True
    status.sendall(f"{pid}\n".encode())
    end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    status.sendall(
        f"{end.si_status if end.si_code == os.CLD_EXITED else -end.si_status}\n".encode()
    )
    status.recv(1)  # its end has been read, or nobody will
    os.waitpid(pid, 0)
    os._exit(0)


if __name__ == "__main__":
    import gc
    import importlib
    import runpy

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # as by `clac-jax train`
    sys.path[0] = str(_ROOT)
    for name in _PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    sys.argv = _serve(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_path(sys.argv[0], run_name="__main__")
