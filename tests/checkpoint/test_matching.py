"""The fate of every array in a restore, decided from names and shapes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clac_jax.checkpoint.matching import RestoreOptions, match, problems
from clac_jax.checkpoint.proposals import suggest_rules
from clac_jax.checkpoint.renaming import RestoreRuleError

SAVED = {
    "params/text/layer_0/kernel": (4, 4),
    "params/text/layer_0/bias": (4,),
    "params/graph/kernel": (2, 3),
    "batch_stats/graph/mean": (3,),
    "opt_state/adam/mu/text/layer_0/kernel": (4, 4),
    "opt_state/adam/mu/text/layer_0/bias": (4,),
    "opt_state/adam/mu/graph/kernel": (2, 3),
    "opt_state/adam/count": (),
    "step": (),
    "key": (2,),
}


def outcomes(matches):
    return {m.name: m.outcome for m in matches}


def renamed(tree, old, new):
    return {path.replace(old, new): shape for path, shape in tree.items()}


def test_the_same_model_takes_everything():
    matches = match(SAVED, SAVED, RestoreOptions())
    assert outcomes(matches) == dict.fromkeys(SAVED, "restored")
    assert problems(matches, RestoreOptions()) == []


def test_a_rule_renames_parameters_and_their_moments_alike():
    options = RestoreOptions(rules=((r"text/(.*)", r"words/\1"),))
    wanted = renamed(SAVED, "text/", "words/")
    matches = match(SAVED, wanted, options)
    assert problems(matches, options) == []
    by_name = {m.path: m for m in matches}
    for path in wanted:
        assert by_name[path].outcome == ("renamed" if "words" in path else "restored")
        assert by_name[path].source == path.replace("words/", "text/")


def test_the_first_rule_that_matches_counts():
    options = RestoreOptions(rules=((r"text/layer_0/bias", None), (r"text/(.*)", r"words/\1")))
    matches = match(SAVED, renamed(SAVED, "text/", "words/"), options)
    found = outcomes(matches)
    assert found["params/words/layer_0/kernel"] == "renamed"
    assert found["params/text/layer_0/bias"] == "dropped"
    assert found["params/words/layer_0/bias"] == "initialized"
    assert found["opt_state/adam/mu/text/layer_0/bias"] == "dropped"


def test_an_array_left_out_by_a_rule_is_not_a_problem():
    options = RestoreOptions(rules=(("graph/.*", None),))
    matches = match(SAVED, SAVED, options)
    assert problems(matches, options) == []
    assert {m.name for m in matches if m.outcome == "initialized"} == {
        "params/graph/kernel",
        "batch_stats/graph/mean",
        "opt_state/adam/mu/graph/kernel",
    }


def test_an_array_on_one_side_is_a_problem_only_when_strict():
    wanted = {**SAVED, "params/head/kernel": (3, 3)}
    del wanted["params/graph/kernel"]
    for strict, expected in ((True, {"params/head/kernel", "params/graph/kernel"}), (False, set())):
        options = RestoreOptions(strict=strict)
        matches = match(SAVED, wanted, options)
        assert {m.name for m in problems(matches, options)} == expected
        assert outcomes(matches)["params/head/kernel"] == "initialized"
        assert outcomes(matches)["params/graph/kernel"] == "dropped"


@pytest.mark.parametrize(
    "on_mismatch, outcome, accepted",
    [("error", "initialized", False), ("skip", "initialized", True), ("overlap", "resized", True)],
)
@pytest.mark.parametrize("strict", [True, False])
def test_another_shape(on_mismatch, outcome, accepted, strict):
    wanted = {**SAVED, "params/text/layer_0/kernel": (5, 4)}
    options = RestoreOptions(strict=strict, on_shape_mismatch=on_mismatch)
    matches = match(SAVED, wanted, options)
    assert outcomes(matches)["params/text/layer_0/kernel"] == outcome
    assert (problems(matches, options) == []) == accepted


def test_another_rank_cannot_overlap():
    options = RestoreOptions(on_shape_mismatch="overlap")
    matches = match({"params/w": (4, 4)}, {"params/w": (4, 4, 2)}, options)
    assert outcomes(matches) == {"params/w": "initialized"}


def test_a_different_optimizer_is_accepted_even_when_strict():
    wanted = {path.replace("adam/mu", "lion/mu"): shape for path, shape in SAVED.items()}
    matches = match(SAVED, wanted, RestoreOptions())
    assert problems(matches, RestoreOptions()) == []
    assert outcomes(matches)["opt_state/lion/mu/graph/kernel"] == "initialized"


def test_parts():
    options = RestoreOptions(parts=("params",))
    matches = match(SAVED, SAVED, options)
    taken = {m.name for m in matches if m.outcome == "restored"}
    assert taken == {path for path in SAVED if path.startswith("params/")}
    assert not [m for m in matches if m.outcome == "dropped"]
    assert problems(matches, options) == []


@pytest.mark.parametrize(
    "rules, words",
    [
        ((("grph/.*", None),), "matches no array"),
        (
            (("graph/.*", None), ("graph/kernel", None)),
            "'graph/kernel', and all arrays that it matches are taken by an earlier rule: "
            "'graph/.*'. Put it before that",
        ),
        ((("graph/.*", None), ("grph/kernel", None)), "'grph/kernel', which matches no array"),
        ((("graph/(", None),), "not a regular expression"),
        ((("text/layer_0/kernel", "graph/kernel"),), "the one name 'params/graph/kernel'"),
    ],
)
def test_rules_that_cannot_be_meant(rules, words):
    with pytest.raises(RestoreRuleError, match=re.escape(words)):
        match(SAVED, SAVED, RestoreOptions(rules=rules))


def test_suggests_the_rename_that_fits():
    wanted = renamed(SAVED, "text/layer_0", "text_encoder/block_0")
    found = problems(match(SAVED, wanted, RestoreOptions()), RestoreOptions())
    rules = suggest_rules(found)
    assert rules == [("text/layer_0/(.*)", r"text_encoder/block_0/\1")]
    options = RestoreOptions(rules=tuple(rules))
    assert problems(match(SAVED, wanted, options), options) == []


def test_suggests_no_rename_between_other_shapes():
    wanted = {"params/new/kernel": (9, 9)}
    found = problems(
        match({"params/old/kernel": (4, 4)}, wanted, RestoreOptions()), RestoreOptions()
    )
    assert suggest_rules(found) == []


NAMES = st.sampled_from(["a", "b", "c", "kernel", "bias"])
TREES = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=3).map(lambda names: "params/" + "/".join(names)),
    st.lists(st.integers(1, 3), max_size=2).map(tuple),
    max_size=8,
)
RULES = st.lists(
    st.tuples(
        st.sampled_from([r"a/(.*)", r"b/(.*)", r".*kernel", r"(.*)/bias"]),
        st.sampled_from([None, r"c/x", r"z/y"]),
    ),
    max_size=2,
).map(tuple)
OPTIONS = st.builds(
    RestoreOptions,
    strict=st.booleans(),
    rules=RULES,
    on_shape_mismatch=st.sampled_from(["error", "skip", "overlap"]),
)


@given(TREES, TREES, OPTIONS)
def test_every_array_is_accounted_for_once(saved, wanted, options):
    try:
        matches = match(saved, wanted, options)
    except RestoreRuleError:
        return
    assert sorted(m.path for m in matches if m.path) == sorted(wanted)
    # A saved array that is not used is either dropped or reported with its shape.
    sources = [m.source for m in matches if m.source]
    assert sorted(sources) == sorted(saved)
    for m in matches:
        if m.outcome in ("restored", "renamed"):
            assert saved[m.source] == wanted[m.path] == m.shape
        if m.outcome == "restored":
            assert m.source == m.path
        if m.outcome == "resized":
            assert len(saved[m.source]) == len(wanted[m.path])
    accepted = not problems(matches, options)
    exact = all(m.outcome in ("restored", "renamed") for m in matches)
    assert accepted or not exact
    if options.strict and options.on_shape_mismatch == "error" and not options.rules:
        assert accepted == (saved == wanted)


@given(TREES, st.sampled_from(["a", "b", "c"]))
def test_a_renamed_module_is_found(saved, module):
    wanted = {re.sub(rf"^params/{module}/", "params/other/", path): s for path, s in saved.items()}
    found = problems(match(saved, wanted, RestoreOptions()), RestoreOptions())
    options = RestoreOptions(rules=tuple(suggest_rules(found)))
    matches = match(saved, wanted, options)
    # Arrays of equal name and shape can be matched in several ways, but all are matched.
    assert problems(matches, options) == [] or any(
        m.source and m.source.count("/") == 1 for m in found
    )
