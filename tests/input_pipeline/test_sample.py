"""The sizes of sampled examples: counted once, and again whenever anything differs."""

import dataclasses

import numpy as np
import pytest

from clac_jax.crystals.crystal import Crystal
from clac_jax.crystals.descriptors import describe
from clac_jax.crystals.graph import CrystalGraph
from clac_jax.input_pipeline import sample as sample_module
from clac_jax.input_pipeline.example import ExampleViews, Present, TokenView
from clac_jax.input_pipeline.sample import Sample, kept_sample


def example(nodes, edges, tokens, label=None):
    graph = CrystalGraph(
        atomic_numbers=np.ones(nodes, np.int32),
        senders=np.zeros(edges, np.int32),
        receivers=np.zeros(edges, np.int32),
        edge_vectors=np.ones((edges, 3), np.float32),
        lattice=np.eye(3, dtype=np.float32),
    )
    return ExampleViews(0, (graph, graph), (TokenView(np.ones(tokens, np.int32)),), label)


EXAMPLES = [example(3, 40, 7, label=0.5), example(5, 60, 9, label=0.5)]


def assert_right(sample):
    np.testing.assert_array_equal(sample.nodes, [[3, 3], [5, 5]])
    np.testing.assert_array_equal(sample.edges, [[40, 40], [60, 60]])
    np.testing.assert_array_equal(sample.tokens, [[7], [9]])
    assert sample.present == Present(labels=True)
    assert all(array.dtype == np.int64 for array in (sample.nodes, sample.edges, sample.tokens))


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A function like `kept_sample` without the examples, and how often they were made."""
    monkeypatch.setenv("CLAC_JAX_CACHE", str(tmp_path))
    calls = []

    def make():
        calls.append(1)
        return EXAMPLES

    return lambda *facts: (kept_sample(facts, make), len(calls))


def test_sizes():
    assert_right(Sample.of(EXAMPLES))


def test_the_same_examples_are_counted_once(made):
    for facts, expected in [(("a", "b"), 1), (("a", "b"), 1), (("a", "c"), 2), (("ab",), 3)]:
        sample, calls = made(*facts)
        assert_right(sample)
        assert calls == expected


def test_whether_there_are_descriptors_and_numbers_is_kept(made):
    described = describe(Crystal(5 * np.eye(3), [11], [[0, 0, 0]]))
    (text,) = EXAMPLES[0].tokens
    numbered = dataclasses.replace(text, numbers=np.ones(7, np.float32))
    for descriptors, tokens in ((described, text), (None, numbered)):
        graph = dataclasses.replace(EXAMPLES[0].graphs[0], descriptors=descriptors)
        example = ExampleViews(0, (graph, graph), (tokens,), 0.5)
        for _ in range(2):  # counted, and read
            sample = kept_sample([repr(tokens)], lambda example=example: [example])
            assert sample.present == Present(
                labels=True, descriptors=descriptors is not None, numbers=tokens is numbered
            )


def test_other_code_counts_again(made, monkeypatch):
    made("a")
    monkeypatch.setattr(sample_module, "code_hash", lambda *names: "another")
    assert made("a")[1] == 2


def test_damaged_sizes_are_counted_again(made, tmp_path):
    made("a")
    (file,) = (tmp_path / "sizes").iterdir()
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    sample, calls = made("a")
    assert_right(sample)
    assert calls == 2
    assert made("a")[1] == 2


def test_a_cache_that_cannot_be_written_costs_only_the_counting(made, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("CLAC_JAX_CACHE", str(tmp_path / "file"))
    assert_right(made("a")[0])
    assert made("a")[1] == 2


def test_a_user_without_a_home_folder_needs_none(monkeypatch):
    """As in a container that runs under a number that the system does not know."""
    for name in ("HOME", "CLAC_JAX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 54_321_987)
    for _ in range(2):
        assert_right(kept_sample(["facts"], lambda: EXAMPLES))
