"""Averages of stored checkpoints against NumPy, and the workdir that they are saved in."""

import functools
import json

import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers.states import begin, changed, make_params, make_state, save_run

from clac_jax.checkpoint import averaging
from clac_jax.checkpoint.arrays import read_arrays
from clac_jax.checkpoint.averaging import UnlikeModelsError, average, check_alike
from clac_jax.checkpoint.inspect import format_show, show
from clac_jax.checkpoint.layout import CheckpointInfo
from clac_jax.checkpoint.lineage import arrays_digest
from clac_jax.checkpoint.locate import locate
from clac_jax.checkpoint.made_from import describe_made_from
from clac_jax.checkpoint.tree import to_arrays
from clac_jax.cli import main as cli
from clac_jax.training.ema import Averaging
from clac_jax.training.progress import RunProgress
from clac_jax.training.state import with_average

TRAINABLE = {"graph": {"kernel": True, "bias": True}, "text": {"kernel": False}}
DATA = {"train": "a" * 32, "validation": "b" * 32}


def frozen_text(seed, step=True):
    """A state before any step, whose text parameters are the same for every seed."""
    del step
    params = make_params(seed) | {"text": make_params(1)["text"]}
    return make_state(seed, params=params, step=False)


def run_with(workdir, seeds, config=None, data=None, state=frozen_text):
    """A run with a checkpoint at each step; the seed of its state is the step."""
    steps = {seed: (RunProgress(step=seed, epoch=1), {"val_loss": 1.0 / seed}) for seed in seeds}
    save_run(workdir, steps, config, state=state, data=data)
    return workdir


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs with checkpoints of the steps 3, 5 and 8; and 4."""
    folder = tmp_path_factory.mktemp("averaging")
    a = run_with(folder / "a", (3, 5, 8), data=DATA)
    return a, run_with(folder / "b", (4,), data=DATA | {"train": "c" * 32})


@pytest.fixture
def ckpt(capsys):
    """(*arguments) -> (exit code, stdout, stderr)."""

    def call(*arguments):
        code = cli.main(["ckpt", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def expected_mean(infos, weights, path):
    arrays = [read_arrays(info, [path])[path] for info in infos]
    wide = [w * a.astype(np.float64) for w, a in zip(weights, arrays, strict=True)]
    return functools.reduce(np.add, wide).astype(arrays[0].dtype)


def test_an_average_is_numpys_and_what_is_equal_stays(runs, tmp_path, ckpt):
    a, b = runs
    code, out, _ = ckpt("average", f"{a}@step=8", b, "--weights=3,1", "--out", tmp_path / "mean")
    assert code == 0
    assert "4 arrays" in out and "2 averaged" in out and "2 equal in all" in out
    assert "statistics" in out, "there are some"
    infos, result = [locate(f"{a}@step=8"), locate(str(b))], locate(str(tmp_path / "mean"))
    saved = read_arrays(result, result.leaves)
    assert set(saved) == {"step", "params/graph/kernel", "params/graph/bias", "params/text/kernel",
                          "batch_stats/norm/mean"}  # fmt: skip
    for path in ("params/graph/kernel", "batch_stats/norm/mean"):
        np.testing.assert_array_equal(saved[path], expected_mean(infos, (0.75, 0.25), path))
    text = read_arrays(infos[0], ["params/text/kernel"])["params/text/kernel"]
    assert saved["params/text/kernel"].tobytes() == text.tobytes()
    with ocp.PyTreeCheckpointer() as stock:
        tree = stock.restore(result.folder / "state")
    np.testing.assert_array_equal(tree["params"]["graph"]["kernel"], saved["params/graph/kernel"])


def test_the_ingredients_are_shown(runs, tmp_path, ckpt):
    a, b = runs
    ckpt("average", f"{a}@step=3", b, "--out", tmp_path / "mean")
    code, out, _ = ckpt("show", tmp_path / "mean", "--json")
    about = json.loads(out)["made_from"]
    assert code == 0 and about["how"] == "weighted mean"
    infos = [locate(f"{a}@step=3"), locate(str(b))]
    for each, info in zip(about["checkpoints"], infos, strict=True):
        assert each["checkpoint"] == str(info.folder) and each["step"] == info.step
        assert each["arrays"] == arrays_digest(info) and each["weight"] == 0.5
    _, text, _ = ckpt("show", tmp_path / "mean")
    assert "made from  weighted mean" in text and f"0.5      x {infos[1].folder}, arrays" in text
    result = locate(str(tmp_path / "mean"))
    assert result.step == 4, "that of the furthest"
    assert dict(result.data) == {"validation": "b" * 32}, "known of both and equal"


def test_the_exponential_average_of_a_run_is_over_its_steps_in_order(runs, tmp_path, ckpt):
    a, _ = runs
    code, _, _ = ckpt("average", a, "--ema=0.9", "--out", tmp_path / "ema")
    assert code == 0
    infos = [locate(f"{a}@step={step}") for step in (3, 5, 8)]
    path = "params/graph/kernel"
    mean = read_arrays(infos[0], [path])[path].astype(np.float64)
    for info in infos[1:]:
        mean = 0.9 * mean + 0.1 * read_arrays(info, [path])[path].astype(np.float64)
    result = locate(str(tmp_path / "ema"))
    np.testing.assert_allclose(read_arrays(result, [path])[path], mean, rtol=1e-7)
    assert result.step == 8


def test_each_run_contributes_the_weights_that_it_evaluated(tmp_path):
    def averaged(seed, step=True):
        state = with_average(make_state(seed, step=step), Averaging(0.5), TRAINABLE)
        graph = {name: leaf + 1 for name, leaf in state.ema["graph"].items()}
        return state.replace(ema={**state.ema, "graph": graph})

    config = changed(ema__decay=0.5)
    infos = [
        locate(str(run_with(tmp_path / str(seed), (seed,), config, state=averaged)))
        for seed in (2, 6)
    ]
    check_alike(infos)
    result = average(infos, (0.5, 0.5))
    path = "ema/graph/kernel"
    np.testing.assert_array_equal(
        result["params/graph/kernel"], expected_mean(infos, (0.5, 0.5), path)
    )
    assert {each.split("/")[0] for each in result} == {"params", "batch_stats"}


def test_memory_holds_a_few_arrays_at_a_time(runs, monkeypatch):
    a, b = runs
    infos = [locate(str(a)), locate(str(b))]
    together = average(infos, (0.5, 0.5))
    asked = []
    read = averaging.read_evaluated
    monkeypatch.setattr(averaging, "_BLOCK", 1)
    monkeypatch.setattr(
        averaging, "read_evaluated", lambda info, paths: asked.append(paths) or read(info, paths)
    )
    one_by_one = average(infos, (0.5, 0.5))
    assert all(len(paths) == 1 for paths in asked) and len(asked) == 2 * len(together)
    for path, array in together.items():
        np.testing.assert_array_equal(one_by_one[path], array)


def test_a_run_starts_from_an_average(runs, tmp_path, ckpt):
    a, b = runs
    ckpt("average", a, b, "--out", tmp_path / "mean")
    fresh = to_arrays(make_state(seed=77, step=False))
    config = changed(resume_from=str(tmp_path / "mean"))
    (tmp_path / "next").mkdir()
    start = begin(tmp_path / "next", config, arrays=fresh)
    result = locate(str(tmp_path / "mean"))
    saved = read_arrays(result, ["params/graph/kernel"])
    np.testing.assert_array_equal(start.arrays["params/graph/kernel"], saved["params/graph/kernel"])
    moments = "opt_state/inner_state/adam/mu/graph/kernel"
    np.testing.assert_array_equal(start.arrays[moments], fresh[moments])


def test_models_of_other_shapes_are_refused_by_name(runs, tmp_path, ckpt):
    wide = functools.partial(make_state, width=4)
    other = run_with(tmp_path / "wide", (7,), state=wide)
    code, _, err = ckpt("average", runs[0], other, "--out", tmp_path / "mean")
    assert code == 2
    assert "params/graph/bias is float32 (3,) in the first and float32 (4,) in the second" in err
    assert not (tmp_path / "mean").exists()


def test_models_with_other_names_or_meaning_are_refused(runs, tmp_path):
    def renamed(seed, step=True):
        params = {f"{name}2": leaf for name, leaf in make_params(seed).items()}
        return make_state(seed, params=params, step=step)

    info = locate(str(runs[0]))
    other = locate(str(run_with(tmp_path / "renamed", (7,), state=renamed)))
    with pytest.raises(
        UnlikeModelsError, match=r"only the first has params/graph/bias.* and 3 more"
    ):
        check_alike([info, other])
    config = changed(text_encoder__feature="first")
    other = locate(str(run_with(tmp_path / "feature", (7,), config)))
    with pytest.raises(UnlikeModelsError, match=r"text_encoder\.feature was 'mean' and 'first'"):
        check_alike([info, other])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a"], "nothing to average"),
        (["a", "b", "--weights=1"], "it has 1 for 2 checkpoints"),
        (["a", "b", "--weights=1,x"], "could not convert string to float"),
        (["a", "b", "--weights=0,0"], "not all 0"),
        (["a", "b", "--ema=0.9"], "Name its workdir, and nothing else"),
        (["a@step=3", "--ema=0.9"], "Name its workdir, and nothing else"),
        (["a", "--ema=2"], "from 0 to 1"),
    ],
)
def test_an_average_that_cannot_be_made_is_refused_in_a_sentence(
    runs, tmp_path, ckpt, arguments, words
):
    names = {"a": runs[0], "b": runs[1], "a@step=3": f"{runs[0]}@step=3"}
    given = [names.get(each, each) for each in arguments]
    code, out, err = ckpt("average", *given, "--out", tmp_path / "mean")
    assert code == 2 and words in err and not out


def test_a_workdir_with_checkpoints_is_not_touched(runs, ckpt):
    a, b = runs
    code, _, err = ckpt("average", a, b, "--out", a)
    assert code == 2 and "holds checkpoints already" in err


def test_a_description_from_a_file_may_hold_anything(runs):
    info = locate(str(runs[0]))
    assert describe_made_from(None) == [] and "made_from" not in info.to_json()
    for odd in ({}, {"checkpoints": 3}, {"checkpoints": [1, {"weight": "x", "arrays": 4}]}):
        assert describe_made_from(odd)
    again = CheckpointInfo.from_json(info.folder, _plain(info))
    assert again.made_from == {"how": "x"}
    assert show(again)["made_from"] == {"how": "x"} and "made from  x" in format_show(again)


def _plain(info):
    values = json.loads(json.dumps(info.to_json())) | {"made_from": {"how": "x"}}
    del values["format"]
    return values
