"""The end of the program, in a thread of its own, while the main thread takes the workdir."""

from __future__ import annotations

import threading
from typing import NoReturn


class Leaving:
    """Tells a thread that ends the program when no request to take the workdir is in transit."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_asked = self._is_taking = False

    def begin_taking(self) -> None:
        """Called before a request that may take the workdir; blocks if the program is to end."""
        with self._changed:
            if not self._is_asked:
                self._is_taking = True
                return
        wait_for_the_end()

    def end_taking(self) -> None:
        """Called when the outcome of the last such request is known."""
        with self._changed:
            self._is_taking = False
            self._changed.notify_all()

    def ask(self, seconds: float) -> None:
        """Allows no more requests to take the workdir, and waits for that in transit.

        Args:
            seconds: limit of the wait: the store may not answer.
        """
        with self._changed:
            self._is_asked = True
            self._changed.wait_for(lambda: not self._is_taking, seconds)


def wait_for_the_end() -> NoReturn:
    """Blocks: another thread ends the program."""
    while True:
        threading.Event().wait()
