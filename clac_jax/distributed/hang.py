"""The end of a run that hangs: what every thread of every process is doing, one line, exit code 76.

The first process decides, and only it writes: a process that notices a hang reports it to the first
one, which asks all for their stacks, waits a moment for them, writes them into the workdir and
ends. All of this runs in threads of its own with time limits, since the main thread hangs, and so
may the disk.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from clac_jax.distributed.link import Link
from clac_jax.distributed.lost_process import LAST_SAVE_SECONDS
from clac_jax.distributed.preemption import EXIT_HUNG, say
from clac_jax.distributed.stacks import all_stacks
from clac_jax.distributed.watchdog import SAVES, Hang
from clac_jax.errors import UserError
from clac_jax.files.paths import explain

T = TypeVar("T")

STACKS = "stacks"  # folder in the workdir
ANSWER_SECONDS = 5.0  # for the other processes, which answer from a thread of their own
WRITE_SECONDS = 20.0  # for the files
AGAIN = "Start the same command again to resume."


class HungRun:
    """Ends this process, and with it the others of its run, if one of them hangs.

    Attributes:
        doing: what this process is waiting for, in words.
        save_first: saves what can be saved, before the end, and returns a sentence on the result.
        complete: called in the first process when all is saved; uploads it.
        record: called in the first process with the reason, for the record of the run.
    """

    def __init__(self, workdir: Path, link: Link | None, index: int = 0, count: int = 1):
        """Prepares for a hang.

        Args:
            workdir: the workdir; only the first process writes into it.
            link: the connections to the other processes; None if there are none.
            index: number of this process.
            count: number of processes.
        """
        self.doing: Callable[[], str] = lambda: "an unknown activity"
        self.save_first: Callable[[], str] = lambda: ""
        self.complete: Callable[[], None] = lambda: None
        self.record: Callable[[str], None] = lambda reason: None
        self._folder = workdir / STACKS
        self._link = link
        self._index, self._count = index, count
        self._changed = threading.Condition()
        self._started = self._finished = self._save_hangs = False
        self._first_answers = True
        self._reports: dict[int, tuple[str, str]] = {}  # of each process: doing, stacks
        if link:
            link.handlers.update(hung=self._hear, stacks=self._receive, written=self._finish)

    def end(self, hang: Hang) -> None:
        """Ends the program; returns only if it is ending already for another reason.

        Args:
            hang: what this process has noticed.
        """
        self._save_hangs = hang.kind in SAVES
        reason = f"it has been waiting {hang.describe()}"
        if self._link:
            reason = f"process {self._index} has been waiting {hang.describe()}"
        if self._link and self._index:
            self._link.tell(hung=reason)
            with self._changed:
                if self._changed.wait_for(lambda: self._started, ANSWER_SECONDS):
                    return
                self._first_answers = False
        self._end_once(reason)

    def _hear(self, number: int, reason: str) -> None:
        """Handles the report of a hang, or the decision of the first process to end."""
        del number
        name, arguments = "end of a hang", (str(reason),)
        threading.Thread(target=self._end_once, args=arguments, name=name, daemon=True).start()

    def _receive(self, number: int, report: Any) -> None:
        """Handles the stacks of another process, in the first one."""
        with self._changed:
            self._reports[number] = str(report["doing"]), str(report["text"])
            self._changed.notify_all()

    def _finish(self, number: int, written: bool) -> None:
        del number, written
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def _end_once(self, reason: str) -> None:
        with self._changed:
            if self._started:
                return
            self._started = True
            self._changed.notify_all()
        # A lost process ends the program as well, with another exit code: the first reason counts.
        if self._link and not self._link.loss.begin(reason):
            return
        report = bounded(self.doing, ANSWER_SECONDS) or "", all_stacks()
        if self._index == 0:
            self._reports[0] = report
            sentences = self._gather(reason)
        else:
            sentences = self._send(report)
        text = f"error: The run hangs: {reason}. {' '.join(filter(None, sentences))} {AGAIN}"
        bounded(lambda: say(text), ANSWER_SECONDS)
        os._exit(EXIT_HUNG)

    def _gather(self, reason: str) -> list[str]:
        """In the first process: collects and writes all stacks, and saves."""
        if self._link:
            self._link.tell(hung=reason)
            with self._changed:
                everyone = range(self._count)
                self._changed.wait_for(
                    lambda: all(number in self._reports for number in everyone), ANSWER_SECONDS
                )
        with self._changed:
            reports = dict(self._reports)
        where = bounded(lambda: self._write(reason, reports), WRITE_SECONDS)
        if where is None:
            where = self._print(reports, f"{self._folder} could not be written in time")
        if self._link:
            self._link.tell(written=True)
        bounded(lambda: self.record(reason), ANSWER_SECONDS)
        saved = "" if self._save_hangs else bounded(self._save, LAST_SAVE_SECONDS)
        bounded(self.complete, LAST_SAVE_SECONDS)
        return [self._others(reports), where, saved or ""]

    def _save(self) -> str:
        try:
            return self.save_first()
        except UserError as error:
            return str(error)

    def _send(self, report: tuple[str, str]) -> list[str]:
        """In another process: sends its stacks, and waits until they are written."""
        assert self._link is not None
        self._link.tell(stacks={"doing": report[0], "text": report[1]})
        with self._changed:
            seconds = ANSWER_SECONDS + WRITE_SECONDS if self._first_answers else 0.0
            if self._changed.wait_for(lambda: self._finished, seconds):
                return ["The first process has written the stacks of all threads."]
        return [self._print({self._index: report}, "the first process does not answer")]

    def _others(self, reports: dict[int, tuple[str, str]]) -> str:
        """A sentence on what all processes are waiting for; "" if there is one process."""
        if self._count == 1:
            return ""
        by_activity: dict[str, list[str]] = {}
        for number in range(self._count):
            doing = f"waits for {reports[number][0]}" if number in reports else "does not answer"
            by_activity.setdefault(doing, []).append(str(number))
        parts = [
            f"process {', '.join(numbers[:10])}{', ...' if len(numbers) > 10 else ''} {doing}"
            for doing, numbers in by_activity.items()
        ]
        return f"Now {'; '.join(parts)}."

    def _write(self, reason: str, reports: dict[int, tuple[str, str]]) -> str:
        """Writes one file per process; returns a sentence on where they are."""
        now = time.strftime("%Y-%m-%dT%H-%M-%S", time.gmtime())
        try:
            self._folder.mkdir(exist_ok=True)
            for number, (doing, text) in sorted(reports.items()):
                head = f"{reason[0].upper()}{reason[1:]}.\nThis is process {number}, "
                path = self._folder / f"{now}-process-{number}.txt"
                path.write_text(f"{head}which waits for {doing}.\n\n{text}", encoding="utf-8")
        except OSError as error:
            return self._print(reports, f"{self._folder} cannot be written: {explain(error)}")
        return f"The stacks of all threads are in {self._folder}."

    def _print(self, reports: dict[int, tuple[str, str]], why: str) -> str:
        """Prints the stacks of this process instead; returns a sentence that says so."""
        bounded(lambda: say(reports[self._index][1]), ANSWER_SECONDS)
        return f"The stacks of its threads are printed above ({why.rstrip('.')})."


def bounded(function: Callable[[], T], seconds: float) -> T | None:
    """The result of a function that may hang; None if it fails or takes longer than `seconds`."""
    results: list[T] = []

    def run() -> None:
        with contextlib.suppress(Exception):  # this process ends, whatever fails
            results.append(function())

    thread = threading.Thread(target=run, name="end of a hang: part", daemon=True)
    thread.start()
    thread.join(seconds)
    return results[0] if results else None
