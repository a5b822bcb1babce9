"""`clac-jax ckpt soup` on a trained run: what it measures is what the run has written."""

import numpy as np
import pytest
from helpers.small_runs import STEPS_PER_EPOCH

import clac_jax
from clac_jax.checkpoint.arrays import read_arrays
from clac_jax.checkpoint.averaging import model_paths
from clac_jax.checkpoint.locate import locate
from clac_jax.cli import main as cli


def test_candidates_are_validated_as_in_their_run_and_the_soup_loads(stage1, tmp_path, capsys):
    steps = (STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH)
    names = [f"{stage1}@step={step}" for step in steps]
    assert cli.main(["ckpt", "soup", *names, "--out", str(tmp_path / "soup")]) == 0
    out = capsys.readouterr().out
    result = locate(f"{tmp_path}/soup@best")
    tried = {each["checkpoint"]: each for each in result.made_from["choice"]["tried"]}
    infos = [locate(name) for name in names]
    for info in infos:
        recorded = info.metrics["val_loss"]
        assert tried[str(info.folder)]["own_value"] == pytest.approx(recorded, rel=1e-6)
        assert f"{recorded:.4f}" in out
    chosen = [each["step"] for each in result.made_from["checkpoints"]]
    kept = [info for info in infos if info.step in chosen]
    arrays, path = read_arrays(result, result.leaves), "params/cross_head/left/hidden/kernel"
    assert set(arrays) == {*model_paths(infos[0]), "step"}
    mean = np.mean([np.float64(read_arrays(info, [path])[path]) for info in kept], axis=0)
    np.testing.assert_array_equal(arrays[path], mean.astype(np.float32))
    assert result.metrics["val_loss"] <= min(info.metrics["val_loss"] for info in infos)
    model = clac_jax.load(tmp_path / "soup")
    assert model.step == max(chosen) and model.embed_texts(["Salt."]).shape == (1, model.dim)
