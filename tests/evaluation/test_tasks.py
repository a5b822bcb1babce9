"""The table of tasks and the choice of some of them."""

import pytest
from helpers.pools import pool_of_scores, property_pool_of, records_of

from clac_jax.evaluation.pool import EvaluationError
from clac_jax.evaluation.tasks import PROPERTY_TASKS, TASKS, chosen_tasks, evaluate


def test_all_tasks_run_by_default_and_in_the_order_of_the_table():
    assert chosen_tasks([], "contrastive") == list(TASKS)
    assert chosen_tasks(list(TASKS)[::-1], "contrastive") == list(TASKS)
    assert chosen_tasks([], "property") == list(PROPERTY_TASKS) == ["property"]


def test_an_unknown_task_is_refused_with_the_known_ones():
    with pytest.raises(EvaluationError, match=r"no task 'retreival'.*did you mean retrieval\?"):
        chosen_tasks(["retreival"], "contrastive")
    with pytest.raises(EvaluationError, match=r"for a property run.*property"):
        chosen_tasks(["retrieval"], "property")


def test_every_section_has_the_name_of_its_task():
    (section,) = evaluate(pool_of_scores([[2.0, 1.0], [1.0, 2.0]]), ["retrieval"])
    assert section.name == "retrieval"
    train = records_of(["X"] * 3, properties=[{"band gap": v} for v in (1.0, 2.0, 3.0)])
    (section,) = evaluate(property_pool_of([1.0, 2.0], [1.0, 3.0], train))
    assert section.name == "property"
