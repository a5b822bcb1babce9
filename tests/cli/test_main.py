"""The command line as a whole: its version and help, and the modules that it loads."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import clac_jax
from clac_jax.cli import main as cli
from clac_jax.errors import EXIT_USER_ERROR

ROOT = Path(__file__).parents[2]


def program(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "clac_jax", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_version():
    done = program("--version")
    assert (done.returncode, done.stdout) == (0, f"clac-jax {clac_jax.__version__}\n")


def test_the_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert re.findall(r"^    (\w+)\s", shown, re.MULTILINE) == list(cli.GROUPS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("data", "prepare"), ("--data_dir", "CIF", "default: materials_project_mini")),
        (("ckpt",), ("ls", "verify", "export")),
        (("import", "lightning"), ("FILE.ckpt", "--workdir")),
    ],
)
def test_every_command_has_a_help(arguments, words, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([*arguments, "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in words)


@pytest.mark.parametrize("arguments", [(), ("trian",), ("ckpt",), ("ckpt", "sl", "x")])
def test_commands_that_there_are_not(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == EXIT_USER_ERROR
    assert "usage: clac-jax" in capsys.readouterr().err


def test_helping_loads_neither_jax_nor_the_data():
    code = (
        "import sys\nfrom clac_jax.cli import main as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: print(not {'jax', 'tensorflow_datasets', 'etils'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.endswith("True\n"), done.stdout + done.stderr


INTERRUPTED = """
import os, sys, tempfile, time
import jax, jax.numpy as jnp
from clac_jax.cli import main as cli

kept = []

class Discards:
    def __del__(self):  # an exception has no effect in it
        os.kill(os.getpid(), int(sys.argv[1]))
        time.sleep(0.01)

def compute(argv):
    kept.append(tempfile.TemporaryDirectory())
    print(kept[0].name, flush=True)
    power = jax.jit(lambda x: jax.lax.fori_loop(0, 400, lambda _, y: y @ x, x))
    kept.append(power(jnp.ones((1000, 1000))))  # still runs in XLA's threads
    Discards()
    time.sleep(60)

cli.main = compute
cli.run()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_with_one_line_and_its_exit_code(number):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(int(number))],
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (128 + number, f"{number.name}: stopped.\n")
    assert not Path(done.stdout.strip()).exists(), "a temporary folder"
