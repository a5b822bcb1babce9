"""The page on adding an encoder, followed to the letter in a copy of the repository."""

import json
import os
import re
import sys
import textwrap
import types

import numpy as np
import pytest
from helpers.grown_towers import Tower
from helpers.pages import Page, run
from helpers.small_models import batch_of, examples

PAGE = Page("add-an-encoder.md")
KEY, BUILD = "from clac_jax.config.key", "\n    def build("
ANATOMY = "from clac_jax.models.anatomy import Anatomy, Layers, dense_axes"
EPOCH = 2  # steps


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clone")
    PAGE.follow(folder, "tests/models/graph/test_symmetry.py")
    return folder


def test_an_encoder_takes_less_than_80_lines():
    _, code = PAGE.module
    assert len(code.splitlines()) < 80


def test_the_new_encoder_passes_the_checks_of_every_encoder(clone):
    done = run(PAGE.commands[0], clone, "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def train(clone, data_dir):
    """(epochs) -> the steps in metrics.jsonl, after a run of that many epochs."""

    def start(epochs):
        flags = (
            f"--config.dataset.data_dir={data_dir}",
            f"--config.compilation_cache={os.environ['JAX_COMPILATION_CACHE_DIR']}",
            f"--config.dataset.max_examples={4 * EPOCH}",
            "--config.input.max_batch_shapes=1",  # one program to trace
            "--config.use_textual_intramodal_loss=False",  # compiles faster
            f"--config.max_epochs={epochs}",
        )
        done = run(PAGE.commands[1], clone, *flags)
        assert done.returncode == 0, done.stderr
        rows = (clone / "outputs" / "schnet" / "metrics.jsonl").read_text().splitlines()
        return [row["step"] for row in map(json.loads, rows) if row["split"] == "train"]

    return start


@pytest.mark.slow
def test_the_new_encoder_trains_and_is_saved(train, clone):
    assert train(1) == list(range(1, EPOCH + 1))
    workdir = clone / "outputs" / "schnet"
    options = json.loads((workdir / "config.json").read_text())["graph_encoder"]
    assert (options["name"], options["num_gaussians"]) == ("schnet", 20)
    saved = (workdir / "checkpoints" / str(EPOCH) / "run" / "metadata").read_text()
    assert "graph_encoder/update_0/kernel" in saved


def test_the_new_encoder_grows_by_its_anatomy(monkeypatch):
    (_, method), *_ = re.findall(r"^( +)```python\n(.*?)^ +```$", PAGE.text, re.M | re.S)
    code = PAGE.module[1].replace("from clac_jax.config.key", f"{ANATOMY}\n{KEY}", 1)
    code = code.replace("    def build(", textwrap.indent(textwrap.dedent(method), " " * 4) + BUILD)
    schnet = types.ModuleType("schnet")
    monkeypatch.setitem(sys.modules, "schnet", schnet)  # as dataclasses look there
    exec(compile(code, "schnet.py", "exec"), schnet.__dict__)
    sizes = {"num_features": 10, "num_interactions": 2, "num_gaussians": 8, "out_dim": 6}
    small, batch = Tower(schnet.SchNetSettings(**sizes)), batch_of(examples())
    large = small.larger(num_features=15, num_interactions=3, out_dim=7)
    variables = small.variables(batch, 0)
    _, more = large.grow(small, batch, variables)
    expected = small.values(batch, variables)["vectors"]
    assert np.std(expected) > 0.05
    np.testing.assert_allclose(large.values(batch, more)["vectors"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_run_with_the_new_encoder_resumes(train):
    train(1)
    assert train(2) == list(range(1, 2 * EPOCH + 1))
