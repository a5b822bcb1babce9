"""Inputs in windows and batches: order, gaps, streaming, the progress bar, several devices."""

import dataclasses
import io
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers.paths import ROOT

from clac_jax import datasets
from clac_jax.inference import batches
from clac_jax.inference.batches import NO_CRYSTAL, Work, in_batches
from clac_jax.inference.errors import InputError
from clac_jax.input_pipeline.example import ExampleViews, TokenView

# Embeds the crystals of a split by a run on two devices, and saves the vectors.
ON_TWO_DEVICES = """
import sys
import jax, numpy as np
import clac_jax
from clac_jax import datasets

run, data_dir, out = sys.argv[1:]
assert jax.local_device_count() == 2
model = clac_jax.load(run)
split = datasets.load("materials_project_mini", data_dir, "test")
crystals = [split[k].crystal() for k in range(40)]
texts = [split[k].text_of("narratives", None) for k in range(40)]
one = model.embed_crystals(crystals[:1])
np.savez(out, crystals=model.embed_crystals(crystals), texts=model.embed_texts(texts), one=one)
"""


def views_of(index, value):
    """A text of as many tokens as the value says."""
    if value < 0:
        raise InputError(f"Value {index} is {value}.")
    return ExampleViews(index, (NO_CRYSTAL,), (TokenView(np.full(value, 7, np.int32)),))


def lengths(parts):
    """The number of tokens of each row, twice."""
    rows = np.concatenate([part.texts.lengths for part in parts])
    return np.stack([rows, rows], axis=1)


@pytest.fixture
def work(monkeypatch):
    monkeypatch.setattr(batches, "_WINDOW", 10)
    return Work(views_of, lambda views: len(views.tokens[0].ids), 8 * 16**2, lengths, (2,))


def test_rows_are_in_the_order_of_the_values(work):
    values = np.random.default_rng(0).integers(1, 60, 137).tolist()
    for given in (values, iter(values), tuple(values), (value for value in values)):
        found = in_batches(given, "values", work)
        np.testing.assert_array_equal(found, np.stack([values, values], axis=1))
        assert found.dtype == np.float32
    assert in_batches([5], "values", work).tolist() == [[5, 5]]


def test_a_value_that_cannot_be_used_leaves_a_gap(work):
    values = np.arange(1, 36)
    values[[0, 13, 34]] = -1
    values[20:30] = -2  # all of a window
    errors = []
    found = in_batches(values.tolist(), "values", work, errors.append)
    bad = values < 0
    np.testing.assert_array_equal(np.isnan(found).all(axis=1), bad)
    np.testing.assert_array_equal(found[~bad, 0], values[~bad])
    assert [str(error) for error in errors] == [
        f"Value {k} is {values[k]}." for k in np.flatnonzero(bad)
    ]
    with pytest.raises(InputError, match="Value 0 is -1"):
        in_batches(values.tolist(), "values", work)
    assert np.isnan(in_batches([-1], "values", work, errors.append)).all()


def test_a_result_that_is_not_finite_is_a_fault_of_the_model(work):
    def broken(parts):
        rows = lengths(parts).astype(np.float32)
        return np.where(rows == 12, np.inf, rows)

    work = dataclasses.replace(work, compute=broken)
    with pytest.raises(InputError, match=r"for input 1, .* a fault of the model"):
        in_batches([3, 12, 5], "values", work)
    errors = []
    found = in_batches([3, 12, 5], "values", work, errors.append)
    assert np.isnan(found[1]).all() and found[::2, 0].tolist() == [3, 5] and len(errors) == 1


def test_values_are_read_as_they_are_needed(work):
    read = []

    def values():
        for k in range(1, 101):
            read.append(k)
            if k == 75:
                raise OSError("the disk is gone")
            yield 1 if k != 31 else -1

    with pytest.raises(InputError, match="Value 30"):
        in_batches(values(), "values", work)
    assert len(read) == 40  # the window in which it is
    with pytest.raises(OSError, match="the disk is gone"):
        in_batches(values(), "values", work, lambda error: None)


def test_an_empty_list_and_a_single_value_are_refused(work):
    for empty in ([], (), iter(()), (k for k in ())):
        with pytest.raises(InputError, match="The list of values is empty"):
            in_batches(empty, "values", work)
    for single in ("abc", b"abc", 3, None, {"a": 1}, np.array("abc"), np.array(3)):
        with pytest.raises(InputError, match="The values must be a list"):
            in_batches(single, "values", work)


def test_an_input_that_does_not_fit_the_memory_is_named(work):
    def full(parts):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte.")

    def broken(parts):
        raise jax.errors.JaxRuntimeError("INTERNAL: a fault of the compiler")

    with pytest.raises(InputError, match=r"not enough memory for input 1 .* size is 12"):
        in_batches([3, 12, 5], "values", dataclasses.replace(work, compute=full))
    with pytest.raises(jax.errors.JaxRuntimeError, match="a fault of the compiler"):
        in_batches([3, 12, 5], "values", dataclasses.replace(work, compute=broken))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_is_drawn_on_a_terminal_and_when_it_is_wanted(work, monkeypatch):
    monkeypatch.setattr(batches, "_BAR_AFTER", 0.0)
    for stream, progress, drawn in (
        (Terminal(), True, True),
        (Terminal(), False, False),
        (io.StringIO(), True, False),
    ):
        monkeypatch.setattr(sys, "stderr", stream)
        in_batches([1, -1] * 20, "values", work, lambda error: None, progress)
        assert ("values: 100%" in stream.getvalue() and "40/40" in stream.getvalue()) == drawn
        assert bool(stream.getvalue()) == drawn


@pytest.mark.slow
def test_two_devices_give_what_one_gives(run, model, data_dir, tmp_path, monkeypatch):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    monkeypatch.setenv("XLA_FLAGS", flags)
    done = subprocess.run(
        [sys.executable, "-c", ON_TWO_DEVICES, model.name, str(data_dir), tmp_path / "two.npz"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "two.npz") as arrays:
        two = dict(arrays)

    split = datasets.load("materials_project_mini", data_dir, "test")
    records = [split[k] for k in range(40)]
    one = model.embed_crystals(record.crystal() for record in records)
    np.testing.assert_allclose(two["crystals"], one, atol=1e-5)
    np.testing.assert_allclose(two["one"], one[:1], atol=1e-5)
    texts = model.embed_texts(record.text_of("narratives", None) for record in records)
    np.testing.assert_allclose(two["texts"], texts, atol=1e-5)
