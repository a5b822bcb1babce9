"""Every kind of tower, grown, computes what the smaller one has computed, in every precision."""

import functools

import jax
import numpy as np
import pytest
from helpers.grown_models import kept_moments
from helpers.grown_towers import Tower
from helpers.small_models import batch_of, examples

from clac_jax.models.graph.cgcnn import CGCNNSettings
from clac_jax.models.graph.painn import PaiNNSettings
from clac_jax.models.text.bert import BertSettings
from clac_jax.models.text.decoder import Gpt2Settings, OptSettings
from clac_jax.models.text.gemma import GemmaSettings
from clac_jax.models.text.lora import Lora
from clac_jax.surgery.growth import GrowthError

SIZES = {
    "vocab_size": 90,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
}
WIDER = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 35}
DEEPER = {"num_hidden_layers": 3}
LONGER = {"max_position_embeddings": 26}
LORA = Lora(3, 6.0, ("query", "value", "out", "output"))
# Layer norms after each block and none at the end; words of a different width than the states.
POST_NORM = {"norm_first": False, "final_norm": False, "layer_norm_eps": 1e-12}
GROUPS = {"num_attention_heads": 4, "num_key_value_heads": 2, "local_layers": (True,), "window": 3}
# name -> (the smaller tower, what is larger, the least number of arrays whose moments are kept)
TOWERS = {
    "opt": (
        Tower(OptSettings(**SIZES), "attention", with_lm_loss=True),
        WIDER | DEEPER | LONGER,
        2,
    ),
    "opt without a language-model loss": (Tower(OptSettings(**SIZES), "last"), WIDER | LONGER, 1),
    "opt with its norms last": (
        Tower(OptSettings(**SIZES, **POST_NORM), "attention", with_lm_loss=True),
        WIDER | DEEPER,
        2,
    ),
    "opt with narrow words": (
        Tower(OptSettings(**SIZES, **POST_NORM, embedding_size=6), with_lm_loss=True),
        WIDER | {"embedding_size": 10, "vocab_size": 90},
        1,
    ),
    "gpt2": (Tower(Gpt2Settings(**SIZES), "last", with_lm_loss=True), WIDER | DEEPER, 1),
    "gemma": (Tower(GemmaSettings(**SIZES), "attention"), WIDER | DEEPER, 1),
    "gemma with groups and windows": (
        Tower(GemmaSettings(**SIZES | GROUPS)),
        {"hidden_size": 32, "num_attention_heads": 8, "num_key_value_heads": 4},
        1,
    ),
    "gemma with its language-model loss": (
        Tower(GemmaSettings(**SIZES), with_lm_loss=True),
        {"intermediate_size": 35} | DEEPER,
        2,
    ),
    "bert with adapters": (
        Tower(BertSettings(**SIZES, lora=LORA), "attention", with_lm_loss=True),
        WIDER | DEEPER,
        1,
    ),
    "painn": (
        Tower(PaiNNSettings(num_features=12, num_interactions=2, out_dim=8, num_rbf=6)),
        {"num_features": 17, "num_interactions": 3, "out_dim": 13, "num_rbf": 9},
        1,
    ),
    "cgcnn": (
        Tower(CGCNNSettings(atom_fea_len=12, nbr_fea_len=8, n_conv=2, h_fea_len=10, out_dim=8)),
        {"atom_fea_len": 17, "h_fea_len": 14, "out_dim": 9},
        1,
    ),
}
QUICK = ("opt",)


@functools.cache
def batch():
    return batch_of(examples(with_labels=True))


def cases(quick=()):
    return [
        name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in TOWERS
    ]


def grown_pair(name, dtype=np.float32):
    """(smaller tower, its variables, larger tower, its variables, the plan)."""
    small, sizes, _ = TOWERS[name]
    large = small.larger(**sizes)
    variables = small.variables(batch(), 0, dtype)
    entries, more = large.grow(small, batch(), variables)
    return small, variables, large, more, entries


def assert_equal(values, expected, tolerance):
    assert values.keys() == expected.keys()
    for what, value in expected.items():
        assert np.std(value) > 0.05  # it is not equal because nothing matters
        np.testing.assert_allclose(values[what], value, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", cases(QUICK))
def test_a_larger_tower_computes_the_same_in_float32(name):
    small, variables, large, more, _ = grown_pair(name)
    assert_equal(large.values(batch(), more), small.values(batch(), variables), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", TOWERS)
def test_in_float64_nothing_but_rounding_is_left(name):
    with jax.enable_x64(True):
        small, variables, large, more, _ = grown_pair(name, np.float64)
        assert large.values(batch(), more)["vectors"].dtype == np.float64
        # The wave lengths of rotary positions and of edges are rounded to float32 by both.
        assert_equal(large.values(batch(), more), small.values(batch(), variables), 1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("name", TOWERS)
def test_bfloat16_arithmetic_is_as_far_from_float32_as_before(name):
    """It rounds each number to three digits, so that the two cannot be equal to 1e-5.

    The shares of a number are rounded too, but no more often than the number itself was: the
    yardstick is the error that the smaller tower has on its own.
    """
    small, variables, large, more, _ = grown_pair(name)
    exact = small.values(batch(), variables)
    before = small.in_dtype("bfloat16").values(batch(), variables)
    after = large.in_dtype("bfloat16").values(batch(), more)
    for what, value in exact.items():
        error = np.sqrt(np.mean(np.square(before[what] - value)))
        grown_error = np.sqrt(np.mean(np.square(after[what] - value)))
        assert 0 < grown_error < 2 * error and error < 0.1 * np.std(value), (what, error)


@pytest.mark.slow
@pytest.mark.parametrize("name", TOWERS)
def test_the_moments_are_those_of_the_larger_tower(name):
    small, variables, large, more, entries = grown_pair(name)
    before, after = small.gradients(batch(), variables), large.gradients(batch(), more)
    assert len(kept_moments(entries, before, after)) >= TOWERS[name][2]


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        (
            "gemma with groups and windows",
            {"num_attention_heads": 6, "head_dim": 4},
            "heads cannot grow from 4 to 6: each key serves a group of heads",
        ),
        ("gemma", {"head_dim": 16}, "keys cannot grow from 8 to 16: rotary positions"),
        (
            "gemma with its language-model loss",
            WIDER,
            "hidden cannot grow from 16 to 32: the logits of its language-model loss",
        ),
        ("opt", {"hidden_size": 24}, "Choose a multiple of 16"),
        ("gpt2", {"num_attention_heads": 4}, "keys would shrink from 8 to 4"),
    ],
)
def test_growth_of_a_text_tower_that_would_change_it_is_refused(name, sizes, message):
    with pytest.raises(GrowthError, match=message):
        refused(TOWERS[name][0], sizes)


def refused(small, sizes):
    small.larger(**sizes).grow(small, batch(), small.variables(batch(), 0))


@pytest.mark.parametrize(
    ("settings", "sizes", "message"),
    [
        ({"norm_affine": False}, WIDER, "have no scale by which the copies could be divided"),
        (
            POST_NORM | {"layer_norm_eps": 1e-5},
            DEEPER,
            "divides again, with an epsilon of 1e-05",
        ),
    ],
)
def test_kinds_of_opt_that_cannot_be_grown_are_refused(settings, sizes, message):
    tower = Tower(OptSettings(**SIZES | settings), with_lm_loss=True)
    with pytest.raises(GrowthError, match=message):
        refused(tower, sizes)
