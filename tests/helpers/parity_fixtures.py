"""Access to the parity fixtures: arrays of PyTorch implementations, under their PyTorch names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clac_jax.crystals.graph import CrystalGraph
from clac_jax.input_pipeline.batch import BatchShape, collate
from clac_jax.input_pipeline.example import ExampleViews, TokenView

PARITY = Path(__file__).parents[1] / "data" / "parity"
TORCH = Path(__file__).parents[1] / "data" / "torch"  # written by tools/torch_references.py

OUTPUT_TOLERANCE = {np.float32: 2e-5, np.float64: 1e-9}
GRADIENT_TOLERANCE = {np.float32: 2e-4, np.float64: 1e-8}


class Fixture:
    """An npz file; `section("w")` returns the arrays with the key prefix "w/" in one dtype."""

    def __init__(self, name: str, folder: Path = PARITY) -> None:
        with np.load(folder / f"{name}.npz") as arrays:
            self.arrays = dict(arrays)

    def section(self, prefix: str, dtype: Any = None) -> dict[str, np.ndarray]:
        start = prefix + "/"
        section = {k[len(start) :]: v for k, v in self.arrays.items() if k.startswith(start)}
        if dtype is not None:
            section = {
                k: v.astype(dtype) if np.issubdtype(v.dtype, np.floating) else v
                for k, v in section.items()
            }
        return section


def sides_of(views: dict[str, Any]) -> dict[str, tuple[jax.Array, jax.Array]]:
    """The left and right views of each pair of the loss, from the inputs of a fixture."""
    image = jnp.stack([views["image"], views["aug_image"]])
    text = jnp.stack([views["text"], views["aug_text"]])
    return {
        "cross": (image, text),
        "visual": (image[:1], image[1:]),
        "textual": (text[:1], text[1:]),
    }


def text_functions(model: Any, texts: Any, **inputs: Any) -> tuple[Callable[..., Any], ...]:
    """Functions of a text encoder's parameters: its output, and two losses to differentiate.

    Returns:
        The output; the mean language-model loss per token; the sum of the squared features.
    """

    def encode(params: Any) -> Any:
        return model.apply({"params": params}, texts, **inputs)

    def lm_loss(params: Any) -> jax.Array:
        output = encode(params)
        return (output.lm_loss_sum / output.lm_num_tokens)[0]

    def feature_loss(params: Any) -> jax.Array:
        return jnp.sum(encode(params).features ** 2)

    return encode, lm_loss, feature_loss


def linear(section: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """The parameters of a torch Linear, converted for a Flax Dense."""
    dense = {"kernel": section[f"{name}.weight"].T}
    if f"{name}.bias" in section:
        dense["bias"] = section[f"{name}.bias"]
    return dense


def relative_error(ours: Any, theirs: Any) -> float:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return float(np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), 1e-30))


def tree_errors(ours: Any, theirs: Any) -> Iterator[tuple[str, float]]:
    """(path, relative error) of every leaf; both trees must have the same leaves."""
    ours = dict(jax.tree_util.tree_leaves_with_path(ours))
    theirs = dict(jax.tree_util.tree_leaves_with_path(theirs))
    assert ours.keys() == theirs.keys()
    for path, leaf in theirs.items():
        yield jax.tree_util.keystr(path), relative_error(ours[path], leaf)


def crystal_graphs(inputs: dict[str, np.ndarray]) -> list[CrystalGraph]:
    """The crystals of a fixture, stored in flat arrays, as one graph each."""
    graphs = []
    for crystal in range(inputs["batch"].max() + 1):
        nodes = np.flatnonzero(inputs["batch"] == crystal)
        edges = inputs["batch"][inputs["edge_index"][0]] == crystal
        senders, receivers = inputs["edge_index"][:, edges] - nodes[0]
        graphs.append(
            CrystalGraph(
                atomic_numbers=inputs["z"][nodes].astype(np.int32),
                senders=senders.astype(np.int32),
                receivers=receivers.astype(np.int32),
                edge_vectors=inputs["edge_attr"][edges],
                lattice=inputs["cell"][3 * crystal : 3 * crystal + 3].astype(np.float32),
            )
        )
    return graphs


def tokens(*ids: int) -> TokenView:
    return TokenView(np.asarray(ids, np.int32))


def graph_batch(
    graphs: list[CrystalGraph], shape: BatchShape | None = None, dtype: Any = None
) -> Any:
    """GraphBatch with one view; by default several crystals share a tile."""
    if shape is None:
        size = max(len(graph.atomic_numbers) for graph in graphs) + 3
        num_edges = sum(len(graph.senders) for graph in graphs)
        shape = one_view_shape(len(graphs), ((size, len(graphs)),), num_edges + 5)
    examples = [ExampleViews(k, (graph,), (tokens(1),)) for k, graph in enumerate(graphs)]
    graphs_ = collate(examples, shape).graphs
    if dtype is not None:
        graphs_ = graphs_.replace(edge_vectors=graphs_.edge_vectors.astype(dtype))
    return graphs_


def one_view_shape(num_examples: int, node_tiles: Any, num_edges: int) -> BatchShape:
    return BatchShape(
        num_examples=num_examples,
        graph_views=1,
        text_views=1,
        node_tiles=node_tiles,
        num_edges=num_edges,
        token_tiles=((8, num_examples),),
    )


def with_shape(shape: BatchShape, **changes: Any) -> BatchShape:
    return dataclasses.replace(shape, **changes)
