"""The tasks of `clac-jax evaluate`, by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any

from clac_jax.evaluation.classes import classify
from clac_jax.evaluation.inverse_design_report import design
from clac_jax.evaluation.numbers_report import numbers_understood
from clac_jax.evaluation.pool import EvaluationError, Examples
from clac_jax.evaluation.prediction import prediction
from clac_jax.evaluation.questions import answer_questions
from clac_jax.evaluation.ranking import retrieval
from clac_jax.evaluation.section import Section

# In the order in which they run and are reported.
TASKS: dict[str, Callable[[Any], Section]] = {
    "retrieval": retrieval,
    "questions": answer_questions,
    "classes": classify,
    "inverse_design": design,
    "numbers": numbers_understood,
}
"""Tasks of contrastive models: functions of a `Pool`."""

PROPERTY_TASKS: dict[str, Callable[[Any], Section]] = {
    "property": prediction,
}
"""Tasks of property models: functions of a `PropertyPool`."""


def tasks_for(task: str) -> dict[str, Callable[[Any], Section]]:
    """The tasks for runs of this `config.task`."""
    return PROPERTY_TASKS if task == "property" else TASKS


def chosen_tasks(names: Sequence[str], task: str) -> list[str]:
    """Names of tasks in the order in which they run.

    Args:
        names: the requested ones; empty: all.
        task: the run's `config.task`.

    Raises:
        EvaluationError: one of them does not exist for such a run.
    """
    known = tasks_for(task)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise EvaluationError(
                f"There is no task {name!r} for a {task} run{hint} Give --tasks some of "
                f"{', '.join(known)}."
            )
    return [name for name in known if not names or name in names]


def evaluate(pool: Examples, names: Sequence[str] = ()) -> list[Section]:
    """Runs tasks on a pool; all of them by default.

    Raises:
        EvaluationError: a task does not exist for this model.
    """
    task = str(pool.model.config.task)
    known = tasks_for(task)
    return [known[name](pool) for name in chosen_tasks(names, task)]
