"""A trial continues in its folder only what was trained with its values."""

import json

import pytest

from clac_jax.sweeps.own_folder import ForeignFolderError, check_folder
from clac_jax.sweeps.trial_run import flag_text

VALUES = {"learning_rate": 1e-05, "schedule": "cosine", "dataset.skip": ["a", "b"], "max_epochs": 4}


@pytest.fixture
def folder(tmp_path):
    """(values of its command line, config) -> the folder of a trial that has run."""

    def make(values, config=None):
        flags = [f"--config.{key}={flag_text(value)}" for key, value in values.items()]
        (tmp_path / "metrics.jsonl").touch()
        (tmp_path / "trial.json").write_text(json.dumps({"command": [*flags], "child": {}}))
        if config is not None:
            (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return make


def test_a_folder_of_the_same_values_is_continued(folder):
    check_folder(folder(VALUES), VALUES)
    check_folder(folder(VALUES | {"learning_rate": "0.00001"}), VALUES)
    check_folder(folder(VALUES | {"restore.parts": ("params",)}), VALUES)
    earlier = {key: VALUES[key] for key in ("learning_rate", "schedule")}
    config = {"max_epochs": 4, "dataset": {"skip": ["a", "b"]}, "seed": 0}
    check_folder(folder(earlier, config), VALUES)


def test_a_folder_in_which_nothing_was_trained_yet_is_taken(folder):
    path = folder(VALUES)
    (path / "metrics.jsonl").unlink()
    check_folder(path, VALUES | {"learning_rate": 2.0})
    check_folder(path / "none", VALUES)


@pytest.mark.parametrize(
    "there, said",
    [
        (VALUES | {"learning_rate": 0.2}, ["learning_rate=0.2;", "learning_rate=1e-05"]),
        (VALUES | {"cosine.epochs": 3}, ["cosine.epochs=3;", "cosine.epochs is not set"]),
        ({"schedule": "cosine"}, ["max_epochs=9;", "max_epochs=4"]),
    ],
)
def test_a_folder_of_other_values_is_refused_and_both_are_named(folder, there, said):
    path = folder(there, {"max_epochs": 9})
    (path / "metrics.jsonl").unlink()
    (path / "checkpoints").mkdir()
    with pytest.raises(ForeignFolderError) as raised:
        check_folder(path, VALUES)
    for text in (str(path), *said, "another --workdir", "move that folder away"):
        assert text in str(raised.value)


def test_a_moved_population_is_continued_and_another_parent_is_refused(folder):
    path = folder({"resume_from": "/old/members/01/gen_02@last"})
    check_folder(path, {"resume_from": "/new/w/members/01/gen_02@last"})
    with pytest.raises(ForeignFolderError):
        check_folder(path, {"resume_from": "/old/members/00/gen_02@last"})
