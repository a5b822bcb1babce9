"""The wheel in a separate environment, away from the clone, as after `pip install clac-jax`.

Nothing is downloaded: the new environment sees the packages of this one through a path file, except
clac_jax, whose editable install a path file does not expose.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import clac_jax

pytestmark = pytest.mark.wheel
ROOT = Path(__file__).parents[2]
NEEDED = ("clac_jax", "configs", "sweeps", "pyproject.toml", "setup.py", "README.md", "LICENSE")


def call(*command, cwd, **variables):
    """Runs a command without the clone on its path."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env=environment | {"JAX_PLATFORMS": "cpu"} | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "BuildBackendWarning" not in done.stderr, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: setuptools leaves files in the source tree."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in NEEDED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, source / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, source)
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check")
    call(*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", output, source, cwd=output)
    (built,) = output.glob("clac_jax-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder of executables of a fresh environment with the wheel installed."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    paths = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", "venv", vars=paths))
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    programs = Path(sysconfig.get_path("scripts", "venv", vars=paths))
    pip = (sys.executable, "-m", "pip", "--python", programs / "python", "install", "--quiet")
    call(*pip, "--disable-pip-version-check", "--no-deps", "--no-index", wheel, cwd=folder)
    return programs


def test_the_wheel_holds_the_configs_and_the_data_and_nothing_else(wheel):
    assert wheel.name.startswith(f"clac_jax-{clac_jax.__version__}-py3")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "clac_jax/py.typed",
        "clac_jax/resources/cgcnn_atom_features.json",
        "clac_jax/datasets/materials_project_mini/materials_project_mini.parquet",
        "clac_jax/datasets/materials_project_mini/DATA_LICENSE.md",
    } <= names
    for folder, place in (
        ("clac_jax", "clac_jax"),
        ("configs", "clac_jax/configs"),
        ("sweeps", "clac_jax/sweep_files"),
    ):
        files = {file.relative_to(ROOT / folder) for file in (ROOT / folder).rglob("*.py")}
        assert {f"{place}/{file.as_posix()}" for file in files} <= names
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"clac_jax"}


KEYS = (
    "logging.tensorboard=false",
    "dataset.max_examples=8",
    "graph_encoder.name=composition",  # compiles fastest
    "use_visual_intramodal_loss=false",
    "use_textual_intramodal_loss=false",
    "input.max_batch_shapes=1",
)
TRAIN = ("train", "--config=smoke", "--workdir=run", *(f"--config.{key}" for key in KEYS))


def test_in_an_empty_folder_it_trains_and_the_model_is_used(installed, tmp_path):
    first = call(installed / "clac-jax", *TRAIN, "--config.max_epochs=1", cwd=tmp_path)
    assert "fresh run" in first and "test " in first
    use = (
        "import clac_jax; from clac_jax.configs import smoke; config = smoke.get_config()\n"
        "print(clac_jax.load('run').embed_texts(['salt']).shape, config.projection_dim)\n"
        "print(clac_jax.__file__)"
    )
    shapes, file = call(installed / "python", "-c", use, cwd=tmp_path).splitlines()
    assert shapes == "(1, 16) 16"
    assert Path(file).is_relative_to(installed.parent)


def test_in_an_empty_folder_it_prepares_data_and_resumes(installed, tmp_path):
    program = installed / "clac-jax"
    version = f"clac-jax {clac_jax.__version__}\n"
    assert call(program, "--version", cwd=tmp_path) == version
    built = call(program, "data", "prepare", cwd=tmp_path)
    assert built.startswith("materials_project_mini: built in data")
    call(program, *TRAIN, "--config.max_epochs=1", cwd=tmp_path)
    resumed = call(program, *TRAIN, "--config.max_epochs=2", cwd=tmp_path)
    assert "resumed from its checkpoint" in resumed and "epoch 1 done" in resumed
    listed = call(program, "ckpt", "ls", "run", cwd=tmp_path)
    assert listed.splitlines()[-2].split()[0] == "4"  # above the total
