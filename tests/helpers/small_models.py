"""Small models of every kind, and batches for them."""

from __future__ import annotations

import dataclasses
import math

import jax
import ml_collections
import numpy as np

from clac_jax.config.schema import default_config
from clac_jax.crystals.descriptors import CELL_NUMBERS, SITE_NUMBERS, Descriptors
from clac_jax.crystals.elements import MAX_ATOMIC_NUMBER
from clac_jax.input_pipeline.batch import BatchShape, collate
from clac_jax.input_pipeline.example import ExampleViews, TokenView
from clac_jax.interop.reference_weights import head_params
from clac_jax.models import abstract_variables
from helpers.parity_fixtures import (
    Fixture,
    crystal_graphs,
)

HEADS = {"cross": "global_d", "visual": "visual_d", "textual": "textual_d"}


def heads_of(section):
    """Parameters of the three contrasts from a fixture."""
    return {name: head_params(section, f"{theirs}.") for name, theirs in HEADS.items()}


def fresh_head_stats(dtype):
    block = {"norm": {"mean": np.zeros(64, dtype), "var": np.ones(64, dtype)}}
    return {"left": block, "right": block}


def small_config(**changes) -> ml_collections.ConfigDict:
    config = default_config()
    with config.unlocked():
        config.graph_encoder.update(
            num_features=16, num_interactions=2, out_dim=8, atom_fea_len=16, nbr_fea_len=8, n_conv=2
        )
        config.text_encoder.config.update(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
        )
        config.projection_dim = 12
        config.update_from_flattened_dict(changes)
    return config


def examples(num_views=2, with_labels=False):
    """Three examples with distinct views of crystals and texts."""
    rng = np.random.default_rng(5)
    graphs = crystal_graphs(Fixture("painn_small").section("in"))
    result = []
    for index, graph in enumerate(graphs):
        views, tokens = [], []
        for _ in range(num_views):
            noise = 1 + 0.02 * rng.normal(size=(1, 3)).astype(np.float32)
            views.append(dataclasses.replace(graph, edge_vectors=graph.edge_vectors * noise))
            ids = rng.integers(5, 90, size=rng.integers(3, 10)).astype(np.int32)
            labels = np.where(rng.random(len(ids)) < 0.5, ids, -100).astype(np.int32)
            tokens.append(TokenView(ids, labels if with_labels else None))
        result.append(ExampleViews(40 + index, tuple(views), tuple(tokens)))
    return result


def with_structure(examples_, seed=6):
    """The examples with descriptors, values of some of their tokens, and stated compositions."""
    rng = np.random.default_rng(seed)
    result = []
    for example in examples_:
        atoms = len(example.graphs[0].atomic_numbers)
        described = Descriptors(
            space_group=int(rng.integers(1, 231)),
            cell=rng.uniform(1, 120, CELL_NUMBERS).astype(np.float32),
            sites=rng.uniform(0, 8, (atoms, SITE_NUMBERS)).astype(np.float32),
        )
        tokens = []
        for view in example.tokens:
            values = rng.choice([2.08, 225, -0.8, np.nan], len(view.ids)).astype(np.float32)
            named = rng.random(MAX_ATOMIC_NUMBER + 1) < 0.05
            composition = np.stack([named / max(named.sum(), 1), named]).astype(np.float32)
            tokens.append(dataclasses.replace(view, numbers=values, composition=composition))
        graphs = [dataclasses.replace(graph, descriptors=described) for graph in example.graphs]
        result.append(dataclasses.replace(example, graphs=tuple(graphs), tokens=tuple(tokens)))
    return result


def batch_of(examples_, num_examples=None, num_views=2, spare=0):
    real = next(example for example in examples_ if example.graphs)
    num_edges = sum(len(graph.senders) for e in examples_ for graph in e.graphs)
    num_examples = num_examples or len(examples_)
    shape = BatchShape(
        num_examples=num_examples,
        graph_views=num_views,
        text_views=num_views,
        node_tiles=((20 + spare, num_views * num_examples),),
        num_edges=num_edges + spare,
        token_tiles=((12 + spare, num_views * num_examples),),
        present=real.present,
    )
    return collate(examples_, shape)


def random_variables(model, batch):
    """Variables as at the start of a training, by NumPy: those of JAX take seconds to compile."""
    rng = np.random.default_rng(0)

    def value(path, leaf):
        name = path[-1].key
        if leaf.ndim > 1:
            in_text = path[1].key == "text_encoder"
            deviation = 0.02 if in_text else math.prod(leaf.shape[:-1]) ** -0.5
            return rng.normal(0, deviation, leaf.shape).astype(leaf.dtype)
        constant = {"scale": 1.0, "var": 1.0, "log_scale": math.log(1 / 0.07)}.get(name, 0.0)
        return np.full(leaf.shape, constant, leaf.dtype)

    return jax.tree_util.tree_map_with_path(value, abstract_variables(model, batch))
