"""The page on adding an encoder, followed to the letter in a copy of the repository."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "add-an-encoder.md").read_text()
COPIED = (
    "clac_jax", "configs", "main.py", "pyproject.toml", "tests/conftest.py", "tests/helpers",
    "tests/models/graph/test_symmetry.py",
)  # fmt: skip
EPOCH = 8  # steps


def blocks(start):
    """The code blocks of the page whose first line begins so: (rest of that line, code)."""
    return re.findall(
        rf"^```{re.escape(start)}([^\n]*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL
    )


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the repository with what the page adds."""
    folder = tmp_path_factory.mktemp("clone")
    for name in COPIED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    (path, module), (table, lines) = [
        (title.strip('"'), code) for title, code in blocks("python title=")
    ]
    assert len(module.splitlines()) < 80
    (folder / path).write_text(module)
    imported, entry = lines.strip().split("\n\n")
    text = (folder / table).read_text()
    text = text.replace("from clac_jax", f"{imported}\nfrom clac_jax", 1)
    closing = text.index("\n}", text.index("GRAPH_ENCODERS: "))
    (folder / table).write_text(f"{text[:closing]}\n{entry}{text[closing:]}")
    return folder


def run(command, folder, *flags):
    program, *arguments = shlex.split(command)
    assert program == "python"
    return subprocess.run(
        [sys.executable, *arguments, *flags],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_the_new_encoder_passes_the_checks_of_every_encoder(clone):
    command, _ = (code.strip() for _, code in blocks("bash"))
    done = run(command, clone, "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout and "skipped" not in done.stdout


def test_the_new_encoder_trains_and_resumes(clone, data_dir):
    _, command = (code.strip() for _, code in blocks("bash"))
    flags = (
        f"--config.dataset.data_dir={data_dir}",
        f"--config.compilation_cache={os.environ['JAX_COMPILATION_CACHE_DIR']}",
    )
    for epochs in (1, 2):
        done = run(command, clone, *flags, f"--config.max_epochs={epochs}")
        assert done.returncode == 0, done.stderr
    workdir = clone / "outputs" / "schnet"
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if row["split"] == "train"]
    assert steps == list(range(1, 2 * EPOCH + 1))
    options = json.loads((workdir / "config.json").read_text())["graph_encoder"]
    assert (options["name"], options["num_gaussians"]) == ("schnet", 20)
    info = json.loads((workdir / "checkpoints" / str(2 * EPOCH) / "run" / "metadata").read_text())
    assert "graph_encoder/update_0/kernel" in json.dumps(info)
