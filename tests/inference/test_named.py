"""Names that are not those of a model."""

import pytest

import clac_jax
from clac_jax.checkpoint.locate import CheckpointNotFoundError
from clac_jax.files.paths import PathError


@pytest.mark.parametrize("value", [None, 3, ["mini"]])
def test_a_name_that_is_neither_text_nor_a_path_is_refused(value):
    with pytest.raises(PathError, match=r"The name of a model is .*\. Give text, or a Path"):
        clac_jax.load(value)


def test_adapters_that_are_neither_text_nor_a_path_are_refused():
    with pytest.raises(PathError, match=r"The folder of the adapters is 3\. Give text"):
        clac_jax.load("mini", adapter=3)


@pytest.mark.parametrize(
    ("name", "words"), [("mini@best", "called mini, without '@best'"), (b"mini", "called mini,")]
)
def test_the_model_of_the_package_under_a_similar_name_is_pointed_to(name, words):
    with pytest.raises(CheckpointNotFoundError, match=words):
        clac_jax.load(name)
