"""Runs a function in a separate process with a time limit.

Each measurement starts with an unused device, and whatever stops one (memory, time, a driver crash)
does not affect the others.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CHECK = ROOT / "tools" / "gpu_check.py"
LINES_OF_ERROR = 12
SHOW_STACK = signal.SIGUSR1
SECONDS_FOR_STACK = 1.0


class ChildError(Exception):
    """A process did not finish.

    Attributes:
        partial: its measurements before it failed.
    """

    def __init__(self, message: str, partial: Any) -> None:
        super().__init__(message)
        self.partial = partial


class Child:
    """A running function of `tools/gpu/workers.py`.

    Attributes:
        folder: its temporary folder, which is removed with it.
    """

    def __init__(
        self,
        function: str,
        arguments: Mapping[str, Any],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Starts the process.

        Args:
            function: name of the function.
            arguments: keyword arguments, which must be JSON values.
            environment: variables added to those of this process.
        """
        self.function = function
        self._holder = tempfile.TemporaryDirectory(prefix="gpu_check_")
        folder = Path(self._holder.name)
        self._result, self._log = folder / "result.json", folder / "log"
        order = {"function": function, "arguments": arguments, "result": str(self._result)}
        with open(self._log, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(CHECK), f"--child={json.dumps(order)}"],
                stdout=log,
                stderr=log,
                env=os.environ | dict(environment or {}),
                cwd=ROOT,
                start_new_session=True,
            )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        self._holder.cleanup()

    def kill(self) -> None:
        """Kills the process immediately with SIGKILL if it is still running."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def partial(self) -> Any:
        """The measurements so far."""
        if not self._result.exists():
            return None
        return json.loads(self._result.read_text(encoding="utf-8"))

    def result(self, deadline: float) -> Any:
        """Waits for the process to finish and returns its measurements.

        Args:
            deadline: `time.monotonic()` at which the process is killed.

        Raises:
            ChildError: the process failed or exceeded the deadline.
        """
        try:
            code = self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise self.out_of_time() from error
        if code != 0:
            tail = self._tail()
            last = "".join(tail.splitlines()[-1:])
            raise ChildError(f"exit code {code}: {last}\n{tail}", self.partial())
        return self.partial()

    def out_of_time(self) -> ChildError:
        """Kills the process; the error contains what it last logged and was executing."""
        self.process.send_signal(SHOW_STACK)  # before `serve`, this ends the process
        try:
            self.process.wait(SECONDS_FOR_STACK)
        except subprocess.TimeoutExpired:
            self.kill()
        return ChildError(f"out of time\n{self._tail()}".rstrip(), self.partial())

    def _tail(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-LINES_OF_ERROR:])


def call(
    function: str,
    arguments: Mapping[str, Any],
    deadline: float,
    environment: Mapping[str, str] | None = None,
) -> Any:
    """Runs a function to its end; errors as for `Child.result`."""
    with Child(function, arguments, environment) as child:
        return child.result(deadline)


def serve(order: str, functions: Mapping[str, Callable[..., None]]) -> None:
    """The child's side: runs the function that `Child` was given, in this process.

    A function is called with `save`, which stores a JSON value as its result so far.
    """
    faulthandler.register(SHOW_STACK)  # works during a compilation, unlike a Python handler
    wanted = json.loads(order)
    result = Path(wanted["result"])

    def save(value: Any) -> None:
        temporary = result.with_suffix(".tmp")
        temporary.write_text(json.dumps(value), encoding="utf-8")
        temporary.replace(result)

    functions[wanted["function"]](save=save, **wanted["arguments"])
