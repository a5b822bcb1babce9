"""Handling of a lost process: how this one saves and ends."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from clac_jax.distributed.preemption import EXIT_PREEMPTED, say
from clac_jax.errors import UserError

# An error that ends all processes may reach this one from another first: its own is clearer.
OWN_END_SECONDS = 2.0
LAST_SAVE_SECONDS = 300.0


class LostProcessError(UserError):
    """Another process of the run was lost; its own message gives the reason."""

    # Lower than the codes of errors and signals: a launcher reports the highest of all processes.
    exit_code = 1


class ProcessLoss:
    """Ends the program from a separate thread, since the main thread may never return.

    The main thread waits in a collective with the lost process, or stops at the next call of
    `wait_if_lost`; so nothing changes the state while it is saved.

    Attributes:
        reason: why a process is lost; None while none is.
        save_first: called before the end; saves what it can and returns a sentence on the result.
            A `UserError` is reported, and gives the exit code: not all of the run is saved.
        unsaved: a sentence on where the work is that `save_first` has not saved in time.
        main_ends: whether the main thread is about to save and end the program without the others.
    """

    def __init__(self, index: int):
        """Prepares for the process with number `index`."""
        self.reason: str | None = None
        self.save_first: Callable[[], str] = lambda: ""
        self.unsaved = ""
        self.main_ends = False
        self._index = index
        self._main_waits = threading.Event()
        self._lock = threading.Lock()

    def begin(self, reason: str) -> bool:
        """Sets the reason; False if the program is already ending for a different reason."""
        with self._lock:
            is_first = self.reason is None
            self.reason = reason if is_first else self.reason
            return is_first

    def wait_if_lost(self) -> None:
        """Blocks for the rest of the program if a process is lost."""
        if self.reason is not None:
            self.wait_for_the_end()

    def wait_for_the_end(self) -> None:
        """Blocks for the rest of the program."""
        self._main_waits.set()
        while True:
            time.sleep(3600)

    def end_program(self, slept: float, code: int, tell: Callable[[int], None]) -> None:
        """Saves, reports the reason and exits, in the background.

        Args:
            slept: seconds for which this process itself was suspended, if that may be the cause.
            code: the exit code if everything is saved that can be.
            tell: informs the other processes of the exit code.
        """

        def end() -> None:
            self._main_waits.wait(OWN_END_SECONDS)
            if self.main_ends:
                self._main_waits.wait(LAST_SAVE_SECONDS)
            saved, own_code = self._save(code)
            tell(own_code)
            prefix = "" if own_code == EXIT_PREEMPTED else "error: "
            sentences = [
                f"{prefix}Process {self._index} stops because {str(self.reason).rstrip('.')}.",
                f"This process itself was stopped for {slept:.0f} seconds." if slept else "",
                saved,
                "Start the same command on all hosts again.",
            ]
            say(" ".join(filter(None, sentences)))
            os._exit(own_code)

        threading.Thread(target=end, name="lost process", daemon=True).start()

    def _save(self, code: int) -> tuple[str, int]:
        """Saves what it can within a time; returns a sentence, and the exit code."""
        late = f"Its last save has not ended within {LAST_SAVE_SECONDS:g} seconds. {self.unsaved}"
        results = [(late.strip(), LostProcessError.exit_code)]

        def save() -> None:
            try:
                results.append((self.save_first(), code))
            except UserError as error:  # 75 would say that nothing is missing
                results.append((str(error), error.exit_code))
            except Exception as error:
                results.append((f"The save failed: {error}.", LostProcessError.exit_code))

        saving = threading.Thread(target=save, daemon=True)
        saving.start()
        saving.join(LAST_SAVE_SECONDS)
        return results[-1]
