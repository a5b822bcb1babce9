"""`clac-jax replay`, `bisect` and `blame` on runs that cannot be replayed: one line says why."""

import json

import pytest

from clac_jax.cli import main as cli
from clac_jax.errors import EXIT_USER_ERROR


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["replay", "{run}", "--step", "3"], "holds neither a journal nor a checkpoint"),
        (["replay", "{run}/none", "--step", "3"], "is not a folder"),
        (["replay", "{run}", "--step", "3", "--to", "4"], "--to belongs to --every"),
        (["replay", "{run}", "--every", "--python"], "--python is about one step"),
        (["replay", "{run}", "--every", "--save-state", "x"], "--save-state is about one step"),
        (["bisect", "{run}", "{run}"], "holds neither a journal nor a checkpoint"),
        (["blame", "{run}", "--example", "mp-149"], "holds neither a journal nor a checkpoint"),
    ],
)
def test_one_line_says_what_is_wrong(arguments, words, tmp_path, capsys):
    given = [each.format(run=tmp_path) for each in arguments]
    assert cli.main(given) == EXIT_USER_ERROR
    error = capsys.readouterr().err
    assert words in error and error.startswith("error: ") and error.count("\n") == 1


def test_a_config_of_a_different_version_is_named(tmp_path, capsys):
    start = {"event": "start", "step": 0, "start": 1, "config": {"warp_drive": True}}
    (tmp_path / "starts.jsonl").write_text(json.dumps(start) + "\n")
    assert cli.main(["blame", str(tmp_path), "--example", "0"]) == EXIT_USER_ERROR
    assert "is not one of this version of clac_jax" in capsys.readouterr().err
