"""The model with both encoders, its heads and losses."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.parity_fixtures import (
    GRADIENT_TOLERANCE,
    OUTPUT_TOLERANCE,
    Fixture,
    relative_error,
    sides_of,
    tree_errors,
)
from helpers.small_models import (
    batch_of,
    examples,
    fresh_head_stats,
    heads_of,
    random_variables,
    small_config,
)

from clac_jax.files.huggingface import PretrainedError
from clac_jax.models import ModelError, abstract_variables, build_model, init_variables
from clac_jax.models.clac import ClacOutput
from clac_jax.models.heads import ContrastiveHead
from clac_jax.training.losses import LossOptions, clac_loss


@pytest.mark.parametrize(("dtype", "suffix"), [(np.float32, ""), (np.float64, "64")])
def test_loss_terms_logits_and_gradients_equal_the_reference(dtype, suffix):
    fixture = Fixture("infonce_u64")
    with jax.enable_x64(dtype is np.float64):
        head = ContrastiveHead(64, 1 / 0.07)
        mask = np.ones(8, bool)

        def loss(params, inputs):
            pairs = {}
            for name, (left, right) in sides_of(inputs).items():
                pairs[name], _ = head.apply(
                    {"params": params[name], "batch_stats": fresh_head_stats(dtype)},
                    left,
                    right,
                    mask,
                    train=True,
                    mutable=["batch_stats"],
                )
            value, terms = clac_loss(ClacOutput(**pairs), mask)
            cross = pairs["cross"]
            return value, (terms, cross.left[0] @ cross.right[0].T * jnp.exp(cross.log_scale))

        params = heads_of(fixture.section("w", dtype))
        inputs = fixture.section("in", dtype)
        (value, (terms, logits)), (grads, input_grads) = jax.jit(
            jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        )(params, inputs)
        out = fixture.section("out" + suffix)
        tolerance = OUTPUT_TOLERANCE[dtype]
        assert value.dtype == dtype
        assert relative_error(value, out["total_loss"]) < tolerance
        assert relative_error(terms["loss"], out["total_loss"]) < tolerance
        assert relative_error(logits, out["logits"]) < tolerance
        for name in ("cross_modal_loss", "visual_loss", "textual_loss"):
            # The intramodal terms are differences of nearly equal numbers: compare with the total.
            assert abs(terms[name] - out[name]) < tolerance * out["total_loss"], name
        expected = fixture.section("grad" + suffix)
        for name, error in tree_errors(
            input_grads, {name: expected.pop(f"in.{name}") for name in inputs}
        ):
            assert error < GRADIENT_TOLERANCE[dtype], name
        for path, error in tree_errors(grads, heads_of(expected)):
            assert error < GRADIENT_TOLERANCE[dtype], path


def test_running_averages_take_one_update_per_scored_pair_of_views():
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, 2, 8, 5)).astype(np.float32)
    head = ContrastiveHead(4, 1.0)
    mask = np.ones(8, bool)
    variables = jax.jit(functools.partial(head.init, train=True))(
        jax.random.key(0), left, right, mask
    )
    _, after = jax.jit(functools.partial(head.apply, train=True, mutable=["batch_stats"]))(
        variables, left, right, mask
    )
    for side, x, order in (("left", left, (0, 1, 0, 1)), ("right", right, (0, 0, 1, 1))):
        hidden = x @ variables["params"][side]["hidden"]["kernel"]
        mean = 0.0
        for view in order:
            mean = 0.9 * mean + 0.1 * hidden[view].mean(0)
        np.testing.assert_allclose(
            after["batch_stats"][side]["norm"]["mean"], mean, rtol=1e-4, atol=1e-6
        )


# Slow with layers; `graph/test_symmetry.py` has padding and the gradients of every graph encoder.
@pytest.mark.parametrize(
    "name",
    ["composition", *(pytest.param(name, marks=pytest.mark.slow) for name in ("painn", "cgcnn"))],
)
def test_padding_examples_change_neither_loss_nor_gradients(name):
    config = small_config(**{"graph_encoder.name": name, "lm_weight": 0.1})
    if name == "composition":  # the slow cases have all contrasts, by the same code
        config.use_visual_intramodal_loss = config.use_textual_intramodal_loss = False
    model = build_model(config, vocab_size=100)
    tight = batch_of(examples(with_labels=True))
    loose = batch_of(examples(with_labels=True), num_examples=5, spare=7)
    variables = random_variables(model, tight)

    @jax.jit
    @jax.value_and_grad
    def loss(params, batch):
        output, _ = model.apply(
            {**variables, "params": params},
            batch,
            train=True,
            key=jax.random.key(1),
            mutable=["batch_stats"],
        )
        return clac_loss(output, batch.example_mask, LossOptions(lm_weight=0.1))[0]

    (value, grads), (padded, padded_grads) = (
        loss(variables["params"], batch) for batch in (tight, loose)
    )
    np.testing.assert_allclose(padded, value, rtol=1e-5)
    grads, padded_grads = jax.device_get((grads, padded_grads))
    scale = np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(grads)))
    for a, b in zip(jax.tree.leaves(padded_grads), jax.tree.leaves(grads), strict=True):
        assert np.linalg.norm(a - b) < 2e-4 * scale


def test_evaluation_projects_plain_batches_like_the_towers_on_their_own():
    config = small_config(**{"graph_encoder.name": "composition"})
    model = build_model(config, vocab_size=100)
    variables = random_variables(model, batch_of(examples()))
    plain = batch_of(examples(num_views=1), num_views=1)
    output = jax.jit(model.apply)(variables, plain)
    assert output.visual is None and output.textual is None
    embed_graphs = jax.jit(functools.partial(model.apply, method="embed_graphs"))
    embed_texts = jax.jit(functools.partial(model.apply, method="embed_texts"))
    graphs, texts = embed_graphs(variables, plain.graphs), embed_texts(variables, plain.texts)
    np.testing.assert_allclose(output.graph_projections[0], graphs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(output.text_projections[0], texts, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(graphs, axis=1), 1, rtol=1e-5)


def test_contrasts_follow_the_config():
    config = small_config(use_visual_intramodal_loss=False)
    model = build_model(config, vocab_size=100)
    batch = batch_of(examples())
    shapes = jax.eval_shape(lambda key: model.init(key, batch, train=True), jax.random.key(0))
    assert set(shapes["params"]) == {
        "graph_encoder",
        "text_encoder",
        "cross_head",
        "textual_head",
    }


def test_initialization_depends_only_on_the_seed():
    config = small_config(
        **{
            "graph_encoder.name": "composition",
            "use_visual_intramodal_loss": False,
            "use_textual_intramodal_loss": False,
        }
    )
    model = build_model(config, vocab_size=100)
    first = init_variables(model, config, batch_of(examples()))
    again = init_variables(model, config, batch_of(examples()[:2], num_examples=4))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    np.testing.assert_allclose(
        np.exp(first["params"]["cross_head"]["log_scale"]), 1 / 0.07, rtol=1e-6
    )
    config.seed = 43
    other = init_variables(model, config, batch_of(examples()))
    kernels = [v["params"]["graph_encoder"]["out"]["kernel"] for v in (first, other)]
    assert not np.array_equal(*kernels)


def test_init_refuses_batches_that_would_leave_parameters_out():
    config = small_config()
    model = build_model(config, vocab_size=100)
    with pytest.raises(ModelError, match="1 crystal and 1 text views cannot initialize"):
        init_variables(model, config, batch_of(examples(1), num_views=1))
    config = small_config(lm_weight=0.1)
    with pytest.raises(ModelError, match="needs token labels"):
        init_variables(build_model(config, vocab_size=100), config, batch_of(examples()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"graph_encoder.name": "schnet"}, "Use painn, cgcnn, orb or composition"),
        ({"text_encoder.config.model_type": "gpt"}, "Use bert, opt, gpt2 or gemma3_text"),
        ({"text_encoder.max_length": 513}, "more than the encoder's 512 positions"),
        ({"text_encoder.num_layers": 7}, "more than the encoder has, 1"),
    ],
)
def test_models_that_do_not_exist_are_refused(changes, message):
    with pytest.raises(ModelError, match=message):
        build_model(small_config(**changes), vocab_size=100)


def test_a_missing_folder_of_weights_is_named():
    with pytest.raises(PretrainedError, match="no folder '/nowhere/bert'"):
        build_model(small_config(**{"text_encoder.pretrained": "/nowhere/bert"}))


def test_the_shapes_of_the_parameters_are_the_same_when_they_are_read_again(tmp_path, monkeypatch):
    monkeypatch.setenv("CLAC_JAX_CACHE", str(tmp_path))
    batch = batch_of(examples(2))

    def shapes(model):
        return abstract_variables(model, batch)

    traced = shapes(Doubled(4))
    (file,) = (tmp_path / "parameters").iterdir()
    content = file.read_bytes()
    assert shapes(Doubled(4)) == traced
    assert shapes(Doubled(5)) != traced
    file.write_bytes(content[:-2])
    assert shapes(Doubled(4)) == traced
    assert file.read_bytes() == content


class Doubled(nn.Module):
    size: int

    @nn.compact
    def __call__(self, batch, train):
        return 2 * nn.Dense(self.size)(batch.example_mask[None].astype(jnp.float32))
