"""Whether the folder of a sweep is free for it: it holds neither a run nor another sweep."""

from __future__ import annotations

from pathlib import Path

from clac_jax.sweeps import opened
from clac_jax.sweeps.database import shown_url
from clac_jax.sweeps.definition import Definition
from clac_jax.sweeps.own_folder import ForeignFolderError, check_folder, has_started
from clac_jax.sweeps.population import first_plans
from clac_jax.sweeps.population_run import overrides_of, path_of
from clac_jax.sweeps.population_settings import population_of
from clac_jax.sweeps.sampling import propose


def check_workdir(given: Definition, place: opened.Place) -> None:
    """Checks that a sweep may be started, or continued, in its workdir; nothing is written there.

    Where this sweep is already in its database, the folder of each trial is checked when the trial
    is taken. A sweep whose database was lost may be started again.

    Args:
        given: the sweep file.
        place: where it is to be.

    Raises:
        ForeignFolderError: a run or another sweep has used the workdir.
        SweepFileError, ConfigError: it has trials, and the sweep's config cannot be used, or
            differs from that of the trials.
        StorageError: the database cannot be used.
    """
    workdir = place.workdir
    if has_started(workdir):
        raise ForeignFolderError(
            f"{workdir} is the folder of a training, whose files a sweep would mix with its own. "
            "Give another --workdir."
        )
    noted = opened.noted_in(workdir)
    name = str(noted.get("name") or place.name)
    if name != place.name:
        raise ForeignFolderError(
            f"{workdir} is the folder of the sweep {name!r}, as {opened.SWEEP_FILE} in it says. "
            f"Give another --workdir for {place.name!r}, or --name={name} to continue that one."
        )
    if place.may_exist():
        with place.open() as storage:
            if storage.definition() is not None:
                return
            address = storage.address
    else:
        address = place.url
    before = str(noted.get("storage") or place.own_url) if noted else address
    if before != address:
        raise ForeignFolderError(
            f"{workdir} is the folder of a sweep in {shown_url(before)}, and {shown_url(address)} "
            f"has none named {name!r}. Give another --workdir, or that database as --storage; if "
            f"it was lost, remove {workdir / opened.SWEEP_FILE}."
        )
    if any(map(has_started, _folders(workdir))):
        _check_trials(given, workdir)


def _folders(workdir: Path) -> list[Path]:
    """The folders of all trials there."""
    return [*workdir.glob(f"{opened.TRIALS}/*"), *workdir.glob("members/*/gen_*")]


def _check_trials(given: Definition, workdir: Path) -> None:
    """Compares the config and the first trial with what an earlier sweep has left."""
    from clac_jax.config.schema import to_plain
    from clac_jax.config.shipped import config_named
    from clac_jax.sweeps import kept_config
    from clac_jax.sweeps.checked import complete

    definition = complete(given)
    if (workdir / kept_config.CONFIG_FILE).is_file():
        kept = config_named(str(workdir / kept_config.CONFIG_FILE))
        kept_config.check_unchanged(to_plain(kept), given, definition)
    if definition.population is None:
        overrides = {**definition.overrides, **propose(definition, [], 0).params}
        check_folder(opened.trial_folder(workdir, 0), overrides)
    else:
        population = population_of(definition)
        overrides = overrides_of(definition, population, first_plans(population)[0], None)
        check_folder(workdir / path_of(0, 0), overrides)
