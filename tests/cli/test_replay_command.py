"""`clac-jax replay`, `bisect`, `blame` and `prove`: one line says why they cannot do it."""

import errno
import json
import os
import shutil

import pytest
from helpers.formats import FORMATS

from clac_jax.cli import main as cli
from clac_jax.errors import EXIT_USER_ERROR

OLD_RUN = str(FORMATS / "3" / "run")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["replay", "{run}", "--step", "3"], "holds neither a journal nor a checkpoint"),
        (["replay", "{run}/none", "--step", "3"], "is not a folder"),
        (["replay", "{run}", "--step", "3", "--to", "4"], "--to belongs to --every"),
        (["replay", "{run}", "--every", "--python"], "--python is about one step"),
        (["replay", "{run}", "--every", "--save-state", "x"], "--save-state is about one step"),
        (["replay", "{run}", "--step", "3", "--save-state", "{run}"], "is not empty. Name a new"),
        (["replay", "{run}", "--step", "3", "--save-state", "{run}/key/x"], "Cannot write to"),
        (["replay", OLD_RUN, "--step", "5", "--figure", "{run}/x.txt"], "does not end in .png"),
        (["prove", OLD_RUN, "--sign", "{run}/none"], "Cannot read"),
        (["prove", OLD_RUN, "--sign", "{run}/key"], "is not a private key"),
        (["bisect", "{run}", "{run}"], "holds neither a journal nor a checkpoint"),
        (["blame", "{run}", "--example", "mp-149"], "holds neither a journal nor a checkpoint"),
    ],
)
def test_one_line_says_what_is_wrong(arguments, words, tmp_path, capsys):
    (tmp_path / "key").write_text("not a key")
    given = [each.format(run=tmp_path) for each in arguments]
    assert cli.main(given) == EXIT_USER_ERROR
    error = capsys.readouterr().err
    assert words in error and error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.parametrize("flag", ["--keep", "--sign"])
def test_a_workdir_that_cannot_be_written_to_is_named_before_anything_is_compared(
    flag, tmp_path, capsys, monkeypatch
):
    assert cli.main(["prove", "--new-key", str(tmp_path / "key")]) == 0
    capsys.readouterr()

    def refuse(dir):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    given = [flag, *([str(tmp_path / "key")] if flag == "--sign" else [])]
    run = shutil.copytree(OLD_RUN, tmp_path / "run")
    assert cli.main(["prove", str(run), "--segments", "0", *given]) == EXIT_USER_ERROR
    error = capsys.readouterr().err
    assert error.startswith(f"error: Cannot write to {run}: Read-only") and error.count("\n") == 1


def test_a_config_of_a_different_version_is_named(tmp_path, capsys):
    start = {"event": "start", "step": 0, "start": 1, "config": {"warp_drive": True}}
    (tmp_path / "starts.jsonl").write_text(json.dumps(start) + "\n")
    assert cli.main(["blame", str(tmp_path), "--example", "0"]) == EXIT_USER_ERROR
    assert "is not one of this version of clac_jax" in capsys.readouterr().err
