"""The progress of a run, as shown to the user."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm


class ProgressLine:
    """A progress bar on a terminal; elsewhere a plain line at intervals."""

    def __init__(
        self,
        total_steps: int,
        step: int,
        seconds_between_lines: float = 15.0,
    ):
        """Starts at `step` of `total_steps`; the plain lines are a minimum time apart."""
        self._is_terminal = sys.stderr.isatty()
        self._every = seconds_between_lines
        self._bar = tqdm(
            total=total_steps,
            initial=step,
            disable=not self._is_terminal,
            dynamic_ncols=True,
            unit="step",
        )
        self._total = total_steps
        self._first_step, self._step = step, step
        self._started = self._printed = time.monotonic()

    def update(self, row: Mapping[str, Any]) -> None:
        """Shows a train row: the loss, examples per second and the remaining time."""
        step, epoch, loss = row["step"], row["epoch"], row["loss"]
        rate = row["examples_per_second"]
        self._bar.set_description(f"epoch {epoch}")
        self._bar.set_postfix_str(f"loss {loss:.3f}, {rate:.0f} crystals/s")
        self._bar.update(step - self._step)
        self._step = step
        now = time.monotonic()
        due = now - self._printed >= self._every or step == self._total
        if not self._is_terminal and due and step > self._first_step:
            self._printed = now
            left = (now - self._started) / (step - self._first_step) * (self._total - step)
            print(
                f"epoch {epoch}  step {step}/{self._total}  loss {loss:.3f}  "
                f"{rate:.0f} crystals/s  {tqdm.format_interval(left)} left",
                flush=True,
            )

    def say(self, text: str) -> None:
        """Prints a line without breaking the bar."""
        if self._is_terminal:
            self._bar.write(text)
        else:
            print(text, flush=True)

    def close(self) -> None:
        """Closes the bar."""
        self._bar.close()


class SilentLine:
    """The progress line of all processes except the first; it shows nothing."""

    def update(self, row: Mapping[str, Any]) -> None:
        """Does nothing."""

    def say(self, text: str) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""
