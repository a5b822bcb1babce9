"""Grown models compute what the smaller ones have computed, and train on."""

import functools

import numpy as np
import pytest
from helpers.grown_models import VOCABULARY, gradients, grow, scored, trained
from helpers.small_models import batch_of, examples, small_config, with_structure

from clac_jax.models import build_model
from clac_jax.surgery.growth import grown
from clac_jax.surgery.resizing import Scale

TOLERANCE = 1e-5
KEPT = dict.fromkeys(("wider", "wider in multiples", "deeper", "cgcnn"), 0)
PAINN = {
    "lm_weight": 0.5,
    "structure_weight": 0.1,
    "graph_encoder.add_composition": True,
    "graph_encoder.add_descriptors": True,
    "text_encoder.feature": "attention",
    "text_encoder.numbers_at": (0,),
    "text_encoder.config.num_hidden_layers": 2,
}
CGCNN = {"graph_encoder.name": "cgcnn", "graph_encoder.h_fea_len": 10, "lm_weight": 0.5}
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
}


@functools.cache
def batch():
    return batch_of(with_structure(examples(with_labels=True)))


@functools.cache
def smaller(is_cgcnn):
    """(config, variables, what they compute) of the smaller model."""
    config = small_config(**(CGCNN if is_cgcnn else PAINN))
    variables = trained(build_model(config, VOCABULARY), batch())
    return config, variables, scored(config, variables, batch())


def check(name):
    """The larger model computes the same; returns what is needed to compare gradients."""
    base, changes = LARGER[name]
    config, variables, (values, statistics) = smaller(base is CGCNN)
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
@pytest.mark.parametrize("name", [name for name in LARGER if name != "in every way"])
def test_outputs_stay_and_moments_are_those_of_the_larger_model(name):
    config, variables, entries, large, larger = check(name)
    before, after = gradients(config, variables, batch()), gradients(large, larger, batch())
    kept = []
    for path, gradient in after.items():
        entry = entries.get(path)
        if entry is None or entry.source is None:
            continue
        for order in (1, 2):
            moment = entry.transform.of_moment(order) if entry.transform else Scale(1.0)
            if moment is not None:
                # A moment is a running mean of gradients, or of squares: it follows if they do.
                (expected,) = moment.apply([before[entry.source] ** order], (gradient.shape,), None)
                error = np.abs(gradient**order - expected).max()
                assert error < 3e-4 * np.abs(expected).max() + 1e-7, path
                kept.append(path)
    assert len(kept) >= 2 * KEPT[name]
    print(name, len(kept) // 2, len(entries))
