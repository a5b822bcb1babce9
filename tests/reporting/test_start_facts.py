"""The record of a start: what may change the bits of a step, as plain values."""

import json
import shutil
import subprocess

import pytest

import clac_jax
from clac_jax.config.schema import default_config, to_plain
from clac_jax.reporting.start_facts import commit, start_facts
from clac_jax.versions import package_versions


def test_they_are_plain_values():
    facts = start_facts(default_config())
    assert json.loads(json.dumps(facts)) == facts
    assert facts["config"] == to_plain(default_config())
    assert package_versions().items() <= facts["versions"].items()
    assert facts["devices"]["platform"] == "cpu"
    assert "XLA_FLAGS" in facts["settings"]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_of_a_checkout_is_named_with_a_mark_if_it_was_changed(tmp_path, monkeypatch):
    package = tmp_path / "clac_jax"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(clac_jax, "__file__", str(package / "__init__.py"))
    assert commit() is None, "not a checkout"

    def git(*words):
        identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        return subprocess.check_output(["git", *identity, *words], cwd=tmp_path, text=True).strip()

    git("init", "-q")
    assert commit() is None, "no commit yet"
    git("add", ".")
    git("commit", "-q", "-m", "first")
    head = git("rev-parse", "HEAD")
    assert commit() == head
    (package / "__init__.py").write_text("changed")
    assert commit() == f"{head}+"
