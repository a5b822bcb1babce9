"""Contrastive losses, compared with their definitions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clac_jax.models.clac import ClacOutput
from clac_jax.models.heads import ProjectedPair, l2_normalize
from clac_jax.models.losses import JSD, LOSSES, CosFace, SigLIP
from clac_jax.training.losses import LossOptions, clac_loss, example_terms


def random_pair(seed, num_left, num_right, num_examples=6, width=4, log_scale=1.0):
    rng = np.random.default_rng(seed)
    left = rng.normal(size=(num_left, num_examples, width)).astype(np.float32)
    right = rng.normal(size=(num_right, num_examples, width)).astype(np.float32)
    left, right = (l2_normalize(jnp.asarray(side)) for side in (left, right))
    return ProjectedPair(left, right, jnp.float32(log_scale))


def info_nce(left, right, scale):
    """Symmetric cross entropy, written as in the paper."""
    logits = np.asarray(left, np.float64) @ np.asarray(right, np.float64).T * scale
    forward = -np.log(np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).diagonal().mean()
    backward = -np.log(np.exp(logits) / np.exp(logits).sum(0, keepdims=True)).diagonal().mean()
    return (forward + backward) / 2


def test_loss_is_the_sum_over_all_pairs_of_views():
    cross, visual, textual = random_pair(0, 2, 2), random_pair(1, 1, 1), random_pair(2, 1, 1)
    loss, terms = clac_loss(ClacOutput(cross, visual, textual), np.ones(6, bool))
    expected = sum(info_nce(a, b, np.e) for a in cross.left for b in cross.right)
    np.testing.assert_allclose(terms["cross_modal_loss"], expected, rtol=1e-5)
    for name, pair in (("visual_loss", visual), ("textual_loss", textual)):
        np.testing.assert_allclose(
            terms[name], info_nce(pair.left[0], pair.right[0], np.e), rtol=1e-5
        )
        expected += info_nce(pair.left[0], pair.right[0], np.e)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_array_equal(terms["loss"], loss)


def test_masked_examples_are_neither_scored_nor_negatives():
    pair = random_pair(3, 2, 1)
    mask = np.array([True, False, True, True, False, True])
    kept = ProjectedPair(pair.left[:, mask], pair.right[:, mask], pair.log_scale)
    loss, terms = clac_loss(ClacOutput(pair), mask)
    expected, expected_terms = clac_loss(ClacOutput(kept), np.ones(4, bool))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    for name, value in expected_terms.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-6)
    grads = jax.grad(lambda p: clac_loss(ClacOutput(p), mask)[0])(pair)
    np.testing.assert_array_equal(np.asarray(grads.left)[:, ~mask], 0)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(grads))


def test_a_batch_of_padding_has_loss_zero():
    loss, terms = clac_loss(ClacOutput(random_pair(4, 1, 1)), np.zeros(6, bool))
    assert loss == 0 and terms["acc_top1"] == 0


def test_accuracies_count_the_text_given_the_crystal():
    # Crystal 0 ranks its text first, 1 second, 2 fourth, 3 is tied with a wrong one.
    scores = np.array([[9, 1, 2, 3], [9, 8, 1, 2], [9, 8, 2, 7], [1, 2, 5, 5]], np.float32)
    pair = ProjectedPair(jnp.asarray(scores)[None], jnp.eye(4)[None], jnp.float32(0))
    _, terms = clac_loss(ClacOutput(pair), np.ones(4, bool))
    assert float(terms["acc_top1"]) == pytest.approx(1 / 4)
    assert float(terms["acc_top3"]) == pytest.approx(3 / 4)


def test_vectors_that_are_not_numbers_are_never_right():
    pair = random_pair(3, 1, 1)
    broken = ProjectedPair(pair.left * jnp.nan, pair.right, pair.log_scale)
    terms = clac_loss(ClacOutput(broken), np.ones(6, bool))[1]
    assert float(terms["acc_top1"]) == float(terms["acc_top3"]) == 0


def test_language_model_loss_is_the_mean_over_views_of_the_mean_over_tokens():
    output = ClacOutput(
        random_pair(5, 1, 2),
        lm_loss_sum=jnp.array([6.0, 10.0]),
        lm_num_tokens=jnp.array([3, 0]),
    )
    plain, _ = clac_loss(output, np.ones(6, bool))
    loss, terms = clac_loss(output, np.ones(6, bool), LossOptions(lm_weight=0.5))
    assert float(terms["lm_loss"]) == pytest.approx((6 / 3 + 10 / 1) / 2)
    assert float(loss - plain) == pytest.approx(0.5 * float(terms["lm_loss"]), rel=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_the_parts_of_the_examples_have_the_loss_as_their_mean(name):
    mask = np.array([True, True, False, True, True, True])
    output = ClacOutput(random_pair(5, 2, 2), random_pair(6, 1, 1))
    options, key = LossOptions(LOSSES[name]()), jax.random.key(3)
    _, terms = clac_loss(output, mask, options, key=key)
    parts = example_terms(output, mask, options, key=key)
    assert parts.keys() == terms.keys()
    for term, value in terms.items():
        np.testing.assert_array_equal(parts[term][~mask], 0)
        np.testing.assert_allclose(parts[term][mask].mean(), value, rtol=1e-5)


def test_the_part_of_an_example_is_its_own_cross_entropy():
    pair = random_pair(7, 1, 1)
    logits = np.asarray(pair.left[0], np.float64) @ np.asarray(pair.right[0], np.float64).T * np.e
    rows = -np.log(np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).diagonal()
    columns = -np.log(np.exp(logits) / np.exp(logits).sum(0, keepdims=True)).diagonal()
    parts = example_terms(ClacOutput(pair), np.ones(6, bool))
    np.testing.assert_allclose(parts["loss"], (rows + columns) / 2, rtol=1e-5)


def test_the_loss_of_the_structure_is_a_mean_over_examples_with_its_weight():
    pair, mask = random_pair(8, 1, 1), np.array([True, True, False, True, True, True])
    asked = jnp.where(mask, jnp.arange(6.0), jnp.nan)  # padding is meaningless
    output, options = ClacOutput(pair, structure_loss=asked), LossOptions(structure_weight=0.5)
    _, without = clac_loss(ClacOutput(pair), mask, options)
    _, terms = clac_loss(output, mask, options)
    np.testing.assert_allclose(terms["structure_loss"], 13 / 5)
    np.testing.assert_allclose(terms["loss"], without["loss"] + 0.5 * 13 / 5, rtol=1e-6)
    gradient = jax.grad(lambda x: clac_loss(output.replace(structure_loss=x), mask, options)[0])(
        asked
    )
    np.testing.assert_allclose(gradient, np.where(mask, 0.1, 0))
    parts = example_terms(output, mask, options)
    np.testing.assert_allclose(parts["structure_loss"], [0, 1, 0, 3, 4, 5])


def test_the_language_model_loss_has_no_part_by_example():
    numbers = {"lm_loss_sum": jnp.ones(1), "lm_num_tokens": jnp.ones(1, jnp.int32)}
    pair = random_pair(8, 1, 1)
    with_it = ClacOutput(pair, **numbers)
    options = LossOptions(lm_weight=0.5)
    parts = example_terms(with_it, np.ones(6, bool), options)
    assert "lm_loss" not in parts
    _, terms = clac_loss(with_it, np.ones(6, bool), options)
    np.testing.assert_allclose(parts["loss"].mean() + 0.5 * terms["lm_loss"], terms["loss"])


@pytest.mark.parametrize("how", ["pmap", pytest.param("shard_map", marks=pytest.mark.slow)])
def test_four_devices_agree_with_one(how):
    script = Path(__file__).parents[1] / "helpers" / "sharded_loss.py"
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(script.parent.parent),
    }
    done = subprocess.run(
        [sys.executable, str(script), how], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["devices"] == 4
    assert result["scale"]["grad"] > 0.01
    for name, error in result["errors"].items():
        assert error < 1e-5 * max(result["scale"]["grad"], 1), name


def softplus(x):
    return np.logaddexp(0, x)


def cosines(pair):
    return np.asarray(pair.left[0], np.float64) @ np.asarray(pair.right[0], np.float64).T


def test_cosface_is_infonce_of_smaller_own_cosines():
    pair = random_pair(6, 1, 1)
    logits = np.e * (cosines(pair) - 0.3 * np.eye(6))
    expected = info_nce(logits, np.eye(6), 1.0)
    loss, _ = clac_loss(ClacOutput(pair), np.ones(6, bool), LossOptions(CosFace(0.3)))
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    without, _ = clac_loss(ClacOutput(pair), np.ones(6, bool), LossOptions(CosFace(0.0)))
    assert float(without) == pytest.approx(info_nce(pair.left[0], pair.right[0], np.e), rel=1e-5)


def test_siglip_classifies_every_pair_independently():
    pair = random_pair(7, 1, 1).replace(logit_bias=jnp.float32(-2))
    logits = np.e * cosines(pair) - 2
    expected = softplus(np.where(np.eye(6, dtype=bool), -logits, logits)).sum() / 6
    loss, _ = clac_loss(ClacOutput(pair), np.ones(6, bool), LossOptions(SigLIP()))
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_padding_counts_in_no_loss(name):
    options = LossOptions(LOSSES[name]())
    pair = random_pair(8, 1, 2)
    mask = np.array([False, True, True, False, True, True])
    kept = ProjectedPair(pair.left[:, mask], pair.right[:, mask], pair.log_scale)
    for key in (None, jax.random.key(3)):
        loss, _ = clac_loss(ClacOutput(pair), mask, options, key=key)
        expected, _ = clac_loss(ClacOutput(kept), np.ones(4, bool), options, key=key)
        assert float(loss) == pytest.approx(float(expected), rel=1e-6)
        grads = jax.grad(lambda p, k=key: clac_loss(ClacOutput(p), mask, options, key=k)[0])(pair)
        np.testing.assert_array_equal(np.asarray(grads.right)[:, ~mask], 0)


def test_jsd_rolls_the_batch_by_one_random_shift():
    pair = random_pair(9, 1, 1)
    scores = np.e * cosines(pair)
    by_shift = [
        np.mean(softplus(-scores.diagonal()) + softplus(scores[np.arange(6), np.arange(6) - shift]))
        for shift in range(1, 6)
    ]
    options = LossOptions(JSD())
    seen = set()
    for seed in range(40):
        key = jax.random.key(seed)
        loss, _ = clac_loss(ClacOutput(pair), np.ones(6, bool), options, key=key)
        distances = np.abs(np.array(by_shift) - float(loss))
        assert distances.min() < 1e-5
        seen.add(int(distances.argmin()))
    assert seen == set(range(5))
    mean, _ = clac_loss(ClacOutput(pair), np.ones(6, bool), options)
    assert float(mean) == pytest.approx(np.mean(by_shift), rel=1e-5)


def test_the_prior_takes_its_weight_from_the_contrasts():
    pair = random_pair(10, 1, 1)
    mask = np.array([True, True, True, True, False, False])
    prior = jnp.array([1.0, 2.0, 3.0, 6.0, 50.0, 50.0], jnp.float32)
    output = ClacOutput(pair, crystal_prior=prior, text_prior=2 * prior)
    contrast, _ = clac_loss(ClacOutput(pair), mask, LossOptions(JSD()))
    loss, terms = clac_loss(output, mask, LossOptions(JSD(prior_weight=0.25)))
    assert float(terms["prior_loss"]) == pytest.approx(9.0)
    assert float(loss) == pytest.approx(0.75 * float(contrast) + 0.25 * 9.0, rel=1e-6)
