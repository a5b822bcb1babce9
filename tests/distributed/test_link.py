"""Processes that connect, agree, wait, are lost or do not belong to the run, on real sockets."""

import http.server
import json
import math
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clac_jax.distributed import connection, link
from clac_jax.distributed.connection import PROTOCOL, MissingProcessError, ProcessError
from clac_jax.distributed.link import Link
from clac_jax.distributed.preemption import EXIT_PREEMPTED

ROOT = Path(__file__).parents[2]


@pytest.fixture
def address():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(connection, "PORT_SECONDS", 0.2)
    monkeypatch.setattr(connection, "NOTICE_SECONDS", 0.2)
    monkeypatch.setattr(link, "NOTICE_SECONDS", 0.2)
    monkeypatch.setattr(link, "REFUSAL_SECONDS", 0.5)


def outcome(address, index, count, facts, seconds=10.0):
    """The result of connecting to the other processes: an error message, or ""."""
    try:
        met = Link(address, index, count, seconds, 60.0)
        met.agree("program", facts)
        met.agree("data", {})
        met.end()
        met.close()
    except ProcessError as error:
        return str(error)
    return ""


def outcomes(address, *arguments, **options):
    with ThreadPoolExecutor(len(arguments)) as pool:
        running = [pool.submit(outcome, address, *given, **options) for given in arguments]
        return [one.result(timeout=30) for one in running]


def test_equal_processes_agree_in_any_order_of_arrival(address):
    assert outcomes(address, (2, 3, {"a": "1"}), (0, 3, {"a": "1"}), (1, 3, {"a": "1"})) == [""] * 3


def test_a_difference_is_reported_in_every_process(address):
    messages = outcomes(address, (0, 3, {"a": "1"}), (1, 3, {"a": "2"}), (2, 3, {"a": "1"}))
    assert len(set(messages)) == 1
    assert messages[0].startswith("A is 2 in process 1 and 1 in process 0.")


def test_a_process_that_does_not_come_is_waited_for_by_name(address, capfd, monkeypatch):
    monkeypatch.setattr(link, "NOTICE_SECONDS", 1.0)  # by then the other two have connected
    messages = outcomes(address, (0, 3, {}), (1, 3, {}), seconds=2.5)
    assert len(set(messages)) == 1
    assert "1 of 3 processes (2) did not come" in messages[0]
    waiting = capfd.readouterr().err
    assert f"waiting for 1 of 3 processes (2) at {address}" in waiting
    assert f"waiting for the other processes at {address}" in waiting


@pytest.mark.parametrize(
    "where, why",
    [
        ("127.0.0.1:1", "Connection refused"),
        ("no-such-host.invalid:80", "at no-such-host.invalid:80: "),
        ("127.0.0.1", "must be HOST:PORT"),
        ("127.0.0.1:99999", "must be HOST:PORT"),
    ],
)
def test_an_absent_first_process_is_named_with_the_cause(where, why, capfd):
    assert why in outcome(where, 1, 2, {}, seconds=0.5)
    assert "HOST:PORT" in why or f"waiting for process 0 at {where} (" in capfd.readouterr().err


def test_another_program_at_the_port_is_not_mistaken_for_the_first_process(address):
    host, port = address.split(":")
    server = http.server.HTTPServer((host, int(port)), http.server.SimpleHTTPRequestHandler)
    server.RequestHandlerClass.log_message = lambda *_: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        messages = outcomes(address, (0, 2, {}), (1, 2, {}))
    finally:
        server.shutdown()
        server.server_close()
    assert messages[0].startswith(f"Process 0 cannot listen at {address}: Address already in use.")
    assert f"cannot reach process 0 at {address}: another program answers there" in messages[1]


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"[]\n",
        b'{"hello": 3}\n',
        b"\x00\xff\n",
        b"{" * 70_000,
        b"",
        b"[" * 4_000 + b"\n",
        json.dumps({"hello": PROTOCOL, "index": math.inf, "count": 2, "name": ""}).encode() + b"\n",
    ],
)
def test_a_stranger_that_calls_changes_nothing(address, line):
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(outcome, address, 0, 2, {})
        host, port = address.split(":")
        while True:
            try:
                stranger = socket.create_connection((host, int(port)))
                break
            except ConnectionRefusedError:
                time.sleep(0.01)
        stranger.sendall(line)
        assert outcome(address, 1, 2, {}) == ""
        assert first.result(timeout=20) == ""
        stranger.close()


@pytest.mark.slow
def test_many_strangers_do_not_use_up_the_files_of_the_first_process(address):
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(outcome, address, 0, 2, {})
        host, port = address.split(":")
        silent = []
        while len(silent) < 200:
            try:
                silent.append(socket.create_connection((host, int(port))))
            except ConnectionRefusedError:
                time.sleep(0.01)
        assert outcome(address, 1, 2, {}) == ""
        assert first.result(timeout=20) == ""
        for one in silent:
            one.settimeout(5)
            assert one.recv(1) == b"", "closed: the oldest for the newer ones, these at the end"
            one.close()


def test_two_of_one_number_and_one_too_many_are_refused_and_the_others_train(address):
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(outcome, address, 0, 3, {})
        second = Link(address, 1, 3, 5.0, 60.0)
        assert "Process 1 of the run at" in outcome(address, 1, 3, {})
        assert "cannot listen" in outcome(address, 0, 3, {})
        third = pool.submit(outcome, address, 2, 3, {})
        second.agree("program", {})
        assert "has already joined" in outcome(address, 2, 3, {}, seconds=0.5)
        second.agree("data", {})
        second.end()
        second.close()
        assert first.result(timeout=20) == third.result(timeout=20) == ""


@pytest.fixture
def met(address):
    """Two processes that have met, until the test calls the function that ends them."""
    links = []

    def both(act):
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(act, links, timeout=20))

    def end():
        both(Link.end)
        both(Link.close)

    links += [Link(address, index, 2, 5.0, 2.0) for index in range(2)]
    both(lambda each: each.agree("program", {}))
    return links, end


def test_a_process_started_again_waits_until_the_run_before_has_ended(address, met, capfd):
    """The first process of that run still saves, for longer than another program may answer."""
    (first, _), end = met
    first.loss.begin("process 1 was lost")
    with ThreadPoolExecutor(1) as pool:
        restarted = pool.submit(outcome, address, 1, 2, {}, seconds=2.0)
        time.sleep(3.0)  # longer than it waits for a first process that does not answer
        assert not restarted.done()
        end()
        assert outcome(address, 0, 2, {}) == restarted.result(timeout=20) == ""
    assert "the previous run has not ended yet" in capfd.readouterr().err


def test_a_second_process_of_a_number_is_refused_when_a_loss_would_have_been_noticed(address, met):
    """Its machine may have been replaced; the connection to the old one is silent, not closed."""
    began = time.monotonic()
    assert "Process 1 of the run at" in outcome(address, 1, 2, {})
    assert time.monotonic() - began >= 2.0
    met[1]()


def test_a_missing_process_is_not_an_error_of_the_user(address):
    """A supervisor starts the run again: the machine of the missing one may be on its way."""
    with ThreadPoolExecutor(2) as pool:
        links = [pool.submit(Link, address, index, 3, 1.0, 60.0) for index in (0, 1)]
        for each in links:
            with pytest.raises(MissingProcessError, match="did not come") as failure:
                each.result(timeout=20).agree("program", {})
            assert failure.value.exit_code == 1
    with pytest.raises(MissingProcessError, match="cannot reach process 0"):
        Link("127.0.0.1:1", 1, 2, 0.1, 60.0)


def test_a_different_number_of_processes_is_reported_in_all(address):
    messages = outcomes(address, (0, 2, {}), (1, 3, {}), (2, 3, {}))
    assert all("config.distributed.num_processes is 3 in process" in text for text in messages)


# A lost process ends the program, so this is tested on small separate programs.

PROGRAM = """
import sys, time
from clac_jax.distributed import lost_process
from clac_jax.distributed.link import Link

index, address, wait = int(sys.argv[1]), sys.argv[2], sys.argv[3]
lost_process.OWN_END_SECONDS = 0.3
met = Link(address, index, 2, 20, 1.5)
met.agree("program", {})
if index == 0:
    met.loss.save_first = lambda: "Step 7 is saved."
print("met", flush=True)
exec(wait)
met.end()
met.close()
print("ended", flush=True)
"""
FOREVER = "time.sleep(60)"


@pytest.fixture
def pair(address):
    """(waits) -> two processes that have met; they are gone at the end, whatever the test did."""
    running = []

    def start(waits=(FOREVER, FOREVER)):
        for index, wait in enumerate(waits):
            running.append(
                subprocess.Popen(
                    [sys.executable, "-c", textwrap.dedent(PROGRAM), str(index), address, wait],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=os.environ | {"PYTHONPATH": str(ROOT)},
                )
            )
        assert [process.stdout.readline() for process in running] == ["met\n", "met\n"]
        return running

    yield start
    for process in running:
        with process:
            process.kill()


def end_of(process):
    try:
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
    return process.returncode, err.strip()


@pytest.mark.parametrize("victim", [0, 1])
def test_the_other_notices_a_killed_process_and_says_so_in_one_sentence(pair, victim):
    running = pair()
    running[victim].kill()
    code, err = end_of(running[1 - victim])
    running[victim].communicate()
    assert code == 1
    assert err.startswith(f"error: Process {1 - victim} stops because the connection to process")
    assert f"process {victim} (process id {running[victim].pid} on " in err
    assert ("Step 7 is saved." in err) == (victim == 1), "the first process saves"
    assert err.count("\n") == 0


@pytest.mark.parametrize("victim", [0, 1])
def test_a_stopped_process_is_lost_and_ends_with_a_sentence_when_it_is_continued(pair, victim):
    running = pair()
    running[victim].send_signal(signal.SIGSTOP)
    code, err = end_of(running[1 - victim])
    assert code == 1
    assert f"process {victim} (process id" in err and "was not heard from for 1.5 seconds" in err
    running[victim].send_signal(signal.SIGCONT)
    code, err = end_of(running[victim])
    assert code == 1
    assert f"error: Process {victim} stops because" in err
    assert "This process itself was stopped for" in err


@pytest.mark.slow
def test_a_run_that_is_suspended_as_one_loses_no_process(pair):
    """As by `scontrol suspend`: time during which the process itself was stopped does not count."""
    # The first sleep is over when they are continued; during the second they check the clock.
    running = pair(["time.sleep(1.5); time.sleep(1)"] * 2)
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for process in running:
            process.send_signal(number)
        time.sleep(2.5 if number == signal.SIGSTOP else 0.5)
    assert [end_of(process) for process in running] == [(0, ""), (0, "")]


def test_the_message_of_a_process_that_ends_reaches_the_others(pair):
    running = pair([FOREVER, "met.leaves('row 7 is not a crystal.', 2); sys.exit(2)"])
    code, err = end_of(running[0])
    assert code == 1
    assert "ended: row 7 is not a crystal. Step 7 is saved." in err
    end_of(running[1])


def test_a_signal_to_one_that_has_nothing_to_save_ends_the_others_with_its_code(pair):
    leaves = f"met.leaves('it received SIGTERM', {EXIT_PREEMPTED}); sys.exit({EXIT_PREEMPTED})"
    running = pair([leaves, FOREVER])
    assert [end_of(process)[0] for process in running] == [EXIT_PREEMPTED, EXIT_PREEMPTED]


OUT_OF_REACH = """
from clac_jax.stores.errors import UnavailableError
def fail(): raise UnavailableError("The newest part is in /mirror.")
met.loss.save_first = fail
"""
LATE = """
lost_process.LAST_SAVE_SECONDS = 0.3
met.loss.unsaved = "What is missing is in /mirror."
met.loss.save_first = lambda: time.sleep(60)
"""


@pytest.mark.parametrize(
    "work, words",
    [
        (OUT_OF_REACH, ["The newest part is in /mirror."]),
        (LATE, ["has not ended within 0.3 seconds", "What is missing is in /mirror."]),
    ],
    ids=["out of reach", "late"],
)
def test_not_preempted_when_not_everything_is_saved(pair, work, words):
    leaves = f"met.leaves('it received SIGTERM', {EXIT_PREEMPTED}); sys.exit({EXIT_PREEMPTED})"
    running = pair([work + FOREVER, "time.sleep(0.3);" + leaves])
    code, err = end_of(running[0])
    assert code == 1, "75 would say that nothing is missing"
    assert err.startswith("error: Process 0 stops because") and err.count("\n") == 0
    assert all(each in err for each in words)
    end_of(running[1])


def test_the_first_does_not_wait_at_the_end_for_one_that_is_gone(pair):
    running = pair(["print('ending', flush=True)", FOREVER])
    assert running[0].stdout.readline() == "ending\n"
    time.sleep(0.3)
    running[1].kill()
    assert end_of(running[0]) == (0, "")
    running[1].communicate()
