"""The scripts of examples/, as a reader of the documentation runs them, on a tiny run."""

import ast
import subprocess
from pathlib import Path

import numpy as np
import pytest

from clac_jax.training_run import train

ROOT = Path(__file__).parents[2]
CIFS = ROOT / "examples" / "cifs"


@pytest.fixture(scope="module")
def trained(small_config, tmp_path_factory):
    """A contrastive run with a graph encoder that has layers."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    train(small_config(graph_encoder__name="painn", max_epochs=1), workdir)
    return workdir


@pytest.fixture
def example(environment, programs, tmp_path):
    """Runs a script of examples/ in an empty folder -> what it prints."""

    def run(name, *arguments):
        (tmp_path / "examples").symlink_to(ROOT / "examples")
        process = programs[0].start(
            arguments,
            environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            script=f"examples/{name}",
            cwd=tmp_path,
        )
        output, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        return output

    return run


@pytest.mark.parametrize("script", [p.name for p in (ROOT / "examples").glob("*.py")])
def test_help_only_prints(example, script, tmp_path):
    assert example(script, "--help").startswith("usage: ")
    assert [path.name for path in tmp_path.iterdir()] == ["examples"]


def test_a_folder_of_cifs_is_searched(example, trained, tmp_path):
    output = example("search_cifs.py", f"{trained}@best", CIFS)
    assert "halite.cif" in output
    with np.load(tmp_path / "embedded.npz") as saved:
        assert saved["names"].tolist() == sorted(file.name for file in CIFS.iterdir())
        np.testing.assert_allclose(np.linalg.norm(saved["vectors"], axis=1), 1, rtol=1e-5)


def test_a_property_is_learned_on_top_of_a_run_and_predicted(example, trained, tmp_path):
    output = example(
        "finetune_property.py", f"{trained}@best", tmp_path / "gap", trained / "config.json"
    )
    assert "mae" in output
    assert output.count(" eV\n") == 2


@pytest.mark.slow
def test_an_architecture_is_changed_with_an_account(example, trained, tmp_path):
    output = example("change_architecture.py", trained, tmp_path / "deeper")
    assert "does not fit the model" in output
    assert "--config.restore.strict=False" in output
    counts = ast.literal_eval(output.splitlines()[-1])
    assert counts["restored"] > 0
    assert counts["initialized"] > 0
    assert counts["dropped"] == 0
