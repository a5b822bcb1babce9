"""The flags of `clac-jax run`."""

import os
import subprocess
import sys

import pytest
from helpers.paths import ROOT

from clac_jax.cli import main as main_module
from clac_jax.supervision import supervisor


@pytest.fixture
def calls(monkeypatch):
    """The arguments of each call of `supervise`, which returns 75 instead of running."""
    seen = []
    monkeypatch.setattr(supervisor, "supervise", lambda *given: seen.append(given) or 75)
    return seen


@pytest.mark.parametrize(
    ("flags", "restarts"),
    [
        (["--"], supervisor.Restarts()),
        ([], supervisor.Restarts()),
        (["--max-restarts=3", "--pause", "0.5", "--"], supervisor.Restarts(3, 0.5)),
        (["--max-restarts", "0", "--"], supervisor.Restarts(0, 10.0)),
    ],
)
def test_the_training_gets_its_flags_and_the_supervisor_its_own(calls, flags, restarts):
    training = ["train", "--config=base", "--workdir=w", "--config.max_epochs=2", "--help"]
    assert main_module.main(["run", *flags, *training]) == 75
    ((command, workdir, given),) = calls
    assert command[0] == sys.executable and command[-7:] == ["-m", "clac_jax", *training]
    assert (workdir.name, given) == ("w", restarts)


def test_from_sources_the_training_is_that_of_the_same_sources(calls, monkeypatch):
    monkeypatch.setattr(sys, "path", [os.getcwd(), *sys.path])
    main_module.main(["run", "--", "train"])
    monkeypatch.setattr(sys, "path", ["/usr/bin", *sys.path])
    main_module.main(["run", "--", "train"])
    assert [command[1:-1] for command, _, _ in calls] == [
        ["-m", "clac_jax"],
        ["-P", "-m", "clac_jax"],
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--", "evaluate", "w"], "not 'evaluate'. Write: clac-jax run"),
        ([], "and none is given. Write: clac-jax run"),
        (["--max-restarts=-1", "--", "train"], "'-1' is not a number of restarts"),
        (["--max-restarts=x", "--", "train"], "'x' is not a number of restarts"),
        (["--pause=-1", "--", "train"], "'-1' is not a time in seconds"),
        (["--pause=soon", "--", "train"], "'soon' is not a time in seconds"),
    ],
)
def test_a_wrong_flag_is_an_error_of_the_user(calls, capsys, arguments, words):
    try:
        code = main_module.main(["run", *arguments])
    except SystemExit as error:  # argparse
        code = error.code
    assert code == 2 and not calls
    assert words in capsys.readouterr().err


def test_the_help_names_the_exit_codes(capsys):
    with pytest.raises(SystemExit) as end:
        main_module.main(["run", "--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0
    assert all(word in out for word in ("--max-restarts N", "--pause", "75", "76", "-- train"))


def test_an_error_of_the_training_is_reported_once_and_not_repeated(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "clac_jax", "run", "--", "train", "--workdir=w"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    assert done.stderr.count("--config is missing") == 1
    assert "try 1 ended with exit code 2 (something must be corrected)" in done.stderr
    assert list(tmp_path.iterdir()) == []
