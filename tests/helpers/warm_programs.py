"""Programs in forks of a process that has already imported what they need.

Importing JAX, Orbax and the rest takes a third of the time of a small run. A fork runs a script
from its first line to the exit of the interpreter, with its own environment, folder and output; no
device has been opened before. Unlike a program that a user starts, it finds modules imported,
draws no pictures, and shares the hash seed and what is read from PYTHON... and JAX_... at the
start with the other forks. Tests of exactly that start a new interpreter.
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
ROOT = Path(__file__).parents[2]
MAIN = ROOT / "main.py"
_MAX_BYTES = 1 << 20


class WarmPrograms:
    """Context manager: forks `main.py` and other scripts from a process that it starts when needed.

    At the end, or if this process is killed, programs that still run are killed too.

    Args:
        environment: that of the process that is forked.
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

    def start(self, arguments, env, stdout=None, stderr=None, script=MAIN, cwd=ROOT):
        """`python SCRIPT ARGUMENTS` in a fork: a `WarmProcess`; streams as for `subprocess.Popen`.

        Only variables that are read after the imports may differ from those of the forked process.
        """
        if self._server is None:
            self._start_server()
        early = {name for name in env if name.startswith(("JAX_", "PYTHON"))}
        changed = {name for name in early if env[name] != self._environment.get(name)}
        assert not changed, "read before the fork: start a new interpreter"
        request = {
            "script": str(script),
            "arguments": [str(argument) for argument in arguments],
            "cwd": str(cwd),
            "env": dict(env),
        }
        return WarmProcess(self._socket, request, stdout, stderr)

    def _start_server(self):
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env=self._environment,
                cwd=ROOT,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )


class WarmProcess:
    """A running fork; what the tests use of `subprocess.Popen`."""

    def __init__(self, server, request, stdout, stderr):
        self.returncode = None
        self._out, out = _stream(stdout)
        self._err, err = (None, out) if stderr == subprocess.STDOUT else _stream(stderr)
        self._status, theirs = socket.socketpair()
        for stream in (self._out, self._err, self._status):
            if stream is not None:
                weakref.finalize(self, stream.close)
        message = f"{json.dumps(request)}\n".encode()
        with theirs:
            sent = socket.send_fds(server, [message], [out, err, theirs.fileno()])
            server.sendall(message[sent:])
        self.pid = int(_line(self._status))

    def poll(self):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout=None):
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            self.returncode = int(_line(self._status))
            self._status.close()
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
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def _stream(stream):
    """(the file to read from, the descriptor to write to); a pipe is a file that cannot fill up."""
    if stream == subprocess.PIPE:
        file = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
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
    """Forks for each request; returns only in the forks: the request."""
    while True:
        request, descriptors, *_ = socket.recv_fds(connection, _MAX_BYTES, 3)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not request:  # the tests have ended, or were killed
            os.killpg(0, signal.SIGKILL)
        while not request.endswith(b"\n"):
            request += connection.recv(_MAX_BYTES)
        if os.fork() == 0:
            connection.close()
            if _is_program(socket.socket(fileno=descriptors[2])):
                os.dup2(descriptors[0], 1)
                os.dup2(descriptors[1], 2)
                for number in descriptors[:2]:
                    os.close(number)
                return json.loads(request)
        for number in descriptors:
            os.close(number)


def _is_program(status):
    """Forks the program: True in it; the parent reports its process id and its end, and exits."""
    pid = os.fork()
    if pid == 0:
        status.close()
        return True
    status.sendall(f"{pid}\n".encode())
    _, end = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):  # the test has not waited for the end
        status.sendall(f"{os.waitstatus_to_exitcode(end)}\n".encode())
    os._exit(0)


def _draw_nothing():
    """Files of pictures without pixels: drawing takes a seventh of the time of a small run."""
    from matplotlib.figure import Figure

    draw = Figure.savefig

    def savefig(figure, file, **options):
        if isinstance(file, str | os.PathLike):
            Path(file).write_bytes(b"")
        else:  # a picture within a page
            draw(figure, file, **options)

    Figure.savefig = savefig


if __name__ == "__main__":
    import gc
    import importlib
    import runpy

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # as by `clac-jax train`
    for name in _PRELOADED:
        importlib.import_module(name)
    _draw_nothing()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)  # as in conftest.py
    request = _serve(socket.socket(fileno=int(sys.argv[1])))
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.argv = [request["script"], *request["arguments"]]
    sys.path[0] = str(Path(request["script"]).resolve().parent)
    runpy.run_path(request["script"], run_name="__main__")
