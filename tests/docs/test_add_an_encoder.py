"""The page on adding an encoder, followed to the letter in a copy of the repository."""

import json
import os

import pytest
from helpers.pages import Page, run

PAGE = Page("add-an-encoder.md")
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


def test_the_new_encoder_trains_and_resumes(clone, data_dir):
    flags = (
        f"--config.dataset.data_dir={data_dir}",
        f"--config.compilation_cache={os.environ['JAX_COMPILATION_CACHE_DIR']}",
        f"--config.dataset.max_examples={4 * EPOCH}",
        "--config.input.max_batch_shapes=1",  # one program to trace
        "--config.use_textual_intramodal_loss=False",  # compiles faster
    )
    for epochs in (1, 2):
        done = run(PAGE.commands[1], clone, *flags, f"--config.max_epochs={epochs}")
        assert done.returncode == 0, done.stderr
    workdir = clone / "outputs" / "schnet"
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if row["split"] == "train"]
    assert steps == list(range(1, 2 * EPOCH + 1))
    options = json.loads((workdir / "config.json").read_text())["graph_encoder"]
    assert (options["name"], options["num_gaussians"]) == ("schnet", 20)
    saved = (workdir / "checkpoints" / str(2 * EPOCH) / "run" / "metadata").read_text()
    assert "graph_encoder/update_0/kernel" in saved
