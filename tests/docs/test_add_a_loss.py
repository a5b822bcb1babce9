"""The page on adding a loss, followed to the letter in a copy of the repository."""

import json
import os

import pytest
from helpers.pages import Page, run

PAGE = Page("add-a-loss.md")


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clone")
    PAGE.follow(folder, "tests/training/test_losses.py")
    return folder


@pytest.mark.slow
def test_the_new_loss_passes_the_checks_of_every_loss(clone):
    done = run(PAGE.commands[0], clone, "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_new_loss_trains_and_a_changed_setting_is_reported(clone, data_dir):
    flags = (
        f"--config.dataset.data_dir={data_dir}",
        f"--config.compilation_cache={os.environ['JAX_COMPILATION_CACHE_DIR']}",
        "--config.dataset.max_examples=8",
        "--config.input.max_batch_shapes=1",  # one program to trace
        "--config.graph_encoder.name=composition",  # compiles fastest
        "--config.use_visual_intramodal_loss=False",
    )
    done = run(PAGE.commands[1], clone, *flags, "--config.max_epochs=1")
    assert done.returncode == 0, done.stderr
    workdir = clone / "outputs" / "smoothed"
    options = json.loads((workdir / "config.json").read_text())["loss"]
    assert (options["name"], options["label_smoothing"]) == ("smoothed", 0.2)
    # The run has ended: it says so and compiles no step.
    changed = (*flags, "--config.max_epochs=1", "--config.loss.label_smoothing=0.3")
    done = run(PAGE.commands[1], clone, *changed)
    assert done.returncode == 0, done.stderr
    line = "loss.label_smoothing: 0.2 -> 0.3 (applies from the next step)"
    assert line in done.stdout
