"""Projection heads and their scores."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.parity_cases import PRIORS, RollByOne, closed_form
from helpers.parity_fixtures import (
    GRADIENT_TOLERANCE,
    OUTPUT_TOLERANCE,
    Fixture,
    relative_error,
    sides_of,
)
from helpers.small_models import (
    batch_of,
    examples,
    fresh_head_stats,
    heads_of,
    random_variables,
    small_config,
)

from clac_jax.interop.reference_weights import discriminator_params
from clac_jax.models import build_model
from clac_jax.models.clac import ClacOutput
from clac_jax.models.heads import ContrastiveHead, CriticHead, PriorDiscriminator, prior_noise
from clac_jax.models.losses import JSD
from clac_jax.training.losses import LossOptions, clac_loss, loss_options
from configs import losses as loss_configs


@pytest.mark.parametrize(
    ("dtype", "suffix"),
    [pytest.param(np.float32, "", marks=pytest.mark.slow), (np.float64, "64")],
)
def test_jsd_with_priors_equals_the_reference(dtype, suffix, monkeypatch):
    monkeypatch.setattr(jax.random, "randint", RollByOne())
    fixture = Fixture("jsd_dot")
    with jax.enable_x64(dtype is np.float64):
        mask = np.ones(8, bool)
        noise = fixture.section("in", dtype)
        views = {name: noise.pop(name) for name in ("image", "aug_image", "text", "aug_text")}

        def loss(params, views):
            pairs = {}
            for name, (left, right) in sides_of(views).items():
                variables = {"params": params[name], "batch_stats": fresh_head_stats(dtype)}
                pairs[name], _ = ContrastiveHead(64, 1 / 0.07).apply(
                    variables, left, right, mask, train=True, mutable=["batch_stats"]
                )
            priors = {
                f"{name}_prior": PriorDiscriminator().apply(
                    {"params": params[name]}, x, jnp.asarray(noise[f"{theirs}_prior_noise"])
                )
                for name, theirs, x in (
                    ("crystal", "image", views["image"]),
                    ("text", "text", views["text"]),
                )
            }
            output = ClacOutput(**pairs, **priors)
            value, terms = clac_loss(output, mask, LossOptions(JSD()), key=jax.random.key(0))
            cross = pairs["cross"]
            cosines = cross.left[0] @ cross.right[0].T
            return value, (terms, cosines)

        weights = fixture.section("w", dtype)
        for theirs in PRIORS.values():
            weights[f"{theirs}.l1.weight"] = closed_form(f"{theirs}.l1.weight", dtype)
        params = heads_of(weights)
        for name, theirs in PRIORS.items():
            params[name] = discriminator_params(weights, f"{theirs}.")
        (value, (terms, cosines)), (grads, view_grads) = jax.jit(
            jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        )(params, views)
    out, tolerance = fixture.section("out" + suffix), OUTPUT_TOLERANCE[dtype]
    assert value.dtype == dtype
    assert relative_error(value, out["total_loss"]) < tolerance
    for name in ("cross_modal_loss", "visual_loss", "textual_loss"):
        assert relative_error(terms[name], out[name]) < tolerance, name
    assert relative_error(cosines, out["logits"]) < tolerance

    expected, bar = fixture.section("grad" + suffix), GRADIENT_TOLERANCE[dtype]
    compared = 0
    for name, grad in view_grads.items():
        assert relative_error(grad, expected[f"in.{name}"]) < bar, name
    for name, theirs in PRIORS.items():
        ours = grads[name]
        kernel = np.asarray(ours["layer_1"]["kernel"]).T
        stored = f"{theirs}.l1.weight"
        for part, value in (
            ("rows0_8", kernel[:8]),
            ("colsum", kernel.sum(0)),
            ("norm", np.linalg.norm(kernel)),
        ):
            assert relative_error(value, expected[f"{stored}@{part}"]) < bar, (name, part)
        for layer, stored in (("layer_0", "l0"), ("layer_1", "l1"), ("out", "l2")):
            for leaf, their_leaf in (("kernel", "weight"), ("bias", "bias")):
                key = f"{theirs}.{stored}.{their_leaf}"
                if key in expected:
                    value = np.asarray(ours[layer][leaf])
                    assert relative_error(value.T, expected[key]) < bar, key
                    compared += 1
    assert compared >= 8
    for name, theirs in {"cross": "global_d", "visual": "visual_d", "textual": "textual_d"}.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(grads[name]):
            names = [entry.key for entry in path]
            key = ".".join([theirs, *THEIR_NAMES[tuple(names)]])
            if key in expected:
                value = np.asarray(leaf).T
                assert relative_error(value, expected[key]) < bar, key


BLOCK_NAMES = {
    ("hidden", "kernel"): ("feature_nonlinear.0.weight",),
    ("norm", "scale"): ("feature_nonlinear.1.weight",),
    ("norm", "bias"): ("feature_nonlinear.1.bias",),
    ("out", "kernel"): ("feature_nonlinear.3.weight",),
    ("out", "bias"): ("feature_nonlinear.3.bias",),
    ("shortcut", "kernel"): ("feature_shortcut.weight",),
    ("shortcut", "bias"): ("feature_shortcut.bias",),
    ("out_norm", "scale"): ("feature_block_ln.weight",),
    ("out_norm", "bias"): ("feature_block_ln.bias",),
}
THEIR_NAMES = {("log_scale",): ("temperature",)} | {
    (side, *ours): (block, *theirs)
    for side, block in (("left", "img_block"), ("right", "text_block"))
    for ours, theirs in BLOCK_NAMES.items()
}


def test_a_critic_is_a_perceptron_on_both_features_together():
    rng = np.random.default_rng(0)
    left, right = (rng.normal(size=(1, 5, width)).astype(np.float32) for width in (4, 6))
    head, mask = CriticHead(7), np.ones(5, bool)
    init, apply = (jax.jit(functools.partial(f, train=True)) for f in (head.init, head.apply))
    params = init(jax.random.key(0), left, right, mask)["params"]
    params = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape), jax.device_get(params))
    pair = apply({"params": params}, left, right, mask)
    w = jax.tree.map(np.asarray, params)
    first = np.concatenate([w["left"]["kernel"], w["right"]["kernel"]])
    expected = np.zeros((5, 5))
    for i in range(5):
        for j in range(5):
            x = np.maximum(np.concatenate([left[0, i], right[0, j]]) @ first + w["left"]["bias"], 0)
            x = np.maximum(x @ w["hidden_kernel"] + w["hidden_bias"], 0)
            expected[i, j] = (x @ w["out_kernel"] + w["out_bias"])[0]
    np.testing.assert_allclose(pair.scores(pair.left[0], pair.right[0]), expected, rtol=1e-4)
    rows = pair.scores_of_rows(pair.left[0], pair.right[0])
    np.testing.assert_allclose(rows, expected.diagonal(), rtol=1e-4)
    again = head.apply({"params": params}, pair.left[0], pair.right[0], method="scores")
    np.testing.assert_allclose(again, expected, rtol=1e-4)


def test_noise_follows_the_example():
    key = jax.random.key(3)
    noise = prior_noise(key, np.array([4, 7, 9]), 5)
    np.testing.assert_array_equal(noise[::-1], prior_noise(key, np.array([9, 7, 4]), 5))
    assert len(np.unique(noise)) == 15
    assert (np.asarray(noise) >= 0).all() and (np.asarray(noise) < 1).all()


# One of each kind; each compiles a model of its own, and the others leave out or add a part.
QUICK = ("infonce", "siglip", "jsd_condot")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in loss_configs.LOSSES
    ],
)
def test_every_loss_of_the_configs_trains_the_parameters_it_has(name):
    changes = dict(loss_configs.LOSSES[name]) | {"graph_encoder.name": "composition"}
    config = small_config(**changes)
    views = 1 + config.use_visual_intramodal_loss
    model, batch = build_model(config, 200), batch_of(examples(views), num_views=views)
    variables = random_variables(model, batch)
    options = loss_options(config)

    params = variables["params"]
    encoders = {name: tree for name, tree in params.items() if "encoder" in name}

    def loss(heads):
        key = jax.random.key(1)
        output, _ = model.apply(
            {**variables, "params": {**encoders, **heads}},
            batch,
            train=True,
            key=key,
            mutable=["batch_stats"],
        )
        return clac_loss(output, batch.example_mask, options, key=key)[0]

    value, heads = jax.jit(jax.value_and_grad(loss))(
        {name: tree for name, tree in params.items() if name not in encoders}
    )
    assert np.isfinite(value)
    expected = {"cross_head"}
    if views == 2:
        expected |= {"visual_head", "textual_head"}
    if config.loss.name == "jsd":
        expected |= {"crystal_discriminator"} if config.loss.crystal_prior else set()
        expected |= {"text_discriminator"} if config.loss.text_prior else set()
    assert heads.keys() == expected
    for head, tree in heads.items():
        assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(tree)), head
