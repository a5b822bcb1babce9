"""A run is continued with a larger model: `restore.on_shape_mismatch=grow`."""

import json

import numpy as np
import pytest
from helpers.small_runs import arrays_at, train_rows

from clac_jax.training_run import train

# Dropout draws other units in a wider model, so that only without it the loss is the same.
COMMON = {
    "graph_encoder.name": "painn",
    "graph_encoder.num_interactions": 1,
    "text_encoder.dropout": 0.0,
    "text_encoder.feature": "attention",
    "graph_encoder.add_composition": True,
    "ema.decay": 0.9,
    "learning_rate": 1e-3,
}
LARGER = {
    "graph_encoder.num_features": 24,
    "graph_encoder.num_interactions": 2,
    "graph_encoder.out_dim": 20,
    "text_encoder.config.hidden_size": 32,
    "text_encoder.config.num_attention_heads": 4,
    "text_encoder.config.num_hidden_layers": 2,
    "text_encoder.config.intermediate_size": 48,
    "projection_dim": 32,
}


@pytest.fixture(scope="module")
def trained(small_config, tmp_path_factory):
    """A run of one epoch; and the same run with a second epoch."""
    folder = tmp_path_factory.mktemp("trained")
    train(small_config(**COMMON, max_epochs=1), folder / "first")
    same = small_config(**COMMON, max_epochs=2, resume_from=str(folder / "first"))
    train(same, folder / "same")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["painn", "frozen texts"])
def test_the_first_loss_is_that_of_the_run_continued_with_the_smaller_model(
    trained, small_config, tmp_path, name
):
    larger = LARGER | ({"frozen": ("text_encoder/.*",)} if name == "frozen texts" else {})
    grow = {"restore.on_shape_mismatch": "grow"}
    config = small_config(
        **COMMON | larger | grow, max_epochs=2, resume_from=str(trained / "first")
    )
    train(config, tmp_path)
    rows, expected = train_rows(tmp_path), train_rows(trained / "same")
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    assert rows[0]["loss"] == pytest.approx(expected[0]["loss"], abs=1e-5)
    losses = np.array([row["loss"] for row in rows])
    assert np.isfinite(losses).all()
    assert np.abs(losses[1:] - [row["loss"] for row in expected[1:]]).max() > 1e-4
    last = rows[-1]["step"]
    report = json.loads((tmp_path / "restore_report.json").read_text())
    by_path = {each["path"]: each for each in report["arrays"]}
    kernel = by_path["params/graph_encoder/encoder/message_0/hidden/kernel"]
    assert kernel["outcome"] == "transformed" and "16 -> 24" in kernel["reason"]
    new = by_path["params/graph_encoder/encoder/message_1/phi/kernel"]
    assert new["outcome"] == "initialized" and new["reason"] == "of an added layer"
    arrays = arrays_at(tmp_path, last)
    kernel = arrays["params/graph_encoder/encoder/message_0/hidden/kernel"]
    # The copies of a unit have gone their own ways.
    copies = np.arange(24) * 16 // 24
    first, second = np.flatnonzero(copies == copies[0])[:2]
    assert np.abs(kernel[:, first] - kernel[:, second]).max() > 1e-5
    if name == "frozen texts":
        frozen = arrays["params/text_encoder/layer_0_attention/key/kernel"]
        # Over the copies of its inputs it sums to the old map, in both copies of each head.
        heads = frozen.reshape(16, 2, 4, 8).sum(axis=1)
        np.testing.assert_allclose(heads[:, ::2], heads[:, 1::2], rtol=1e-4, atol=1e-7)
