"""A run that starts from two others, through the real program, and is trained on."""

import json

import numpy as np
import pytest
from helpers.small_runs import arrays_at

from clac_jax.cli.main import main
from clac_jax.config.shipped import shipped_config
from clac_jax.training_run import train


def smoke(**values):
    config = shipped_config("smoke")
    config.max_epochs = 1
    config.dataset.max_examples = 16
    for name, value in values.items():
        config[name] = value
    return config


@pytest.mark.slow
def test_two_towers_are_joined_and_trained_for_an_epoch(tmp_path):
    for name, seed in (("text", 1), ("graph", 2)):
        train(smoke(seed=seed), tmp_path / name)
    config = smoke(seed=3)
    config.restore.sources = (
        {"from": f"{tmp_path / 'text'}@last", "only": "text_encoder/.*|.*_head/.*"},
        {"from": f"{tmp_path / 'graph'}@last", "only": "graph_encoder/.*"},
    )
    config.frozen = ("text_encoder/.*", "graph_encoder/.*")
    row = train(config, tmp_path / "joined")
    assert np.isfinite(row["text_to_crystal_top1"])
    text, graph, joined = (arrays_at(tmp_path / name, 4) for name in ("text", "graph", "joined"))
    report = json.loads((tmp_path / "joined" / "restore_report.json").read_text())
    giver = {a["path"]: a["number"] for a in report["arrays"] if a["path"]}
    for path, array in joined.items():
        if path.startswith("params/text_encoder/"):
            assert giver[path] == 1
            np.testing.assert_array_equal(array, text[path], err_msg=path)
        elif path.startswith("params/graph_encoder/"):
            assert giver[path] == 2
            np.testing.assert_array_equal(array, graph[path], err_msg=path)
    trained = "params/cross_head/left/hidden/kernel"
    assert np.any(joined[trained] != text[trained])
    # Started again, it is its own run.
    assert train(config, tmp_path / "joined") == row
    assert main(["ckpt", "diff", str(tmp_path / "joined"), str(tmp_path / "text")]) == 0
