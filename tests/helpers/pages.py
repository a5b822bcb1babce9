"""Following a page of the documentation to the letter, in a copy of the repository."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
_COPIED = (
    "clac_jax", "configs", "main.py", "pyproject.toml", "tests/conftest.py", "tests/helpers",
)  # fmt: skip


class Page:
    """A page that adds one module and one line of a table."""

    def __init__(self, name):
        self.text = (ROOT / "docs" / name).read_text()

    def blocks(self, start):
        """The code blocks whose first line starts with a prefix: (rest of that line, code)."""
        pattern = rf"^```{re.escape(start)}([^\n]*)\n(.*?)^```$"
        return re.findall(pattern, self.text, re.MULTILINE | re.DOTALL)

    @property
    def commands(self):
        return [code.strip() for _, code in self.blocks("bash")]

    @property
    def module(self):
        """(path, code) of the new file."""
        (title, code), _ = self.blocks("python title=")
        return title.strip('"'), code

    def follow(self, folder, *tests):
        """Copies the repository and these tests into a folder, and applies the page to it."""
        for name in (*_COPIED, *tests):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, folder / name)
        path, code = self.module
        (folder / path).write_text(code)
        _, (title, lines) = self.blocks("python title=")
        imported, entry = lines.strip().split("\n\n")
        table = folder / title.strip('"')
        text = table.read_text().replace("from clac_jax", f"{imported}\nfrom clac_jax", 1)
        before, closing, after = text.rpartition("\n}")
        table.write_text(f"{before}\n{entry}{closing}{after}")


def run(command, folder, *flags):
    """Runs a `python ...` command of a page in a folder."""
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
