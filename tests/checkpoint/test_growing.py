"""Growth of what the rules of a restore make out of saved arrays."""

import numpy as np
import pytest

from clac_jax.checkpoint.growing import growth_of
from clac_jax.checkpoint.matching import RestoreOptions
from clac_jax.checkpoint.plan import make_plan
from clac_jax.checkpoint.restore import restore_plan
from clac_jax.checkpoint.sources import ForeignArrays, SavedArray, Wanted
from clac_jax.config.check import ready
from clac_jax.config.shipped import shipped_config
from clac_jax.merging.model_shapes import shapes_of_config
from clac_jax.surgery.resizing import Interpolate

POSITIONS = "text_encoder/position_embedding/embedding"
UPDATE = tuple(f"graph_encoder/update_0/{name}/kernel" for name in "uv")
HEAD = tuple(f"cross_head/right/{name}/kernel" for name in ("hidden", "shortcut"))


def smoke(**changes):
    config = shipped_config("smoke")
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return ready(config)


@pytest.fixture(scope="module")
def saved():
    """The state of a small run, without two equal numbers."""
    rng = np.random.default_rng(0)
    return {
        path: np.asarray(rng.normal(size=leaf.shape) ** 2 if leaf.shape else 7).astype(leaf.dtype)
        for path, leaf in shapes_of_config(smoke()).items()
    }


def grown(config, arrays, *rules):
    """(path -> array of the larger model, the plan)."""
    leaves = {path: SavedArray(array.shape, str(array.dtype)) for path, array in arrays.items()}
    source = ForeignArrays("run", leaves, "in memory", "", lambda ps: {p: arrays[p] for p in ps})
    options = RestoreOptions(rules=rules, on_shape_mismatch="grow")
    shapes = shapes_of_config(config)
    plan = make_plan([Wanted(source, options, growth_of(config, None))], shapes)
    fresh = {path: np.full(leaf.shape, -1).astype(leaf.dtype) for path, leaf in shapes.items()}
    return restore_plan(plan, shapes, lambda: fresh).arrays, plan


def joined(arrays, pair, join):
    """The state, with a pair of kernels and their moments as one array each."""
    result, made = dict(arrays), 0
    for path in arrays:
        if path.endswith(pair[0]):
            prefix = path.removesuffix(pair[0])
            parts = [result.pop(prefix + name) for name in pair]
            result[f"{prefix}both"] = join(parts) if parts[0].ndim else parts[0]
            made += 1
    assert made == 4  # the parameter, its two moments and their count
    return result


def fused(parts):
    return np.concatenate(parts, -1)


@pytest.mark.parametrize(("join", "transform"), [(fused, "split(-1, 2)"), (np.stack, "unstack(0)")])
@pytest.mark.parametrize(
    ("pair", "size", "keeps_moments"),
    [
        (UPDATE, {"graph_encoder__num_features": 24}, False),
        (HEAD, {"text_encoder__config__hidden_size": 32}, True),
    ],
)
def test_each_of_several_arrays_from_one_grows_from_its_own_part(
    saved, pair, size, keeps_moments, join, transform
):
    wider, rule = smoke(**size), ("both", pair, transform)
    expected, _ = grown(wider, saved)
    arrays, plan = grown(wider, joined(saved, pair, join), rule)
    assert arrays.keys() == expected.keys()
    for path in expected:
        np.testing.assert_array_equal(arrays[path], expected[path], err_msg=path)
    rows = {row["path"]: row for row in plan.to_json()["arrays"]}
    for name in pair:
        assert rows[f"params/{name}"]["transform"].startswith(f"{transform} | widen(")
        for moment in ("mu", "nu"):
            outcome = rows[f"opt_state/inner_state/adam/{moment}/{name}"]["outcome"]
            assert outcome == ("transformed" if keeps_moments else "initialized")


def test_a_transform_up_to_the_size_of_the_model_comes_before_growth(saved):
    wider = smoke(
        text_encoder__config__hidden_size=32, text_encoder__config__max_position_embeddings=128
    )
    rule = (f"({POSITIONS})", r"\1", "interpolate(0)")
    arrays, plan = grown(wider, saved, rule)
    assert not plan.problems()
    path = f"params/{POSITIONS}"
    longer = Interpolate(0).apply([saved[path]], ((128, 16),), np.random.default_rng(0))
    direct, _ = grown(wider, saved | {path: longer[0]})
    np.testing.assert_array_equal(arrays[path], direct[path])


@pytest.mark.parametrize("transform", ["pad(0)", "add_means(0)"])
def test_rows_up_to_the_size_of_the_model_come_before_growth(saved, transform):
    wider = smoke(
        text_encoder__config__hidden_size=32, text_encoder__config__max_position_embeddings=128
    )
    arrays, _ = grown(wider, saved, (f"({POSITIONS})", r"\1", transform))
    assert arrays[f"params/{POSITIONS}"].shape == (128, 32)


def test_a_moment_that_does_not_have_the_shape_of_its_parameter_starts_over(saved):
    path = "opt_state/inner_state/adam/mu/graph_encoder/readout/kernel"
    arrays, plan = grown(smoke(graph_encoder__num_features=24), saved | {path: np.ones(16)})
    assert (arrays[path] == -1).all()
    reasons = {m.path: m.reason for m in plan.matches if m.outcome == "initialized"}
    assert reasons[path] == "its shape differs"
