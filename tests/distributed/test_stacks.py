"""The stacks of all threads of a process, and debuggers that hold them."""

import os
import subprocess
import sys
import threading

import pytest
from helpers.paths import ROOT

from clac_jax.distributed import stacks


def test_every_thread_is_named_with_the_line_where_it_is():
    done = threading.Event()

    def wait_in_a_function_of_its_own():
        done.wait(20)

    thread = threading.Thread(target=wait_in_a_function_of_its_own, name="grain worker 7")
    thread.start()
    try:
        text = stacks.all_stacks()
    finally:
        done.set()
        thread.join()
    assert text.startswith("Thread 'MainThread', native id")
    assert "test_every_thread_is_named_with_the_line_where_it_is" in text
    own = text[text.index("Thread 'grain worker 7'") :]
    assert "in wait_in_a_function_of_its_own" in own and "done.wait(20)" in own
    assert f"{thread.native_id}  " in text[text.index("Native threads:") :]


PROMPT = """
import pdb, sys, threading, time
from clac_jax.distributed.stacks import is_debugged
assert not is_debugged(), "not yet"
def watch():
    time.sleep(0.3)
    print("debugged" if is_debugged() else "not debugged", flush=True)
threading.Thread(target=watch).start()
pdb.set_trace()
time.sleep(0.6)
"""


def test_a_prompt_of_pdb_is_recognized():
    program = subprocess.Popen(
        [sys.executable, "-c", PROMPT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with program:
        lines = []
        while not (lines and "debugged" in lines[-1]):
            lines.append(program.stdout.readline())
            assert lines[-1], lines
        program.communicate("continue\n", timeout=20)
    assert lines[-1].split()[-1] == "debugged" and "not debugged" not in lines[-1]


def test_an_attached_debugger_is_recognized(tmp_path, monkeypatch):
    status = tmp_path / str(os.getpid()) / "status"
    status.parent.mkdir()
    monkeypatch.setattr(stacks, "PROCESSES", tmp_path)
    status.write_text("Name:\tpython\nTracerPid:\t4711\nUid:\t0\n")
    assert stacks.is_debugged()
    status.write_text("Name:\tpython\nTracerPid:\t0\nUid:\t0\n")
    assert not stacks.is_debugged()


@pytest.mark.parametrize("content", [None, "", "TracerPid:\n", "TracerPid: x\n"])
def test_a_system_that_does_not_say_is_not_debugged(tmp_path, monkeypatch, content):
    monkeypatch.setattr(stacks, "PROCESSES", tmp_path)
    (tmp_path / str(os.getpid())).mkdir()
    if content is not None:
        (tmp_path / str(os.getpid()) / "status").write_text(content)
    monkeypatch.setattr(stacks, "THREADS", tmp_path / "task")
    assert not stacks.is_debugged()
    assert "\nNative threads" not in stacks.all_stacks()
