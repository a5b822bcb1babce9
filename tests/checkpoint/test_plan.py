"""A plan, the restore that follows it and the difference afterwards, on random trees and rules."""

import collections
from dataclasses import dataclass

import jax
import numpy as np
import pytest
from etils import epath
from helpers.states import epochs, make_config, make_state, save_run, shapes_of
from hypothesis import given, settings
from hypothesis import strategies as st

from clac_jax.checkpoint import inspect
from clac_jax.checkpoint.layout import read_info
from clac_jax.checkpoint.manager import Checkpoints
from clac_jax.checkpoint.matching import KEPT, RestoreOptions
from clac_jax.checkpoint.plan import make_plan
from clac_jax.checkpoint.renaming import RestoreRuleError
from clac_jax.checkpoint.restore import restore_plan
from clac_jax.checkpoint.sources import Arrays, SavedArray, Wanted, of_checkpoint
from clac_jax.checkpoint.tree import to_arrays
from clac_jax.surgery.transforms import parse
from clac_jax.training.progress import RunProgress


@dataclass(frozen=True)
class InMemory(Arrays):
    """A source whose arrays are in memory; it counts how often each is read."""

    arrays: dict
    reads: collections.Counter

    @property
    def place(self):
        return self.name

    def read(self, paths):
        self.reads.update(paths)
        return {path: self.arrays[path] for path in paths}


def in_memory(name, tree, first):
    arrays = {
        path: np.arange(
            first + 100 * k, first + 100 * k + int(np.prod(shape)), dtype=np.float32
        ).reshape(shape)
        for k, (path, shape) in enumerate(sorted(tree.items()))
    }
    leaves = {path: SavedArray(a.shape, "float32") for path, a in arrays.items()}
    return InMemory(name, leaves, arrays, collections.Counter())


NAMES = st.lists(st.sampled_from(["a", "b", "0", "1", "w"]), min_size=1, max_size=3)
SHAPES = st.sampled_from([(2, 3), (3, 2), (2,), (2, 2, 3), ()])
PARAMS = st.dictionaries(NAMES.map("/".join), SHAPES, min_size=1, max_size=6)
RULES = st.lists(
    st.sampled_from(
        [
            ("a/(.*)", r"b/\1"),
            ("b/(.*)", None),
            (r"(\d)/w", "a/w", "stack(0)"),
            ("a/w", "b/{}", "unstack(0)"),
            (r"(.*)/w", r"\g<1>/w", "transpose(1, 0)"),
            ("w", ("a", "b"), "split(0, 2)"),
        ]
    ),
    max_size=2,
).map(tuple)
OPTIONS = st.builds(
    RestoreOptions,
    parts=st.sampled_from([("params",), ("params", "opt_state")]),
    strict=st.just(False),
    rules=RULES,
    on_shape_mismatch=st.sampled_from(["skip", "overlap"]),
    only=st.sampled_from(["", "a.*", ".*w"]),
)


def with_moments(params):
    tree = {}
    for name, shape in params.items():
        tree[f"params/{name}"] = shape
        tree[f"opt_state/adam/mu/{name}"] = shape
    return tree


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(PARAMS, OPTIONS), min_size=1, max_size=3), PARAMS)
def test_every_array_is_in_the_plan_once_and_is_restored_as_planned(given_sources, wanted):
    sources = [
        Wanted(in_memory(f"source {k}", with_moments(params), 1000 * k), options)
        for k, (params, options) in enumerate(given_sources, start=1)
    ]
    tree = with_moments(wanted)
    shapes = {path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in tree.items()}
    try:
        plan = make_plan(sources, shapes)
    except RestoreRuleError:
        return
    assert sorted(m.path for m in plan.matches if m.path) == sorted(tree)
    uses = collections.defaultdict(list)
    for m in plan.matches:
        for path in m.sources:
            uses[m.number, path].append(m)
    # Nothing vanishes, and only an array that is divided is used more than once.
    assert uses.keys() == {
        (k, path) for k, source in enumerate(sources, start=1) for path in source.arrays.leaves
    }
    for several in uses.values():
        divided = all(m.change is not None and len(m.change.results) > 1 for m in several)
        assert len(several) == 1 or divided
        assert len({(m.path, m.change and m.change.index) for m in several}) == len(several)

    fresh = {path: np.full(shape, -1.0, np.float32) for path, shape in tree.items()}
    restored = restore_plan(plan, shapes, lambda: fresh).arrays
    assert restored.keys() == tree.keys()
    for m in plan.matches:
        if m.path is not None:
            np.testing.assert_array_equal(restored[m.path], expected(m, sources, fresh), m.path)
    used = {(m.number, path) for m in plan.matches if m.outcome in KEPT for path in m.sources}
    read = {(k, path) for k, each in enumerate(sources, start=1) for path in each.arrays.reads}
    assert read == used


def expected(m, sources, fresh):
    """The array of a match, computed again."""
    if m.outcome not in KEPT:
        return fresh[m.path]
    saved = [sources[m.number - 1].arrays.arrays[path] for path in m.sources]
    array = saved[0]
    if m.change is not None and m.change.transform:
        rng = np.random.default_rng(0)
        made = parse(m.change.transform).apply(saved, m.change.targets, rng)
        array = made[m.change.index]
    if m.outcome != "resized":
        return array
    result = fresh[m.path].copy()
    for index in np.ndindex(*map(min, result.shape, array.shape)):
        result[index] = array[index]
    return result


def test_moments_follow_their_parameters_from_one_source():
    tree = with_moments({"a": (2,), "b": (2,)})
    shapes = {path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in tree.items()}
    both = ("params", "opt_state")
    sources = [
        Wanted(in_memory("x", tree, 0), RestoreOptions(parts=("params",), strict=False, only="a")),
        Wanted(in_memory("y", tree, 500), RestoreOptions(parts=both, strict=False)),
    ]
    outcomes = {m.path: (m.number, m.outcome) for m in make_plan(sources, shapes).matches}
    assert outcomes["params/a"] == (1, "restored")
    assert outcomes["opt_state/adam/mu/a"] == (0, "initialized")
    assert outcomes["params/b"] == outcomes["opt_state/adam/mu/b"] == (2, "restored")


@pytest.mark.parametrize("counts, kept", [((4, 4), True), ((4, 5), False)])
def test_stacked_layers_keep_their_moments_if_they_were_updated_equally_often(counts, kept):
    saved, content = {}, {}
    for k, count in enumerate(counts):
        for prefix, shape in (
            ("params", (3,)),
            ("opt_state/adam/mu", (3,)),
            ("opt_state/adam/nu", (3,)),
            ("opt_state/adam/count", ()),
        ):
            saved[f"{prefix}/layer_{k}/w"] = shape
        content[f"opt_state/adam/count/layer_{k}/w"] = str(count)
    source = in_memory("x", saved, 0)
    leaves = {
        path: SavedArray(leaf.shape, leaf.dtype, content.get(path, ""))
        for path, leaf in source.leaves.items()
    }
    source = InMemory("x", leaves, source.arrays, source.reads)
    shapes = {
        f"{prefix}/layers/w": jax.ShapeDtypeStruct(shape, np.float32)
        for prefix, shape in (
            ("params", (2, 3)),
            ("opt_state/adam/mu", (2, 3)),
            ("opt_state/adam/nu", (2, 3)),
            ("opt_state/adam/count", ()),
        )
    }
    rules = ((r"layer_\d+/w", "layers/w", "stack(0)"),)
    plan = make_plan([Wanted(source, RestoreOptions(rules=rules))], shapes)
    fresh = {path: np.zeros(leaf.shape, np.float32) for path, leaf in shapes.items()}
    restored = restore_plan(plan, shapes, lambda: fresh).arrays
    for prefix in ("params", "opt_state/adam/mu", "opt_state/adam/nu"):
        stacked = np.stack([source.arrays[f"{prefix}/layer_{k}/w"] for k in (0, 1)])
        if prefix == "params" or kept:
            np.testing.assert_array_equal(restored[f"{prefix}/layers/w"], stacked)
        else:
            assert not np.any(restored[f"{prefix}/layers/w"])
    outcome = {m.path: m.outcome for m in plan.matches}["opt_state/adam/count/layers/w"]
    assert (outcome == "renamed") == kept


def test_the_difference_after_a_restore_is_what_the_plan_says(tmp_path):
    for name, seed in (("a", 3), ("b", 4)):
        save_run(tmp_path / name, epochs(0.5), state=lambda k=seed, **_: make_state(k))
    infos = [read_info(epath.Path(tmp_path) / n / "checkpoints" / "10") for n in "ab"]
    options = RestoreOptions(parts=("params", "batch_stats"), only="text/.*", strict=False)
    rest = RestoreOptions(parts=("params", "batch_stats"), strict=False)
    sources = [Wanted(of_checkpoint(infos[0]), options), Wanted(of_checkpoint(infos[1]), rest)]
    fresh = to_arrays(make_state(seed=77, step=False))
    plan = make_plan(sources, shapes_of(fresh))
    restored = restore_plan(plan, shapes_of(fresh), lambda: fresh).arrays
    checkpoints = Checkpoints(tmp_path / "merged", make_config(), shapes_of(fresh), 100)
    checkpoints.save(restored, RunProgress(), None)
    checkpoints.close()
    merged = read_info(epath.Path(tmp_path) / "merged" / "checkpoints" / "0")
    for number, info in enumerate(infos, start=1):
        changed = {path for path, *_ in inspect.diff(info, merged).changed}
        same = {m.path for m in plan.matches if m.outcome == "restored" and m.number == number}
        other = {m.path for m in plan.matches if m.outcome == "restored"} - same
        assert same and not same & changed
        assert {path for path in other if path.startswith("params/")} <= changed | {
            "params/graph/bias"
        }
