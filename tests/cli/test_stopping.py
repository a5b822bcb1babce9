"""Commands that a signal stops, wherever it arrives."""

import contextlib
import os
import signal
import time

import pytest

from clac_jax.cli.stopping import run_until_stopped

ENDS = 2.0  # seconds that a command takes if nothing stops it


class Discards:
    """An object whose removal takes time, and in which exceptions have no effect."""

    def __init__(self, number):
        self.number = number

    def __del__(self):
        os.kill(os.getpid(), self.number)
        time.sleep(0.01)


def run_to_the_end():
    until = time.monotonic() + ENDS
    while time.monotonic() < until:
        time.sleep(0.001)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_command(number, capsys):
    def command():
        os.kill(os.getpid(), number)
        run_to_the_end()
        raise AssertionError

    assert run_until_stopped(command, "all is well") == 128 + number
    assert capsys.readouterr().err == f"{number.name}: stopped; all is well.\n"


def test_a_signal_in_a_finalizer_stops_a_command(capsys):
    def command():
        Discards(signal.SIGTERM)
        run_to_the_end()
        raise AssertionError

    assert run_until_stopped(command, "all is well") == 143
    assert capsys.readouterr().err == "SIGTERM: stopped; all is well.\n"


def test_a_signal_in_code_that_catches_everything_stops_a_command():
    def command():
        for _ in range(2):  # also the second time
            with contextlib.suppress(BaseException):
                os.kill(os.getpid(), signal.SIGTERM)
                run_to_the_end()
                raise AssertionError

    assert run_until_stopped(command, "") == 143


def test_a_signal_in_the_last_operation_is_not_lost():
    def command():
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)

    assert run_until_stopped(command, "") == 143


def test_an_import_is_completed_before_the_stop(tmp_path, monkeypatch):
    """Extension modules crash if an exception interrupts their own imports."""
    monkeypatch.syspath_prepend(tmp_path)
    text = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nis_complete = True\n"
    (tmp_path / "module_with_a_signal.py").write_text(text)

    def command():
        import module_with_a_signal

        imported.append(module_with_a_signal.is_complete)
        run_to_the_end()
        raise AssertionError

    imported = []
    assert run_until_stopped(command) == 130
    assert imported == [True]


def test_the_exit_code_of_a_command_is_kept():
    assert run_until_stopped(lambda: 1) == 1


def test_the_clean_up_is_not_disturbed():
    cleaned = []

    def command():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            run_to_the_end()
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.remove("/no/such/file")
            try:
                raise FileNotFoundError
            except FileNotFoundError:
                time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGTERM)  # a second signal
            time.sleep(0.3)
            cleaned.append(True)

    assert run_until_stopped(command, "") == 130
    assert cleaned == [True]


def test_without_a_signal_it_is_as_if_it_were_called():
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    assert run_until_stopped(lambda: None, "") == 0
    with pytest.raises(ValueError, match="its own"):
        run_until_stopped(lambda: (_ for _ in ()).throw(ValueError("its own")), "")
    assert handlers == [
        signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    ]
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
