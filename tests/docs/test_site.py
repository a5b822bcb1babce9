"""The documentation site builds without a warning, and loads nothing from other hosts."""

import subprocess
import sys
from pathlib import Path

import pytest

from tools.check_site import problems
from tools.docs_hooks import commands

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={folder}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_every_link_exists_and_nothing_is_loaded_from_other_hosts(site):
    assert problems(site) == []


def test_a_page_that_loads_a_font_or_links_to_nothing_is_reported(tmp_path):
    page = '<link rel="stylesheet" href="https://fonts.example/a.css"><a href="gone.html">x</a>'
    (tmp_path / "index.html").write_text(page)
    assert problems(tmp_path) == [
        "index.html loads https://fonts.example/a.css from another host",
        "index.html links to gone.html, which does not exist",
    ]


def test_the_page_of_the_command_line_has_every_command():
    text = commands()
    for command in ("train", "data prepare", "ckpt rm", "import lightning"):
        assert f"clac-jax {command}\n" in text
    assert "--workdir" in text


@pytest.mark.slow
def test_the_public_names_are_on_the_page_of_the_api(site):
    page = (site / "api.html").read_text()
    for name in ("load", "embed_crystals", "similarity", "from_ase", "default_config"):
        assert name in page
