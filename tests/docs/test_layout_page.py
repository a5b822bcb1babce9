"""The files and packages named on the code-layout page exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "clac_jax"


def test_every_named_file_exists():
    page = (ROOT / "docs" / "layout.md").read_text()
    named = set(re.findall(r"`([\w/*]+\.py)`", page))
    assert len(named) > 20
    missing = [name for name in named if not ([*PACKAGE.rglob(name)] or [*ROOT.glob(name)])]
    assert not missing


def test_every_package_is_in_the_table():
    page = (ROOT / "docs" / "layout.md").read_text()
    packages = {file.parent.name for file in PACKAGE.glob("*/__init__.py")} - {"resources"}
    assert packages <= set(re.findall(r"^\| `(\w+)/`", page, re.MULTILINE))
