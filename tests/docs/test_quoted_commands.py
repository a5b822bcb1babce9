"""The commands, flags and keys that the documentation quotes exist."""

import re
import shlex
from pathlib import Path

import pytest

from clac_jax.cli.main import MODULES, _parser
from clac_jax.config.schema import default_config
from clac_jax.config.shipped import shipped_names

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
WRITTEN_ON_THE_PAGE = {"my_config.py", "FILE.py"}


def blocks(page, language):
    return re.findall(rf"```{language}[^\n]*\n(.*?)```", page.read_text(), re.DOTALL)


def commands(page):
    """The arguments of each `clac-jax` or `main.py` in the page's shell blocks."""
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.replace('"cd ', "cd ").replace('..."', "..."), comments=True)
            for name in ("clac-jax", "main.py"):
                if name in words:
                    rest = words[words.index(name) + 1 :]
                    yield ["train", *rest] if name == "main.py" else rest


def keys(text):
    """The config keys that are set by flags."""
    return {key.rstrip(".") for key in re.findall(r"--config\.([a-z_][a-z_.]*)(?=[=`\s])", text)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_one_that_the_program_takes(page):
    for group, *rest in commands(page):
        if group == "train":
            names = [word.split("=", 1)[1] for word in rest if word.startswith("--config=")]
            for name in names:
                config = name.split(":")[0]
                is_file = (ROOT / config).is_file() or config in WRITTEN_ON_THE_PAGE
                assert is_file or config in shipped_names() or config == "...", name
        else:
            assert group in MODULES, group
            _parser(group).parse_args([group, *rest])  # exits if a flag is wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_flag_is_a_key_of_the_config(page):
    config = default_config()
    unknown = {key for key in keys(page.read_text()) if not _has(config, key)}
    assert not {key for key in unknown if key.split(".")[-1] not in _added_on(page)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_key_that_python_sets_is_one_of_the_config(page):
    config = default_config()
    for block in blocks(page, "python"):
        for key in re.findall(r"^\s*config\.([a-z_.]+) [+-]?= ", block, re.MULTILINE):
            assert _has(config, key), key


def _has(config, key):
    for part in key.split("."):
        if part not in config:
            return False
        config = config[part]
    return True


def _added_on(page):
    """The settings of an encoder or loss that the page itself defines."""
    code = "\n".join(blocks(page, "python"))
    return set(re.findall(r"(\w+): \w+ = key\(", code))
