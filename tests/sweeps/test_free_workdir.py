"""A workdir belongs to one sweep: a different one, or a training, is not mixed with it."""

import pytest
from helpers.population_program import MEMBER
from helpers.sweep_program import PRETEND, be_quick

from clac_jax.cli.main import main
from clac_jax.sweeps import driver, trial_run

PLAIN = """
from clac_jax.sweeps import log
config = "smoke"
space = {"learning_rate": log(%g, 1e-2)}
overrides = {"batch_size": %d}
sampler = "random"
budget = dict(trials=2)
"""
POPULATION = """
from clac_jax.sweeps import log
config = "smoke"
space = {"learning_rate": log(%g, 1e-2)}
overrides = {"batch_size": %d}
population = dict(
    members=2, generations=2, epochs=2, exploit=0.5, explore={"learning_rate": (0.5, 2.0)}
)
"""


@pytest.fixture
def start(tmp_path, monkeypatch, capsys):
    """(sweep file, its values, *arguments) -> (exit code, output, errors) of `sweep start`."""
    monkeypatch.delenv("CLAC_SWEEP_STORAGE", raising=False)
    for module in (trial_run, driver):
        monkeypatch.setattr(module, "POLL_SECONDS", module.POLL_SECONDS)
    be_quick()

    def run(content, low=1e-4, batch=4, *arguments):
        command = MEMBER if "population" in content else PRETEND
        monkeypatch.setattr(trial_run, "program", lambda: list(command))
        path = tmp_path / "lr.py"
        path.write_text(content % (low, batch))
        code = main(["sweep", "start", str(path), f"--workdir={tmp_path / 'w'}", *arguments])
        return code, *capsys.readouterr()

    return run


def files(folder):
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path: path.read_bytes() for path in paths}


def lose_database(tmp_path):
    for name in ("sweep.db", "sweep.json"):
        (tmp_path / "w" / name).unlink()


@pytest.mark.parametrize("content", [PLAIN, POPULATION])
def test_another_sweep_does_not_take_over_trials(start, tmp_path, content):
    assert start(content)[0] == 0
    before = files(tmp_path / "w")
    code, _, err = start(content, 1e-5, 4, "--name=other")
    assert code == 2 and "the folder of the sweep 'w'" in err and "--name=w" in err
    code, _, err = start(content, 1e-5, 4, f"--storage=sqlite:///{tmp_path / 'other.db'}")
    assert code == 2 and f"{tmp_path / 'w' / 'sweep.db'}" in err
    assert files(tmp_path / "w") == before and not (tmp_path / "other.db").exists()
    lose_database(tmp_path)
    before = files(tmp_path / "w")
    for low, batch in ((1e-5, 4), (1e-4, 2)):
        code, _, err = start(content, low, batch)
        assert code == 2 and "of a different sweep, with" in err and "Traceback" not in err
        assert ("learning_rate=" if batch == 4 else "batch_size=4; here") in err
        assert files(tmp_path / "w") == before


@pytest.mark.parametrize("content", [PLAIN, POPULATION])
def test_a_sweep_whose_database_was_lost_is_recovered_by_the_same_file(start, tmp_path, content):
    code, out, _ = start(content)
    assert code == 0
    before = {path for path in files(tmp_path / "w") if path.name == "state"}
    lose_database(tmp_path)
    code, again, err = start(content)
    assert (code, again) == (0, out) and "continues" in err
    assert {path for path in files(tmp_path / "w") if path.name == "state"} == before


def test_a_later_trial_of_a_different_sweep_ends_the_program_with_a_sentence(start, tmp_path):
    assert start(PLAIN)[0] == 0
    lose_database(tmp_path)
    trials = tmp_path / "w" / "trials"
    (trials / "0000").rename(tmp_path / "aside")
    code, _, err = start(PLAIN, 1e-5)
    assert code == 2 and f"{trials / '0001'} holds a trial of a different sweep" in err
    (trials / "0001").rename(tmp_path / "away")
    code, out, err = start(PLAIN, 1e-5)
    assert code == 0 and "2 trials of 2: 2 complete" in out


def test_a_sweep_with_another_config_does_not_take_over_trials(start, tmp_path):
    assert start(PLAIN)[0] == 0
    lose_database(tmp_path)
    code, _, err = start(PLAIN.replace('"smoke"', '"base"'))
    assert code == 2 and "differs from what the sweep was started with" in err
    assert not (tmp_path / "w" / "sweep.db").exists()


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints/4/state"])
def test_the_folder_of_a_training_is_refused(start, tmp_path, name):
    path = tmp_path / "w" / name
    path.parent.mkdir(parents=True)
    path.touch()
    code, _, err = start(PLAIN)
    assert code == 2 and "is the folder of a training" in err
    assert list(files(tmp_path / "w")) == [path]
