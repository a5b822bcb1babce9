"""Runs stored by earlier versions: they load, and resume with the numbers of that version."""

import json
import os
import shutil
from pathlib import Path

import pytest
from etils import epath
from helpers.formats import FORMATS

from clac_jax.checkpoint.arrays import read_arrays
from clac_jax.checkpoint.layout import FORMAT, READABLE, read_all, read_info
from clac_jax.config.check import validate
from clac_jax.config.schema import from_plain
from clac_jax.reporting.metrics_file import read_rows
from clac_jax.training_run import train
from configs import saved

ROOT = Path(__file__).parents[2]
STORED = sorted(int(folder.name) for folder in FORMATS.iterdir() if folder.is_dir())


def test_every_format_that_is_read_is_stored():
    assert tuple(STORED) == READABLE
    assert FORMAT in STORED


@pytest.mark.parametrize("number", STORED)
def test_a_stored_checkpoint_is_intact_and_its_config_can_be_used(number):
    intact, damaged = read_all(epath.Path(FORMATS / str(number) / "run" / "checkpoints"))
    assert intact and not damaged
    for info in intact.values():
        raw = json.loads((info.folder / "run" / "metadata").read_text())
        assert raw["format"] == number
        arrays = read_arrays(info, info.leaves)  # verified against their checksums
        assert set(arrays) == set(raw["leaves"])
        assert not info.renamed, "PaiNN did not use graph_encoder.graph_cutoff"
        validate(from_plain(info.config))


@pytest.mark.parametrize("number", [pytest.param(2, marks=pytest.mark.slow), FORMAT])
def test_a_stored_run_resumes_to_the_numbers_of_the_version_that_wrote_it(
    tmp_path, data_dir, monkeypatch, capsys, number
):
    """Format 3 was written on two devices, with a sharded state."""
    stored, workdir = FORMATS / str(number), tmp_path / "run"
    shutil.copytree(stored / "run", workdir)
    expected = json.loads((stored / "expected.json").read_text())
    monkeypatch.chdir(ROOT)  # the tokenizer's path in the config is relative to it
    config = saved.get_config(str(workdir / "config.json"))
    config.dataset.data_dir = str(data_dir)
    config.compilation_cache = os.environ["JAX_COMPILATION_CACHE_DIR"]
    already = len(read_rows(workdir / "metrics.jsonl"))
    train(config, workdir)

    printed = capsys.readouterr().out
    assert "resumed from its checkpoint" in printed
    assert "renamed " not in printed, "PaiNN did not use graph_encoder.graph_cutoff"
    changed = [line.split()[1] for line in printed.splitlines() if line.startswith("changed")]
    assert set(changed) <= {"compilation_cache:", "dataset.data_dir:"}

    rows = read_rows(workdir / "metrics.jsonl")[already:]
    assert [(row["split"], row["step"]) for row in rows] == [
        (row["split"], row["step"]) for row in expected["rows"]
    ]
    for row, before in zip(rows, expected["rows"], strict=True):
        for name, value in before.items():
            is_number = isinstance(value, float)
            assert row[name] == (pytest.approx(value, rel=1e-5) if is_number else value), name
    info = read_info(epath.Path(workdir) / "checkpoints" / str(expected["step"]))
    assert set(info.leaves) == set(expected["arrays"])
    for path, (shape, dtype, _, norm, *_) in expected["arrays"].items():
        leaf = info.leaves[path]
        assert (list(leaf.shape), leaf.dtype) == (shape, dtype), path
        assert leaf.norm == pytest.approx(norm, rel=1e-4, abs=1e-5), path
