"""Grown models compute what the smaller ones have computed, and train on."""

import functools

import flax.traverse_util
import jax
import numpy as np
import pytest
from helpers.grown_models import (
    VOCABULARY,
    gradients,
    grow,
    heads_of,
    kept_moments,
    scored,
    trained,
)
from helpers.small_models import batch_of, examples, small_config, with_structure

from clac_jax.models import abstract_variables, build_model
from clac_jax.models.anatomy import Anatomy, Layers, dense_axes
from clac_jax.models.heads import PriorDiscriminator
from clac_jax.models.model_anatomy import model_anatomy
from clac_jax.surgery.growth import GrowthError, Old, grown, plan

TOLERANCE = 1e-5
# Arrays whose moments are kept; the others make copies, belong to new layers, or have new rows.
KEPT = {"wider": 1, "wider in multiples": 1, "deeper": 1, "cgcnn": 1, "critics and priors": 1}
PAINN = {
    "lm_weight": 0.5,
    "structure_weight": 0.1,
    "graph_encoder.add_composition": True,
    "graph_encoder.add_descriptors": True,
    "text_encoder.feature": "attention",
    "text_encoder.numbers_at": (0,),
    "text_encoder.add_compositions": True,
    "text_encoder.config.num_hidden_layers": 2,
}
CGCNN = {"graph_encoder.name": "cgcnn", "graph_encoder.h_fea_len": 10, "lm_weight": 0.5}
JSD = {
    "loss.name": "jsd",
    "loss.critic": "concat",
    "graph_encoder.name": "composition",
    "text_encoder.feature": "attention",
}
LARGER = {
    # Units that are copied as often as it happens, also not equally often.
    "wider": (
        PAINN,
        {
            "graph_encoder.num_features": 27,
            "graph_encoder.out_dim": 11,
            "text_encoder.config.intermediate_size": 45,
        },
    ),
    # Units with a layer norm, and attention heads.
    "wider in multiples": (
        PAINN,
        {
            "text_encoder.config.hidden_size": 64,
            "text_encoder.config.num_attention_heads": 4,
            "projection_dim": 24,
        },
    ),
    "deeper": (
        PAINN,
        {
            "graph_encoder.num_interactions": 4,
            "graph_encoder.num_rbf": 23,
            "text_encoder.config.num_hidden_layers": 4,
        },
    ),
    "in every way": (
        PAINN,
        {
            "graph_encoder.num_features": 27,
            "graph_encoder.num_interactions": 3,
            "graph_encoder.num_rbf": 23,
            "graph_encoder.out_dim": 11,
            "text_encoder.config.hidden_size": 32,
            "text_encoder.config.intermediate_size": 45,
            "text_encoder.config.num_hidden_layers": 3,
            "text_encoder.config.max_position_embeddings": 600,
            "projection_dim": 36,
        },
    ),
    "cgcnn": (
        CGCNN,
        {
            "graph_encoder.atom_fea_len": 23,
            "graph_encoder.h_fea_len": 12,
            "graph_encoder.out_dim": 16,
        },
    ),
    # The vectors stay as wide as they are, so that the priors compare them with the same noise.
    "critics and priors": (
        JSD,
        {
            "graph_encoder.num_features": 27,
            "text_encoder.config.intermediate_size": 45,
            "text_encoder.config.num_hidden_layers": 2,
            "projection_dim": 17,
        },
    ),
}


@functools.cache
def batch():
    return batch_of(with_structure(examples(with_labels=True)))


@functools.cache
def smaller(name):
    """(config, variables, what they compute) of the smaller model; name: of its graph encoder."""
    base = next(b for b in (PAINN, CGCNN, JSD) if b.get("graph_encoder.name", "painn") == name)
    config = small_config(**base)
    variables = trained(build_model(config, VOCABULARY), batch())
    return config, variables, scored(config, variables, batch())


def check(name):
    """The larger model computes the same; returns what is needed to compare gradients."""
    base, changes = LARGER[name]
    config, variables, (values, statistics) = smaller(base.get("graph_encoder.name", "painn"))
    large = small_config(**base | changes)
    entries, larger = grow(config, large, batch(), variables)
    new_values, new_statistics = scored(large, larger, batch())
    for what, value in values.items():
        assert np.std(value) > 0.05  # it is not equal because nothing matters
        np.testing.assert_allclose(new_values[what], value, rtol=TOLERANCE, atol=TOLERANCE)
    # The running averages of a batch norm are those of the units' copies.
    here = {name: entry for name, entry in entries.items() if name in new_statistics}
    expected = grown(here, statistics, new_statistics)
    for path, array in new_statistics.items():
        np.testing.assert_allclose(array, expected[path], rtol=1e-4, atol=1e-5, err_msg=path)
    return config, variables, entries, large, larger


def test_a_larger_model_computes_what_the_smaller_one_has_computed():
    check("in every way")


@pytest.mark.slow
def test_in_float64_a_larger_model_computes_the_same_up_to_rounding():
    base, changes = LARGER["in every way"]
    config, large = small_config(**base), small_config(**base | changes)
    with jax.enable_x64(True):
        single = trained(build_model(config, VOCABULARY), batch())
        variables = jax.tree.map(lambda leaf: leaf.astype(np.float64), single)
        _, larger = grow(config, large, batch(), variables)
        values, _ = scored(config, variables, batch())
        new_values, _ = scored(large, larger, batch())
    for what, value in values.items():
        assert new_values[what].dtype == np.float64
        np.testing.assert_allclose(new_values[what], value, rtol=1e-9, atol=1e-9, err_msg=what)


@pytest.mark.slow
def test_a_prior_takes_wider_vectors_for_what_they_were():
    """Its loss differs nevertheless: the noise that it compares them with is wider, too."""
    config, variables, _ = smaller("composition")
    wider = {"graph_encoder.out_dim": 11, "text_encoder.config.intermediate_size": 45}
    large = small_config(**JSD | wider)
    entries, larger = grow(config, large, batch(), variables)
    assert "the loss on noise" in entries["crystal_discriminator/layer_0/kernel"].reason
    losses = []
    for some, found in ((config, variables), (large, larger)):
        model = build_model(some, VOCABULARY)
        encoded = jax.jit(functools.partial(model.apply, method="encode"))(found, batch())
        prior = {"params": found["params"]["crystal_discriminator"]}
        losses.append(PriorDiscriminator().apply(prior, *[encoded.graphs[0]] * 2))
    assert np.std(losses[0]) > 0.05
    np.testing.assert_allclose(losses[1], losses[0], rtol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in LARGER if name != "in every way"])
def test_outputs_stay_and_moments_are_those_of_the_larger_model(name):
    config, variables, entries, large, larger = check(name)
    before, after = gradients(config, variables, batch()), gradients(large, larger, batch())
    assert len(kept_moments(entries, before, after)) >= KEPT[name]


@functools.cache
def shapes_of(**changes):
    """Name -> shape of a model's arrays."""
    model = build_model(small_config(**changes), VOCABULARY)
    return {name: leaf.shape for name, leaf in named_shapes(model).items()}


def named_shapes(model):
    flat = flax.traverse_util.flatten_dict(abstract_variables(model, batch()))
    return {"/".join(path[1:]): leaf for path, leaf in flat.items()}


def planned(changes, base=None, old=None):
    base = base or {}
    anatomy = model_anatomy(small_config(**base | changes))
    old = old or heads_of(small_config(**base))
    return plan(shapes_of(**base), shapes_of(**base | changes), anatomy, old)


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        (
            {},
            {"graph_encoder.num_features": 12},
            "graph_encoder/features would shrink from 16 to 12",
        ),
        ({}, {"text_encoder.config.hidden_size": 24}, "Choose a multiple of 16"),
        ({}, {"projection_dim": 16}, "joint cannot grow from 12 to 16"),
        ({}, {"text_encoder.config.num_attention_heads": 4}, "keys would shrink from 8 to 4"),
        ({}, {"graph_encoder.num_interactions": 1}, "growth removes none"),
        (
            {"graph_encoder.name": "cgcnn"},
            {"graph_encoder.n_conv": 3},
            "softplus after each convolution",
        ),
        ({"graph_encoder.name": "cgcnn"}, {"graph_encoder.nbr_fea_len": 12}, "conv_0/edge/kernel"),
        (
            {"graph_encoder.name": "orb"},
            {"graph_encoder.num_features": 24},
            "does not declare which axis",
        ),
    ],
)
def test_growth_that_would_change_the_function_is_refused(base, changes, message):
    with pytest.raises(GrowthError) as caught:
        planned(changes, base)
    assert message in str(caught.value)


def test_nothing_is_changed_in_a_model_of_the_same_sizes():
    assert planned({}) == {}


def test_growing_twice_computes_what_growing_once_does():
    """y = W b, b = V x: the numbers differ, the products do not."""
    axes = dense_axes("first", "_ -> units") | dense_axes("second", "units -> _")
    anatomy = Anatomy(axes)
    rng = np.random.default_rng(3)

    def grown_to(arrays, size):
        fresh = {
            "first/kernel": np.zeros((5, size), np.float32),
            "second/kernel": np.zeros((size, 2), np.float32),
        }
        shapes = ({k: v.shape for k, v in some.items()} for some in (arrays, fresh))
        return grown(plan(*shapes, anatomy), arrays, fresh)

    start = {
        "first/kernel": rng.normal(size=(5, 4)).astype(np.float32),
        "second/kernel": rng.normal(size=(4, 2)).astype(np.float32),
    }
    expected = start["first/kernel"] @ start["second/kernel"]
    once, twice = grown_to(start, 11), grown_to(grown_to(start, 7), 11)
    for arrays in (once, twice):
        np.testing.assert_allclose(
            arrays["first/kernel"] @ arrays["second/kernel"], expected, rtol=1e-5, atol=1e-6
        )
    # The shares of a unit differ, so that its copies get different gradients.
    second = grown_to(start, 8)["second/kernel"].reshape(4, 2, 2)
    ratio = second[:, 0] / second[:, 1]
    assert np.abs(ratio - 1).min() > 1e-4 and len(np.unique(ratio.round(6))) == 8


def test_new_words_are_the_mean_and_the_same_words_keep_their_rows(tmp_path):
    def tokenizer(name, words):
        folder = tmp_path / name
        folder.mkdir()
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        (folder / "vocab.txt").write_text("\n".join([*special, *words]) + "\n")
        return str(folder)

    old = tokenizer("old", ["quartz", "a", "perovskite"])
    new = tokenizer("new", ["a", "spinel", "quartz"])
    axes = {"word/embedding": "words -> hidden", "bias": "-> words"}
    anatomy = Anatomy(axes, rows={"words": "tokens"})
    saved = {
        "word/embedding": np.arange(24, dtype=np.float32).reshape(8, 3),
        "bias": np.arange(8, dtype=np.float32),
    }
    fresh = {"word/embedding": np.zeros((10, 3), np.float32), "bias": np.zeros(10, np.float32)}
    shapes = ({k: v.shape for k, v in some.items()} for some in (saved, fresh))
    wanted = list(shapes)
    by_token = grown(plan(*wanted, anatomy, Old(tokenizers=(old, new))), saved, fresh)
    np.testing.assert_array_equal(
        by_token["bias"], [0, 1, 2, 3, 4, 6, 22 / 7, 5, 22 / 7, 22 / 7]
    ) if False else np.testing.assert_allclose(by_token["bias"], [0, 1, 2, 3, 4, 6, 3, 5, 3, 3])
    np.testing.assert_array_equal(
        by_token["word/embedding"][[5, 7]], saved["word/embedding"][[6, 5]]
    )
    appended = grown(plan(*wanted, anatomy), saved, fresh)["bias"]
    np.testing.assert_array_equal(appended, [0, 1, 2, 3, 4, 5, 6, 7, 3.5, 3.5])


def test_shapes_that_do_not_have_the_declared_axes_are_refused():
    anatomy = Anatomy(dense_axes("map", "_ -> 3 units"))
    for shape in ((4, 7), (4,)):
        with pytest.raises(GrowthError, match="does not have the axes"):
            plan({"map/kernel": (4, 6)}, {"map/kernel": shape}, anatomy)


def test_the_first_layer_of_a_kind_begins_without_effect_too():
    layers = Layers(r"layer_(\d+)/", "layer", {"layer_.*/out": 0.0}, last=("layer_.*/norm",))
    wanted = {"layer_0/out": (2,), "layer_0/in": (2,), "layer_0/norm": (2,)}
    entries = plan({}, wanted, Anatomy(layers=(layers,)))
    assert {name: str(entry.transform) for name, entry in entries.items()} == {
        "layer_0/out": "fill(0.0)", "layer_0/in": "None", "layer_0/norm": "None",
    }  # fmt: skip
