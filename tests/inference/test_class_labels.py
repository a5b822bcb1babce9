"""Labels as sentences, and probabilities from scores."""

import doctest

import numpy as np
import pytest

from clac_jax.inference import labels
from clac_jax.inference.errors import InputError


def test_the_examples_hold():
    assert doctest.testmod(labels) == doctest.TestResults(failed=0, attempted=1)


def test_braces_in_labels_are_text():
    assert labels.prompts(["{0}", "{x}"], ["a {} b"]) == ["a {0} b", "a {x} b"]


@pytest.mark.parametrize(
    ("given", "templates", "words"),
    [
        (["a"], ["{}"], "at least two labels"),
        ([], ["{}"], "at least two labels"),
        (["a", "b", "a"], ["{}"], "all different"),
        ("ab", ["{}"], "labels must be a list of texts"),
        (None, ["{}"], "labels must be a list of texts"),
        ([1, 2], ["{}"], "labels must be a list of texts"),
        (["a", "b"], "{}", "templates must be a list of texts"),
        (["a", "b"], [], "no templates"),
        (["a", "b"], ["{}", "it is"], "'it is' has no place for the label"),
    ],
)
def test_labels_and_templates_that_cannot_be_used(given, templates, words):
    with pytest.raises(InputError, match=words):
        labels.prompts(given, templates)


def test_labels_of_a_generator_are_those_of_a_list():
    given = (label for label in ("a metal", "an oxide"))
    assert labels.prompts(given, (each for each in ["{}"])) == ["a metal", "an oxide"]


def test_the_mean_of_sentences_is_a_unit_vector():
    vectors = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    np.testing.assert_allclose(labels.mean_direction(vectors), [[0.5**0.5, 0.5**0.5]])
    assert labels.mean_direction(np.array([[[1.0, 0]], [[-1.0, 0]]])).tolist() == [[0.0, 0.0]]


def test_probabilities():
    found = labels.softmax(np.array([[0.0, np.log(3.0)], [1000.0, 0.0]]))
    np.testing.assert_allclose(found, [[0.25, 0.75], [1, 0]], rtol=1e-6)
