"""The fuzzer itself, and a short run of it with fixed seeds."""

import os
import subprocess
import sys

import pytest
from helpers.paths import ROOT

FUZZ = ROOT / "tools" / "fuzz.py"


def run(*arguments, **options):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        timeout=300,
        **options,
    )


def test_corrupted_files_are_read_unchanged_or_refused(tmp_path):
    formats = (
        "torch-zip,torch-legacy,lightning,safetensors,index,config.json,tokenizer.json,vocab.txt"
    )
    arguments = (f"--only={formats}", "--cases=25", "--seconds=200", "--seed=1")
    done = run(FUZZ, *arguments, f"--keep={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    table = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert set(table) == {"format", "all", *formats.split(",")}
    for name in formats.split(","):
        cases, accepted, refused = map(int, table[name].split())
        assert cases == accepted + refused == 25 and refused > 0


# Readers with each fault that the fuzzer must detect; the case number selects the fault.
CANARIES = """
import os, pathlib, sys, tempfile, time
from clac_jax.errors import UserError
from tools.fuzzing import worker
from tools.fuzzing.format import Format

worker.SECONDS = 2.0

def make(folder):
    (folder / "0").mkdir(parents=True)
    (folder / "0" / "number").write_text("-1")

def corrupt(folder, rng):
    (folder / "number").write_text(str(numbers.pop(0)))
    return True

def read(folder):
    number = int((folder / "number").read_text())
    if number == 1: raise UserError("one line")
    if number == 2: raise KeyError("x")
    if number == 3: raise UserError("many\\nlines\\nof\\na\\nmessage")
    if number == 4: bytearray(1 << 33)
    if number == 5:
        try: bytearray(1 << 33)
        except MemoryError as error: raise UserError("memory") from error
    if number == 6: b"x" * (500 << 20)
    if number == 7: return "other numbers"
    if number == 8: os.system("true")
    if number == 9: os.kill(os.getpid(), 11)
    if number == 10: time.sleep(60)
    if number == 11: os._exit(7)
    return "numbers"

numbers = list(range(12))
with tempfile.TemporaryDirectory() as scratch:
    examples = pathlib.Path(scratch, "examples")
    make(examples)
    format = Format("canary", make, corrupt, read)
    for case in range(12):
        until = time.monotonic() + 60
        results = worker.run_cases(format, examples, examples.parent, 1, case, case + 1, until)
        print(case, *(result.outcome for result in results), sep=";")
        numbers.pop(0)
"""


@pytest.fixture(scope="module")
def canaries():
    done = run("-c", CANARIES)
    assert done.returncode == 0, done.stderr
    return dict(line.split(";", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    ("case", "outcome"),
    list(
        enumerate(
            ("accepted", "refused", "traceback", "message", "memory", "memory", "memory")
            + ("wrong", "ran code", "killed", "hang", "killed")
        )
    ),
)
def test_each_kind_of_fault_is_detected(canaries, case, outcome):
    assert canaries[str(case)] == outcome
