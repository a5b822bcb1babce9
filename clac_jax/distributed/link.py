"""Connections between the processes of a run: they meet, agree, and detect the loss of one.

The first process listens at HOST:PORT and all others connect to it. Messages are lines of JSON. A
thread in each process sends heartbeats and listens for them; it does not depend on the devices,
where a collective with a lost process may never return. When a process is lost, the thread saves
what is available, gives the reason in one sentence and ends the program.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from clac_jax.distributed import tunnel
from clac_jax.distributed.agreement import Facts, difference
from clac_jax.distributed.connection import (
    NOT_A_MESSAGE,
    NOTICE_SECONDS,
    PROTOCOL,
    REPLY_SECONDS,
    RETRY_SECONDS,
    Connection,
    MissingProcessError,
    ProcessError,
    call_tunnel,
    connect,
    listen,
    own_name,
)
from clac_jax.distributed.lost_process import OWN_END_SECONDS, LostProcessError, ProcessLoss
from clac_jax.distributed.meeting import ENDING, why_incomplete, why_refused
from clac_jax.distributed.preemption import EXIT_PREEMPTED, say

MAX_BEAT_SECONDS = 5.0
REFUSAL_SECONDS = 3.0  # so that late processes get the same answer
MIN_STRANGERS = 64  # unidentified connections; beyond these the oldest is closed
FAREWELL_SECONDS = 0.2  # closing a connection immediately can lose the last line


class Link:
    """The connections of this process to the others of its run.

    Attributes:
        loss: the reason if another process is lost, and how this one then ends (`ProcessLoss`).
        handlers: key of a message -> called with the sender's number and the value, to add kinds.
    """

    def __init__(
        self,
        address: str,
        index: int,
        count: int,
        connect_seconds: float,
        silence_seconds: float,
        service_port: int = 0,
    ):
        """Opens the port (first process), or connects to it and waits for the first process.

        Args:
            address: HOST:PORT of the first process.
            index: number of this process.
            count: number of processes.
            connect_seconds: time to wait for the others, seconds.
            silence_seconds: time after which a silent process is considered lost, seconds.
            service_port: port of JAX's service on the first process, the target of the tunnels.

        Raises:
            MissingProcessError: the first process cannot be reached in time.
            ProcessError: the port is in use, or the first process refuses.
        """
        self.loss = ProcessLoss(index)
        self.handlers: dict[str, Callable[[int, Any], None]] = {}
        self._address = address
        self._index, self._count = index, count
        self._deadline = time.monotonic() + connect_seconds
        self._connect_seconds = connect_seconds
        self._silence_seconds = silence_seconds
        self._service_port = service_port
        self._changed = threading.Condition()
        self._others: dict[int, Connection] = {}
        self._strangers: list[Connection] = []
        self._said: dict[str, dict[int, Facts]] = {}  # first process: facts by name
        self._verdicts: dict[str, str] = {}
        self._gone: set[int] = set()
        self._refused = ""  # why the meeting is refused
        self._is_incomplete = False  # whether a process did not come in time
        self._met = self._closing = self._closed = False
        self._slept, self._woke = 0.0, -math.inf  # seconds suspended, and time of waking up
        self._selector = selectors.DefaultSelector()
        if index == 0:
            self._listener = listen(address)
            self._selector.register(self._listener, selectors.EVENT_READ, None)
        else:
            first = connect(address, index, count, connect_seconds)
            self._others[0] = first
            self._selector.register(first.socket, selectors.EVENT_READ, first)
        threading.Thread(target=self._watch, name="processes", daemon=True).start()

    def agree(self, name: str, facts: Facts) -> None:
        """Returns when all processes have called it and the first one finds their facts equal.

        Args:
            name: name of this point of the run; all processes pass these points in the same order.
            facts: the facts of this process.

        Raises:
            ProcessError: the facts differ (raised in all processes).
            MissingProcessError: not all processes have come in time.
        """
        if self._index == 0:
            with self._changed:
                self._said.setdefault(name, {})[0] = facts
            self._judge(name)
        else:
            self._others[0].send(agree=name, facts=facts)
        notice_at = time.monotonic() + NOTICE_SECONDS
        with self._changed:
            while name not in self._verdicts:
                self._changed.wait(RETRY_SECONDS)
                now = time.monotonic()
                if now > notice_at:
                    where = f"({name})" if self._met else f"at {self._address}"
                    say(f"waiting for {self._missing(name)} {where}")
                    notice_at = math.inf
                if self._index == 0 and not self._met and now > self._deadline:
                    self._is_incomplete = not self._refused
                    self._verdicts[name] = self._refused or why_incomplete(
                        self._missing(name), self._address, self._connect_seconds
                    )
                    outcome = {"difference": self._verdicts[name], "missing": self._is_incomplete}
                    self.tell(verdict=name, gone=[], **outcome)
            verdict, self._met = self._verdicts[name], True
            self._closing = self._closing or bool(verdict)
        if verdict:
            raise MissingProcessError(verdict) if self._is_incomplete else ProcessError(verdict)

    def collective_failed(self, reason: str) -> None:
        """Waits while the watching thread ends the program; returns only if the run has ended.

        Args:
            reason: the collective's error; the loss of a process, if detected, takes precedence.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.loss.reason is not None, OWN_END_SECONDS)
            if self._closing:
                return
        self._lose(f"a collective has failed ({reason})")
        self.loss.wait_for_the_end()

    def leaves(self, why: str, code: int) -> None:
        """Reports to the others that this process exits, why, and with which exit code."""
        self._closing = True
        self.tell(leaving=why, code=code)
        time.sleep(FAREWELL_SECONDS)

    def end(self) -> bool:
        """Waits until all processes have done their work.

        Returns:
            Whether all are still connected.
        """
        if self._index == 0:
            with self._changed:
                self._closing = True  # a loss is harmless from now on
                self._said.setdefault("end", {})[0] = {}
            self._judge("end")
            with self._changed:
                self._changed.wait_for(lambda: "end" in self._verdicts)
        else:
            self.agree("end", {})
            self._closing = True
        return not self._gone and self.loss.reason is None

    def close(self) -> None:
        """Closes the connections; the first process waits until the others have closed theirs."""
        self._closing = True
        if self._index == 0:
            with self._changed:
                self._changed.wait_for(lambda: len(self._gone) >= self._count - 1, REPLY_SECONDS)
            self._listener.close()
        self._closed = True
        for connection in self._others.values():
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)

    def tunnel_entrance(self) -> int:
        """A port on this machine that leads to JAX's service in the first process."""
        return tunnel.open_entrance(functools.partial(call_tunnel, self._address))

    def _missing(self, name: str) -> str:
        """The processes that have not reached a point of the run, in words."""
        if self._index:
            return "the other processes"
        missing = [n for n in range(1, self._count) if n not in self._said.get(name, {})]
        return (
            f"{len(missing)} of {self._count} processes ({', '.join(map(str, missing[:10]))}"
            f"{', ...' if len(missing) > 10 else ''})"
        )

    # Methods of the watching thread.

    def _watch(self) -> None:
        try:
            self._watch_until_closed()
        finally:
            self._selector.close()
            for connection in [*self._others.values(), *self._strangers]:
                connection.socket.close()

    def _watch_until_closed(self) -> None:
        beat = min(MAX_BEAT_SECONDS, self._silence_seconds / 6)
        last = time.monotonic()
        while not self._closed:
            events = self._selector.select(max(0.0, last + beat - time.monotonic()))
            now = time.monotonic()
            if now - last > 2 * beat + 1:
                self._slept, self._woke = now - last, now
            for key, _ in events:
                if key.data is None:
                    self._accept()
                else:
                    self._receive(key.data)
            now = time.monotonic()
            if now - last < beat:
                continue
            elapsed, last = min(now - last, 2 * beat), now
            self.tell()
            for connection in [*self._others.values(), *self._strangers]:
                connection.silence += elapsed
            self._drop_the_silent()

    def _drop_the_silent(self) -> None:
        for stranger in [s for s in self._strangers if s.silence > REPLY_SECONDS]:
            self._forget(stranger)
        for connection in list(self._others.values()):
            if connection.silence > self._silence_seconds:
                connection.silence = 0.0
                self._lost(
                    connection,
                    f"{connection.name} was not heard from for {self._silence_seconds:g} seconds "
                    "(config.distributed.failure_seconds)",
                )

    def _accept(self) -> None:
        if len(self._strangers) >= max(MIN_STRANGERS, 2 * self._count):
            self._forget(self._strangers[0])
        with contextlib.suppress(OSError):
            accepted, _ = self._listener.accept()
            connection = Connection(accepted)
            self._strangers.append(connection)
            self._selector.register(accepted, selectors.EVENT_READ, connection)

    def _receive(self, connection: Connection) -> None:
        lines = connection.lines()
        if lines is None:
            self._forget(connection)
            if connection.number is not None:
                self._lost(
                    connection,
                    f"the connection to {connection.name} was closed: it was killed, or its host "
                    "or network failed",
                )
            return
        for line in lines:
            try:
                message = json.loads(line)
                if connection.number is None:
                    self._welcome(connection, message)
                else:
                    self._handle(connection, message)
            except NOT_A_MESSAGE:
                self._forget(connection)
                return

    def _welcome(self, connection: Connection, message: dict[str, Any]) -> None:
        """Handles the first line of a process that has connected to the first one."""
        if message["hello"] != PROTOCOL:
            connection.send(refused=f"Process 0 runs another version of clac-jax ({PROTOCOL!r}).")
            raise ValueError(message["hello"])
        if message.get("tunnel"):
            service = socket.create_connection(("127.0.0.1", self._service_port))
            self._selector.unregister(connection.socket)
            self._strangers.remove(connection)
            connection.send(welcome="tunnel")
            tunnel.carry(connection.socket, service)
            return
        number, count, name = int(message["index"]), int(message["count"]), str(message["name"])
        if not self._refused and (self._closing or self.loss.reason is not None):
            connection.send(ending=ENDING)
            self._forget(connection)
            return
        refused = why_refused(number, count, self._count, self._address, self._others, self._met)
        if refused:
            # Once they have met, the loss of the one that has this number may not be known yet.
            is_final = not self._met or number not in self._others
            for_seconds = 0.0 if is_final else self._silence_seconds
            connection.send(refused=refused, for_seconds=for_seconds)
            self._forget(connection)
            if count != self._count and not self._met:
                with self._changed:
                    self._refused = refused
                    self._deadline = min(self._deadline, time.monotonic() + REFUSAL_SECONDS)
            return
        self._strangers.remove(connection)
        connection.number, connection.name = number, name
        with self._changed:
            self._others[number] = connection
        connection.send(welcome=own_name(0))

    def _handle(self, connection: Connection, message: dict[str, Any]) -> None:
        assert connection.number is not None
        if "agree" in message:
            with self._changed:
                said = self._said.setdefault(message["agree"], {})
                said[connection.number] = dict(message["facts"])
            self._judge(message["agree"])
        elif "verdict" in message:
            with self._changed:
                self._is_incomplete = bool(message.get("missing"))
                self._verdicts[message["verdict"]] = str(message["difference"])
                self._gone.update(message["gone"])
                self._changed.notify_all()
        elif "leaving" in message:
            self._met = True  # the cause of its end would end a replacement, too
            self._lost(
                connection,
                f"{connection.name} ended: {message['leaving']}",
                stopped=message["code"] == EXIT_PREEMPTED,
            )
        elif "lost" in message:
            reason = str(message["lost"])
            about_this_one = reason.startswith(own_name(self._index))
            self._lose(
                f"the others have ended: {reason}" if about_this_one else reason,
                stopped=bool(message["stopped"]),
            )
        for name in self.handlers.keys() & message.keys():
            self.handlers[name](connection.number, message[name])

    def _judge(self, name: str) -> None:
        """In the first process: compares the facts when all have arrived, and sends the result."""
        with self._changed:
            said = self._said.get(name, {})
            absent = set(range(self._count)) - set(said)
            if name in self._verdicts or absent - self._gone:
                return
            verdict, self._met = difference(said), True
            self._verdicts[name] = verdict
            self._changed.notify_all()
        self.tell(verdict=name, difference=verdict, gone=sorted(self._gone))

    def _forget(self, connection: Connection) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(connection.socket)
        with contextlib.suppress(ValueError):
            self._strangers.remove(connection)
        connection.socket.close()

    def _lost(self, connection: Connection, reason: str, stopped: bool = False) -> None:
        assert connection.number is not None
        with self._changed:
            if self._index == 0 and not self._met:  # a replacement may connect
                self._others.pop(connection.number, None)
                for said in self._said.values():
                    said.pop(connection.number, None)
                self._forget(connection)  # if it is only slow, it will notice
                return
            self._gone.add(connection.number)
            self._changed.notify_all()
        self._judge("end")
        self._lose(reason, stopped)

    def _lose(self, reason: str, stopped: bool = False) -> None:
        """Starts the end of the program; `stopped`: whether a process has ended on request."""
        if self._closing or not self.loss.begin(reason):
            return
        with self._changed:
            self._changed.notify_all()
        code = EXIT_PREEMPTED if stopped else LostProcessError.exit_code
        if self._index == 0:
            self.tell(lost=reason, stopped=stopped)
        lately = time.monotonic() - self._woke < self._silence_seconds
        slept = self._slept if lately and self._slept > self._silence_seconds / 2 else 0.0
        self.loss.end_program(slept, code, lambda last: self.tell(leaving=reason, code=last))

    def tell(self, **message: Any) -> None:
        """Sends a message from the first process to all others, or from another to the first."""
        for connection in list(self._others.values()):
            connection.send(**message)
