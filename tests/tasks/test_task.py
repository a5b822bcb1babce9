"""The base class of tasks."""

import inspect

import pytest

from clac_jax.tasks.contrastive import Contrastive
from clac_jax.tasks.property import Property
from clac_jax.tasks.task import Task

TASKS = (Contrastive, Property)


def test_a_task_that_lacks_a_part_cannot_be_made():
    class WithoutTest(Task):
        initialize = loss = by_example = validate = describe_validation = describe_test = None

    with pytest.raises(TypeError, match=r"abstract method '?test'?"):
        WithoutTest()


@pytest.mark.parametrize("task", TASKS)
def test_a_task_takes_what_the_loop_gives(task):
    for name in Task.__abstractmethods__:
        expected = list(inspect.signature(getattr(Task, name)).parameters)
        assert list(inspect.signature(getattr(task, name)).parameters) == expected
