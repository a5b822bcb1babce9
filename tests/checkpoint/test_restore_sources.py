"""A run that starts from several sources: which gives what, and what the report says."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.states import begin, changed, epochs, make_params, make_state, save_run

from clac_jax.checkpoint.tree import to_arrays
from clac_jax.config import check as config_check
from clac_jax.config.schema import default_config, from_plain, to_plain
from clac_jax.errors import ConfigError, UserError

STEP = 10


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """({"a": its workdir, "b": ...}, {"a": its arrays, ...}) of two runs of one model."""
    folders, arrays = {}, {}
    for number, name in enumerate("ab", start=1):
        folders[name] = str(tmp_path_factory.mktemp(name))
        state = lambda seed, number=number: make_state(seed=100 * number)  # noqa: E731
        arrays[name] = save_run(folders[name], epochs(0.5), state=state)[STEP]
    return folders, arrays


def from_sources(runs, tmp_path, *sources, **values):
    config = changed(**values)
    config.restore.sources = tuple(
        {**source, "from": runs[0][source["from"]]} for source in sources
    )
    config_check.validate(config)
    return begin(tmp_path, config, arrays=to_arrays(make_state(seed=77, step=False)))


def test_each_tower_comes_from_its_own_run(runs, tmp_path):
    start = from_sources(
        runs, tmp_path, {"from": "a", "only": "text/.*"}, {"from": "b", "only": "graph/.*|norm/.*"}
    )
    saved = runs[1]
    for path, leaf in start.arrays.items():
        if path.startswith(("params/", "batch_stats/")):
            giver = "a" if "/text/" in path else "b"
            np.testing.assert_array_equal(leaf, saved[giver][path], err_msg=path)
        elif "/adam/" in path:
            assert not np.any(leaf), path
    assert start.progress.step == 0
    assert start.origin == "starts from 2 sources"
    assert "starts at step 0" in "\n".join(start.notes)


def test_the_first_source_gives_what_several_have(runs, tmp_path):
    start = from_sources(runs, tmp_path, {"from": "b"}, {"from": "a"})
    np.testing.assert_array_equal(
        start.arrays["params/text/kernel"], runs[1]["b"]["params/text/kernel"]
    )
    report = json.loads((tmp_path / "restore_report.json").read_text())
    by_source = [a for a in report["arrays"] if a["source"] == "params/text/kernel"]
    assert [(a["number"], a["outcome"], a["reason"]) for a in by_source] == [
        (1, "restored", ""),
        (2, "unused", "source 1 gives it"),
    ]
    assert [each["step"] for each in report["sources"]] == [STEP, STEP]


def test_moments_come_with_their_parameters_and_progress_from_one_source(runs, tmp_path):
    state = ("params", "batch_stats", "opt_state")
    start = from_sources(
        runs,
        tmp_path,
        {"from": "a", "only": "text/.*", "parts": ("params",)},
        {"from": "b", "parts": (*state, "progress", "key")},
    )
    moments = "opt_state/inner_state/adam/{}/{}/kernel"
    for kind in ("mu", "nu", "count"):
        # Source b has moments of `text`, but not of the parameter that the run has.
        assert not np.any(start.arrays[moments.format(kind, "text")])
        path = moments.format(kind, "graph")
        np.testing.assert_array_equal(start.arrays[path], runs[1]["b"][path])
    np.testing.assert_array_equal(start.arrays["key"], runs[1]["b"]["key"])
    assert start.progress.step == start.arrays["step"] == STEP
    report = json.loads((tmp_path / "restore_report.json").read_text())
    reasons = {a["source"]: a["reason"] for a in report["arrays"] if a["number"] == 2}
    assert reasons["opt_state/inner_state/adam/mu/text/kernel"] == "source 1 gives its parameter"


def test_an_own_checkpoint_wins_over_the_sources(runs, tmp_path):
    own = save_run(tmp_path, epochs(0.5))[STEP]
    start = from_sources(runs, tmp_path, {"from": "a"}, {"from": "b"})
    assert start.is_own
    np.testing.assert_array_equal(start.arrays["params/text/kernel"], own["params/text/kernel"])
    assert "restore.sources" in "".join(start.notes) and "not used" in "".join(start.notes)


def test_a_rule_of_one_source_with_a_transform(runs, tmp_path):
    params = make_params(seed=77)
    params["words"] = {"kernel": jnp.zeros((4, 4))}
    del params["text"]
    config = changed()
    config.restore.sources = (
        {
            "from": runs[0]["a"],
            "only": "text/.*",
            "parts": ("params", "opt_state"),
            "rules": (("text/(.*)", r"words/\1", "transpose(1, 0)"),),
        },
        {"from": runs[0]["b"], "only": "graph/.*|norm/.*"},
    )
    fresh = to_arrays(make_state(seed=77, params=params, step=False))
    start = begin(tmp_path, config, arrays=fresh)
    for prefix in ("params", "opt_state/inner_state/adam/mu", "opt_state/inner_state/adam/nu"):
        expected = runs[1]["a"][f"{prefix}/text/kernel"].T
        np.testing.assert_array_equal(start.arrays[f"{prefix}/words/kernel"], expected)
    assert start.arrays["opt_state/inner_state/adam/count/words/kernel"] == 1


@pytest.mark.parametrize(
    "sources, words",
    [
        (({"parts": ()},), "names a checkpoint"),
        (({"from": "a", "rule": ()},), "member 'rule'"),
        (({"from": "a", "parts": ("weights",)},), "They can be params"),
        (({"from": "a", "parts": ("opt_state",)},), "without params"),
        (
            ({"from": "a", "parts": ("progress",)}, {"from": "b", "parts": ("progress",)}),
            "a run has only one",
        ),
        (({"from": "a", "rules": (("x",),)},), "The rules of source 1"),
        (({"from": "a", "only": 3},), "not a regular expression"),
    ],
)
def test_sources_that_cannot_be_meant(sources, words):
    config = default_config()
    config.restore.sources = sources
    with pytest.raises(ConfigError, match=words):
        config_check.validate(config)


def test_sources_and_resume_from_exclude_each_other():
    config = default_config()
    config.restore.sources = ({"from": "a"},)
    config.resume_from = "b"
    with pytest.raises(ConfigError, match="both set"):
        config_check.validate(config)


def test_the_config_is_read_from_json():
    config = default_config()
    config.restore.sources = ({"from": "a", "rules": (("x", ("y", "z"), "split(0, 2)"),)},)
    config_check.validate(config)
    again = from_plain(to_plain(config))
    config_check.validate(again)
    assert to_plain(again) == to_plain(config)


def test_a_source_that_does_not_exist(runs, tmp_path):
    config = changed()
    config.restore.sources = ({"from": str(tmp_path / "none")},)
    with pytest.raises(UserError, match="does not exist"):
        begin(tmp_path / "new", config)
