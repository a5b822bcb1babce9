"""Greedy soups of stored checkpoints: with a fake measure, and of trained runs."""

import numpy as np
import pytest
from helpers.states import make_params, make_state, save_run

from clac_jax.checkpoint.arrays import read_arrays
from clac_jax.checkpoint.locate import locate
from clac_jax.cli import main as cli
from clac_jax.evaluation import soup as soup_lib
from clac_jax.training.progress import RunProgress

BIASES = {1: 2.0, 2: -1.5, 3: 9.0, 4: 0.2}
"""Step of a checkpoint -> the number that its value depends on; the best average is 0."""


class FakeValidation:
    """The value of a model is the distance of its bias from 0."""

    size = 10

    def __init__(self, info, data_dir=None):
        assert data_dir is None and info.step in BIASES

    def measure(self, arrays):
        distance = abs(float(arrays["params/graph/bias"][0]))
        return {"val_loss": distance, "text_to_crystal_top1": 1 - distance, "pool_size": 10.0}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setattr(soup_lib, "Validation", FakeValidation)

    def state(seed, step=True):
        del step
        graph = {"kernel": np.ones((2, 3), np.float32), "bias": np.full(3, BIASES[seed], "float32")}
        return make_state(seed, params=make_params(seed) | {"graph": graph}, step=False)

    steps = {step: (RunProgress(step=step, epoch=1), None) for step in BIASES}
    save_run(tmp_path / "run", steps, state=state)
    return [f"{tmp_path}/run@step={step}" for step in BIASES]


def soup(names, out, *flags):
    return cli.main(["ckpt", "soup", *names, "--out", str(out), *flags])


@pytest.mark.parametrize("flags", [(), ("--measure=text_to_crystal_top1",)])
def test_the_soup_is_that_of_the_definition(runs, tmp_path, capsys, flags):
    assert soup(runs, tmp_path / "soup", *flags) == 0
    # Best first: 0.2, -1.5, 2, 9. -0.65 is worse than 0.2; (0.2 + 2) / 2 and (0.2 + 9) / 2 too.
    expected = [4]
    out = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if "@step" in line}
    assert [name for name, row in rows.items() if row[-1] == "kept"] == [runs[3]]
    assert list(rows) == [runs[3], runs[1], runs[0], runs[2]]
    about = locate(str(tmp_path / "soup")).made_from
    assert [each["step"] for each in about["checkpoints"]] == expected
    assert len(about["choice"]["tried"]) == 4


def test_candidates_that_make_it_better_are_averaged(runs, tmp_path, capsys):
    """2 and -1.5: best first -1.5; with 2 it is 0.25, with 9 it is 3.2."""
    assert soup(runs[:3], tmp_path / "soup") == 0
    info = locate(f"{tmp_path}/soup@best")
    assert [each["step"] for each in info.made_from["checkpoints"]] == [2, 1]
    assert info.metrics["val_loss"] == 0.25, "that of the average"
    bias = read_arrays(info, ["params/graph/bias"])["params/graph/bias"]
    np.testing.assert_array_equal(bias, np.full(3, 0.25, np.float32))
    tried = info.made_from["choice"]["tried"]
    assert [(each["own_value"], each["together"], each["kept"]) for each in tried] == [
        (1.5, 1.5, True), (2.0, 0.25, True), (9.0, pytest.approx(9.5 / 3), False)
    ]  # fmt: skip
    assert "soup" in capsys.readouterr().out.splitlines()[-2]


def test_a_measure_that_does_not_exist_is_named(runs, tmp_path, capsys):
    assert soup(runs, tmp_path / "soup", "--measure=top1") == 2
    err = capsys.readouterr().err
    assert "no measure 'top1'" in err and "text_to_crystal_top1" in err and "pool_size" not in err
    assert not (tmp_path / "soup").exists()
