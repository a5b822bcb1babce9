"""The shell with a step in names."""

import code
import importlib.util

from clac_jax.replay.shell import NAMES, open_shell


def test_pythons_own_shell_opens_without_ipython(monkeypatch):
    opened = {}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(code, "interact", lambda **options: opened.update(options))
    open_shell({"state": 3})
    assert opened["local"] == {"state": 3}
    assert all(name in opened["banner"] for name in NAMES)
