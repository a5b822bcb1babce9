"""A sweep in its storage, as its page shows it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clac_jax.errors import counted
from clac_jax.sweeps.definition import Definition
from clac_jax.sweeps.driver import seconds_of
from clac_jax.sweeps.opened import folder_of
from clac_jax.sweeps.page import write_page
from clac_jax.sweeps.population_run import lineage_of
from clac_jax.sweeps.population_settings import population_of
from clac_jax.sweeps.storage import TrialRecord
from clac_jax.sweeps.view import SweepView, TrialView


def view_of(
    definition: Definition, trials: Sequence[TrialRecord], workdir: Path, name: str
) -> SweepView:
    """The sweep as its page shows it.

    Args:
        definition: the sweep, complete.
        trials: its trials.
        workdir: its folder.
        name: its name.
    """
    is_population = definition.population is not None
    members = int(definition.population["members"]) if definition.population else 0
    shown = [
        TrialView(
            number=trial.number,
            state=trial.state.value,
            params=trial.params,
            values=trial.values,
            value=trial.value,
            seconds=seconds_of(trial) or None,
            workdir=str(folder_of(Path(), trial)),
            note=str(trial.result.get("note", "")),
            **(lineage_of(trial, members) if is_population else {}),
        )
        for trial in trials
    ]
    facts = [("Config", definition.config), *_facts(definition), ("Folder", str(workdir))]
    return SweepView(name, definition.monitor, definition.mode, shown, definition.space, facts)


def write_page_of(
    definition: Definition, trials: Sequence[TrialRecord], workdir: Path, name: str
) -> Path:
    """Writes the page of a sweep; see `view_of`.

    Raises:
        WorkdirError: the file cannot be written.
    """
    return write_page(view_of(definition, trials, workdir, name), workdir)


def _facts(definition: Definition) -> list[tuple[str, str]]:
    if definition.population is not None:
        population = population_of(definition)
        return [
            (
                "Plan",
                f"{counted(population.members, 'member')}, "
                f"{counted(population.generations, 'generation')} of "
                f"{counted(population.epochs, 'epoch')} each, seed {population.seed}; after each, "
                f"{counted(population.num_exploiting, 'member')} or more may exploit a better one",
            )
        ]
    facts = [
        (
            "Sampler",
            f"{definition.sampler['name']}, seed {definition.seed}, "
            f"{counted(definition.parallel, 'trial')} at a time",
        )
    ]
    if definition.prune is not None:
        facts.append(("Pruner", str(definition.prune["name"])))
    return facts
