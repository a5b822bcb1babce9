"""The part `population` of a sweep file: what it means, and what is wrong with it."""

import dataclasses

import pytest
from helpers.population_program import MEMBER, pauses

from clac_jax.cli.main import main
from clac_jax.sweeps import choice, integer, log, trial_run
from clac_jax.sweeps.definition import Definition, SweepFileError
from clac_jax.sweeps.population_settings import completed, population_of

SPACE = {
    "learning_rate": log(1e-5, 1e-2),
    "projection_dim": integer(64, 512),
    "schedule": choice("constant", "cosine"),
}
GIVEN = Definition(
    config="smoke",
    space=SPACE,
    monitor="val_loss",
    mode="min",
    population={"members": 8, "generations": 5, "epochs": 2},
    file="sweeps/pbt.py",
    seed=7,
)


def with_population(**changes):
    return dataclasses.replace(GIVEN, population={**GIVEN.population, **changes})


def test_omitted_settings_have_defaults():
    settings = completed(GIVEN)
    plain = dataclasses.replace(GIVEN, population=settings).to_plain()
    population = population_of(Definition.from_plain(plain))
    assert (population.members, population.generations, population.epochs) == (8, 5, 2)
    assert (population.num_exploiting, population.seed, population.mode) == (2, 7, "min")
    # Numbers explore, except of the model's shape; a choice keeps its value.
    assert population.explore == {"learning_rate": (0.8, 1.25)}


@pytest.mark.parametrize(
    "given, words",
    [
        (
            dataclasses.replace(GIVEN, population=[4, 5]),
            r"population is \[4, 5\], and must be a dict",
        ),
        (with_population(member=3), "Did you mean 'members'"),
        (with_population(members=1), "members is 1. Give a whole number, 2 or more"),
        (with_population(generations=2.5), "generations is 2.5. Give a whole number"),
        (dataclasses.replace(GIVEN, population={"members": 4}), "generations is missing"),
        (with_population(exploit=0.6), "exploit is 0.6. Give a share"),
        (with_population(exploit=True), "exploit is True"),
        (with_population(explore=[]), "explore is"),
        (with_population(explore={"seed": "resample"}), '"seed" is not in the space'),
        (with_population(explore={"schedule": (0.5, 2)}), '"schedule" is a choice'),
        (
            with_population(explore={"projection_dim": (0.5, 2)}),
            '"projection_dim" cannot change from one generation to the next .this changes the',
        ),
        (dataclasses.replace(GIVEN, space={}), "space is empty"),
        (dataclasses.replace(GIVEN, budget={"trials": 9}), "it has a population and budget"),
        (dataclasses.replace(GIVEN, prune={"name": "median"}), "it has a population and prune"),
        (
            dataclasses.replace(GIVEN, overrides={"stop_at_epoch": 3}),
            '"stop_at_epoch" is in overrides, and a population sets it itself',
        ),
        (
            dataclasses.replace(GIVEN, space={**SPACE, "max_epochs": integer(1, 9)}),
            '"max_epochs" is in the space',
        ),
        (
            dataclasses.replace(GIVEN, overrides={"max_epochs": 9}),
            "max_epochs is 9, and the population trains 10 epochs .2 in each of 5 generations",
        ),
    ],
)
def test_a_mistake_is_explained_with_the_file(given, words):
    with pytest.raises(SweepFileError, match=f"^sweeps/pbt.py: .*{words}"):
        completed(given)


FILE = """
from clac_jax.sweeps import log
config = "smoke"
space = {"learning_rate": log(1e-5, 1e-1)}
population = dict(members=3, generations=3)
"""


def test_the_command_trains_a_population_and_shows_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trial_run, "program", lambda: list(MEMBER))
    for pause in pauses():
        monkeypatch.setattr(*pause)
    file, workdir = tmp_path / "pbt.py", tmp_path / "pbt"
    file.write_text(FILE)
    assert main(["sweep", "start", str(file), f"--workdir={workdir}"]) == 0
    out, err = capsys.readouterr()
    assert "finished: 9 trials of 9: 9 complete" in out
    assert err.count(" exploits member ") == 2
    last = (workdir / "members" / "00" / "gen_02" / "trial.json").read_text()
    assert "--config.max_epochs=3" in last  # not that of the config
    assert "--config.stop_at_epoch=3" in last
    page = (workdir / "sweep.html").read_text()
    assert "3 members, 3 generations so far" in page
    (workdir / "sweep.html").unlink()
    assert main(["sweep", "page", f"--workdir={workdir}"]) == 0
    assert capsys.readouterr().out.strip() == str(workdir / "sweep.html")
    assert (workdir / "sweep.html").read_text() == page
    assert main(["sweep", "best", f"--workdir={workdir}"]) == 0
    assert "members/0" in capsys.readouterr().out
