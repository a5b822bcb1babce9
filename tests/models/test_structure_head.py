"""The auxiliary loss that predicts structure from the joint space."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.small_models import (
    batch_of,
    examples,
    random_variables,
    small_config,
    with_structure,
)

from clac_jax.config.schema import default_config
from clac_jax.errors import UserError
from clac_jax.input_pipeline.example import ExampleViews
from clac_jax.models import ModelError, build_model
from clac_jax.models.encoders import build_graph_encoder, encoder_needs, text_settings
from clac_jax.models.fourier import magnitude_features
from clac_jax.models.property_model import PropertyModel
from clac_jax.models.structure_head import StructureHead, structure_targets

# Reduced optimization: everything runs once.
FAST = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
ALL = {
    "structure_weight": 0.5,
    "graph_encoder.name": "composition",
    "graph_encoder.add_descriptors": True,
    "text_encoder.numbers_at": (0,),
    "text_encoder.dropout": 0.0,
}


@pytest.fixture(scope="module")
def head():
    """(vectors, targets) -> loss of each example, with random parameters."""
    rng = np.random.default_rng(0)
    targets = structure_targets(batch_of(with_structure(examples())).graphs, 3)
    vectors = rng.normal(size=(4, 3, 5)).astype(np.float32)
    params = jax.jit(StructureHead().init)(jax.random.key(0), vectors, targets)
    return jax.jit(StructureHead().apply), params["params"], vectors


def test_it_is_the_sum_of_the_losses_of_group_cell_and_composition(head):
    loss, params, vectors = head
    targets = structure_targets(batch_of(with_structure(examples())).graphs, 3)
    expected = np.zeros(3)
    for view in vectors:
        view = view * np.sqrt(5)
        logits = view @ params["space_group"]["kernel"] + params["space_group"]["bias"]
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_shares = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        waves = view @ params["cell"]["kernel"] + params["cell"]["bias"]
        for row in range(3):
            wanted = np.ravel(magnitude_features(targets.cell[row]))
            expected[row] -= log_shares[row, targets.space_group[row]] / 4
            expected[row] += np.mean((waves[row] - wanted) ** 2) / 4
            shares = np.bincount(examples()[row].graphs[0].atomic_numbers, minlength=101)
            shares = shares / shares.sum()
            scores = view[row] @ params["composition"]["kernel"] + params["composition"]["bias"]
            guess = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
            there = shares > 0
            expected[row] += np.sum(shares[there] * np.log(shares[there] / guess[there])) / 4
    np.testing.assert_allclose(loss({"params": params}, vectors, targets), expected, rtol=1e-5)


def test_an_unknown_space_group_adds_nothing(head):
    loss, params, vectors = head
    targets = structure_targets(batch_of(with_structure(examples())).graphs, 3)
    unknown = targets.replace(space_group=jnp.zeros_like(targets.space_group))
    others = {"kernel": np.ones((5, 231), np.float32), "bias": np.zeros(231, np.float32)}
    changed = {"params": {**params, "space_group": others}}
    np.testing.assert_array_equal(
        loss({"params": params}, vectors, unknown), loss(changed, vectors, unknown)
    )


def test_a_batch_without_descriptors_is_refused():
    with pytest.raises(ModelError, match="structure_weight needs descriptors"):
        structure_targets(batch_of(examples()).graphs, 3)


def test_a_loss_without_a_joint_space_is_refused():
    config = small_config(structure_weight=0.5, **{"loss.name": "jsd", "loss.critic": "concat"})
    with pytest.raises(ModelError, match=r"structure_weight is 0.5, but .* no joint space"):
        build_model(config, vocab_size=100)


# --- in the model, with descriptors and numbers


@pytest.fixture(scope="module")
def setup():
    """A model with all three options, its variables, and the gradient of a loss by example."""
    model = build_model(small_config(**ALL), vocab_size=100)
    variables = random_variables(model, batch_of(with_structure(examples())))

    @functools.partial(jax.jit, compiler_options=FAST)
    def gradient(params, batch):
        def loss(params):
            state = {**variables, "params": params}
            encoded = model.apply(state, batch, train=True, method="encode")
            each = jnp.sum(jnp.square(encoded.graphs[0]), axis=1)
            each = each + jnp.sum(jnp.square(encoded.texts[0]), axis=1)
            # Not trained, since its batch statistics would see the padding of a larger batch.
            mask, index = batch.example_mask, batch.example_index
            output = model.apply(state, encoded, mask, index, method="contrast")
            return jnp.sum(jnp.where(mask, each + output.structure_loss, 0))

        return jax.value_and_grad(loss)(params)

    return model, variables, gradient


@pytest.fixture(scope="module")
def tight(setup):
    """The loss and the gradient of a batch without padding."""
    _, variables, gradient = setup
    batch = batch_of(with_structure(examples(num_views=1)), num_views=1)
    return gradient(variables["params"], batch)


def test_padding_and_left_out_examples_change_neither_loss_nor_gradients(setup, tight):
    _, variables, gradient = setup
    first, second, third = with_structure(examples(num_views=1))
    left_out = ExampleViews.left_out(with_labels=False)
    loose = batch_of([first, left_out, second, third], num_examples=6, num_views=1, spare=7)
    value, grads = tight
    padded, padded_grads = gradient(variables["params"], loose)
    np.testing.assert_allclose(padded, value, rtol=1e-5)
    for (path, one), other in zip(
        jax.tree.leaves_with_path(grads), jax.tree.leaves(padded_grads), strict=True
    ):
        assert np.isfinite(one).all() and np.isfinite(other).all(), jax.tree_util.keystr(path)
        scale = max(np.abs(one).max(), 1e-3)
        np.testing.assert_allclose(other, one, atol=1e-4 * scale, err_msg=str(path))


def test_each_part_has_a_gradient(tight):
    _, grads = tight
    parts = (
        grads["structure_head"]["space_group"],
        grads["structure_head"]["cell"],
        grads["structure_head"]["composition"],
        grads["graph_encoder"]["descriptors"]["space_group"],
        grads["graph_encoder"]["descriptors"]["site_0"],
        grads["text_encoder"]["numbers_0"]["integers"],
        grads["text_encoder"]["numbers_0"]["hidden"],
    )
    for part in parts:
        assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(part))


def test_evaluation_does_not_ask(setup):
    model, variables, _ = setup
    plain = batch_of(with_structure(examples(num_views=1)), num_views=1)
    assert jax.eval_shape(model.apply, variables, plain).structure_loss is None


@pytest.mark.slow
def test_bfloat16_stays_close():
    config = small_config(**ALL)
    batch = batch_of(with_structure(examples()))
    found = {}
    for precision in ("float32", "bfloat16"):
        config.precision = precision
        model = build_model(config, vocab_size=100)
        variables = random_variables(model, batch)
        apply = functools.partial(model.apply, train=True, mutable=["batch_stats"])
        output, _ = jax.jit(apply)(variables, batch)
        assert output.structure_loss.dtype == np.float32
        found[precision] = output
    exact, rounded = found["float32"], found["bfloat16"]
    np.testing.assert_allclose(rounded.structure_loss, exact.structure_loss, rtol=0.02)
    np.testing.assert_allclose(rounded.cross.right, exact.cross.right, atol=0.1)


# --- the config


def test_the_needs_of_the_encoders_follow_the_config():
    def needs(**changes):
        found = encoder_needs(small_config(**changes))
        return found.descriptors, found.facts.numbers or found.facts.compositions

    assert needs() == (False, False)
    assert needs(structure_weight=0.1) == (True, False)
    assert needs(**{"graph_encoder.add_descriptors": True}) == (True, False)
    assert needs(**{"text_encoder.numbers_at": (0,)}) == (False, True)
    assert needs(**{"text_encoder.add_compositions": True}) == (False, True)
    # A property is learned without texts.
    texts = {"task": "property", "structure_weight": 0.1, "text_encoder.numbers_at": (0,)}
    assert needs(**texts) == (False, False)
    assert needs(**texts, **{"graph_encoder.add_descriptors": True}) == (True, False)


def test_a_property_is_learned_from_descriptors_but_asks_no_text_for_them():
    config = small_config(**ALL, task="property")
    model = PropertyModel(build_graph_encoder(config), 1)
    batch = batch_of(with_structure(examples(num_views=1)), num_views=1)
    batch = batch.replace(labels=np.ones(3, np.float32))
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)["params"]
    assert "descriptors" in shapes["graph_encoder"] and "structure_head" not in shapes


@pytest.mark.parametrize("kind", ["gpt2", "opt", "gemma3_text"])
def test_other_text_encoders_read_neither_numbers_nor_compositions(kind):
    changes = {"text_encoder.config.model_type": kind, "text_encoder.numbers_at": (0,)}
    with pytest.raises(ModelError, match=r"only BERT reads numbers. Set it to"):
        build_model(small_config(**changes), vocab_size=100)
    changes = {"text_encoder.config.model_type": kind, "text_encoder.add_compositions": True}
    with pytest.raises(ModelError, match=r"only BERT reads compositions. Set it to"):
        build_model(small_config(**changes), vocab_size=100)


def test_numbers_enter_at_layers_that_exist():
    config = small_config(**{"text_encoder.numbers_at": (0, 2)})
    with pytest.raises(ModelError, match=r"has 2, but the encoder has 1 layer. Lower it"):
        text_settings(config, vocab_size=100)
    config.text_encoder.numbers_at = (0, 0)
    assert text_settings(config, vocab_size=100).numbers_at == (0, 0)


def test_all_of_them_are_off_by_default():
    config = default_config()
    assert not config.graph_encoder.add_descriptors and not config.structure_weight
    assert config.text_encoder.numbers_at == () and not config.text_encoder.add_compositions
    assert issubclass(ModelError, UserError)
