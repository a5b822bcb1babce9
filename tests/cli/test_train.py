"""The flags of `clac-jax train` and `main.py`, which are the same program."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clac_jax.cli.train import with_config_files
from clac_jax.distributed.preemption import EXIT_PREEMPTED
from clac_jax.errors import EXIT_USER_ERROR

ROOT = Path(__file__).parents[2]
SLOW = pytest.mark.slow  # the same code, with imports for each
PROGRAMS = ("main.py", "clac-jax train")
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def begin(arguments, cwd):
    return subprocess.Popen(
        [sys.executable, "-m", "clac_jax", "train", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        **PIPES,
    )


@pytest.fixture
def start(programs, environment, tmp_path):
    """(arguments, program) -> the program; `main.py` in a fork, to import everything only once."""

    def run(arguments, program):
        if program == "main.py":
            return programs[0].start(arguments, environment(), **PIPES, cwd=tmp_path)
        return begin(arguments, tmp_path)

    return run


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_the_help(start, program, flag):
    process = start([flag], program)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert all(word in out for word in ("--config=", "base", "--workdir=", "exit codes", "75"))


@pytest.mark.parametrize("program", ["main.py", pytest.param("clac-jax train", marks=SLOW)])
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config=smok", "--workdir=x"], "Did you mean 'smoke'?"),
        (["--config=./smok", "--workdir=x"], "--config=./smok cannot be loaded"),
        (["--config=smoke"], "--workdir is missing"),
        (["--workdir=x"], "--config is missing"),
        (["--config=smoke", "--workdir=x", "more"], "unexpected argument 'more'"),
        (["--config", "smoke", "--workdir=x", "--config.batch_siz=3"], '"batch_size"'),
        (
            ["--config=base", "--workdir=x", "--config.batchsize=3"],
            'Unknown config key "batchsize". Did you mean "batch_size"?',
        ),
        (
            ["--config=base", "--workdir=x", "--config.zzz=3"],
            'Unknown config key "zzz". docs/config.md lists all keys',
        ),
        (["--config=losses:jsdd", "--workdir=x"], "Unknown loss 'jsdd'"),
        (["--config=smoke", "--workdir=x", "--nonsense"], "nonsense"),
    ],
)
def test_flags_that_are_wrong(start, tmp_path, program, flags, words):
    process = start(flags, program)
    _, err = process.communicate(timeout=60)
    assert process.returncode == EXIT_USER_ERROR
    assert err.startswith("error: ") and words in err and err.count("\n") == 1, err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("program", ["main.py", pytest.param("clac-jax train", marks=SLOW)])
def test_none_is_the_value_of_keys_that_may_be_unset(start, program):
    names = ("text_encoder.num_layers", "graph_encoder.cutoff", "text_encoder.pretrained")
    flags = [f"--config.{name}=None" for name in names]
    process = start(["--config=smoke", "--workdir=x", "--config.resume=must", *flags], program)
    _, err = process.communicate(timeout=60)
    assert process.returncode == EXIT_USER_ERROR
    assert "resume" in err and "None" not in err, "it has come to its last question"


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.resume_from=None", "x/None does not exist"),
        ("--config.batch_size=None", "invalid literal for int() with base 10: 'None'"),
        ("--config.text_encoder.num_layers=none", "invalid literal for int()"),
        ("--config.zzz=None", 'Unknown config key "zzz"'),
    ],
)
def test_none_is_a_text_like_others_elsewhere(start, tmp_path, flag, words):
    process = start(["--config=smoke", "--workdir=x", flag], "main.py")
    _, err = process.communicate(timeout=60)
    assert process.returncode == EXIT_USER_ERROR
    assert words in err.replace(str(tmp_path), "x"), err


def test_names_become_the_files_of_the_shipped_configs():
    folder = ROOT / "configs"
    assert with_config_files(["--config=base", "--workdir=base", "--config.seed=1"]) == [
        f"--config={folder / 'base.py'}",
        "--workdir=base",
        "--config.seed=1",
    ]
    assert with_config_files(["-config=losses:jsd"]) == [f"-config={folder / 'losses.py'}:jsd"]
    assert with_config_files(["--config", "smoke"]) == ["--config", str(folder / "smoke.py")]
    for path in ("base.py", "./base", "configs/base.py:a", "/a/b.py"):
        assert with_config_files([f"--config={path}"]) == [f"--config={path}"]


def test_a_file_of_the_users_comes_before_a_shipped_config(tmp_path, monkeypatch):
    (tmp_path / "base").write_text("")
    monkeypatch.chdir(tmp_path)
    assert with_config_files(["--config=base"]) == ["--config=base"]


def test_a_signal_is_heard_before_the_flags_are_read(tmp_path):
    (tmp_path / "slow.py").write_text("print('reading', flush=True)\nimport time\ntime.sleep(60)\n")
    process = begin(["--config=slow.py", "--workdir=run"], tmp_path)
    assert process.stdout.readline() == "reading\n"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == EXIT_PREEMPTED
    assert "SIGTERM: stopping" in err and "Traceback" not in err
    assert not (tmp_path / "run").exists()
