"""The projection block, compared with the reference."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.parity_fixtures import (
    GRADIENT_TOLERANCE,
    OUTPUT_TOLERANCE,
    Fixture,
    relative_error,
    tree_errors,
)

from clac_jax.interop.reference_weights import block_params
from clac_jax.models.normalization import MaskedBatchNorm, view_members
from clac_jax.models.projection import ProjectionBlock, near_identity


@pytest.mark.parametrize(("dtype", "suffix"), [(np.float32, ""), (np.float64, "64")])
def test_block_equals_the_reference(dtype, suffix):
    fixture = Fixture("milinear_train")
    with jax.enable_x64(dtype is np.float64):
        inputs = fixture.section("in", dtype)
        stats = {"norm": {"mean": np.zeros(64, dtype), "var": np.ones(64, dtype)}}

        def loss(params):
            y, _ = ProjectionBlock(64).apply(
                {"params": params, "batch_stats": stats},
                jnp.asarray(inputs["x"]),
                jnp.ones((1, 8), bool),
                train=True,
                mutable=["batch_stats"],
            )
            return jnp.sum(inputs["c"] * y**2), y

        params = block_params(fixture.section("w", dtype))
        (value, y), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        out = fixture.section("out" + suffix)
        assert y.dtype == dtype
        assert relative_error(y, out["y"]) < OUTPUT_TOLERANCE[dtype]
        assert relative_error(value, out["scalar_loss"]) < OUTPUT_TOLERANCE[dtype]
        for path, error in tree_errors(grads, block_params(fixture.section("grad" + suffix))):
            assert error < GRADIENT_TOLERANCE[dtype], path


def test_shortcut_starts_near_the_identity():
    for shape in [(4, 9), (9, 4)]:
        kernel = np.asarray(near_identity(jax.random.key(0), shape))
        diagonal = np.eye(*shape, dtype=bool)
        np.testing.assert_array_equal(kernel[diagonal], 1)
        assert 0 < np.abs(kernel[~diagonal]).max() <= 0.01


def sequential_batch_norm(sets, order, momentum=0.1):
    """The result of PyTorch when called on one set after the other."""
    mean, var = 0.0, 1.0
    for k in order:
        mean = (1 - momentum) * mean + momentum * sets[k].mean(0)
        var = (1 - momentum) * var + momentum * sets[k].var(0, ddof=1)
    outputs = [(x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) for x in sets]
    return outputs, mean, var


def test_batch_norm_of_sets_equals_one_call_after_the_other():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(3.0, 2.0, size=(10, 4)).astype(np.float32))
    mask = np.array([True, True, False, True, True])
    rows = [np.array([0, 1, 3, 4]), np.array([5, 6, 8, 9])]
    order = (0, 1, 0, 1)
    outputs, mean, var = sequential_batch_norm([np.asarray(x)[r] for r in rows], order)
    y, variables = MaskedBatchNorm().init_with_output(
        jax.random.key(0), x, view_members(2, mask), train=True
    )
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0)
    y, after = MaskedBatchNorm().apply(
        variables, x, view_members(2, mask), train=True, update_order=order, mutable=["batch_stats"]
    )
    for view_rows, expected in zip(rows, outputs, strict=True):
        np.testing.assert_allclose(y[view_rows], expected, atol=1e-5)
    np.testing.assert_allclose(after["batch_stats"]["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(after["batch_stats"]["var"], var, rtol=1e-5)

    still = MaskedBatchNorm().apply({**variables, **after}, x, view_members(2, mask), train=False)
    np.testing.assert_allclose(still, (x - mean) / np.sqrt(var + 1e-5), rtol=1e-4, atol=1e-5)


def test_values_of_masked_rows_do_not_matter():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(6, 3)).astype(np.float32)
    mask = np.array([True, True, True, True, False, False])
    norm_ = MaskedBatchNorm()
    members = jnp.asarray(mask[None])
    variables = norm_.init(jax.random.key(0), jnp.asarray(x), members, train=True)

    def apply(x):
        x = jnp.asarray(x)
        return norm_.apply(variables, x, members, train=True, mutable=["batch_stats"])

    other = np.where(mask[:, None], x, 1e3).astype(np.float32)
    (y, stats), (y_other, stats_other) = apply(x), apply(other)
    np.testing.assert_array_equal(y[:4], y_other[:4])
    jax.tree.map(np.testing.assert_array_equal, stats, stats_other)
