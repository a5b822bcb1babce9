"""Examples of any size packed into arrays of a few fixed shapes (host side, NumPy).

All views of a batch are encoded together: in every per-view array, row
``view * num_examples + example`` belongs to that view of that example.

Crystals and texts are never split. They are packed into *tiles* with a fixed number of slots
(nodes or tokens), several small ones per tile. Any operation that couples two slots (a message
between atoms, attention between tokens) therefore stays inside one ``size x size`` block: dense
products, no scatter, little padding. Everything else sees one flat array: the slots of all tiles,
concatenated.

Padding never changes a result: padded slots, edges and examples are masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import flax.struct
import numpy as np

from clac_jax.crystals.elements import MAX_ATOMIC_NUMBER
from clac_jax.input_pipeline.descriptor_batch import DescriptorBatch, no_descriptors
from clac_jax.input_pipeline.example import NOTHING, ExampleViews, Present, TokenView
from clac_jax.input_pipeline.tiles import Tiles, num_pairs, num_slots, pack
from clac_jax.text.sentences import IGNORED_LABEL
from clac_jax.typing import Array

if TYPE_CHECKING:
    from clac_jax.crystals.graph import CrystalGraph


class BatchShapeError(ValueError):
    """A batch does not fit the shape it was meant to be packed into."""


@dataclass(frozen=True)
class BatchShape:
    """The static sizes of one batch; batches of equal shape share one compiled program.

    Attributes:
        num_examples: number of examples, real and padding.
        graph_views: crystal views per example (1 or 2).
        text_views: text views per example (1 or 2).
        node_tiles: (nodes per tile, number of such tiles), ascending.
        num_edges: edge slots shared by all crystal views.
        token_tiles: (tokens per tile, number of such tiles), ascending.
        present: which optional arrays the batch has.
    """

    num_examples: int
    graph_views: int
    text_views: int
    node_tiles: Tiles
    num_edges: int
    token_tiles: Tiles
    present: Present = NOTHING

    @property
    def num_nodes(self) -> int:
        """Total number of node slots in all tiles."""
        return num_slots(self.node_tiles)

    @property
    def num_tokens(self) -> int:
        """Token slots of all tiles."""
        return num_slots(self.token_tiles)


@flax.struct.dataclass
class GraphBatch:
    """Crystal graphs packed into tiles.

    Attributes:
        atomic_numbers: (N,) int32, 0 = padding.
        crystal_index: (N,) int32 row (view * examples + example) of the node's crystal; the
            number of rows at padding.
        senders: (E,) int32 node that the message comes from; 0 at padding.
        receivers: (E,) int32 node that the message goes to; 0 at padding.
        edge_vectors: (E, 3) float32 from sender to receiver, angstrom; 0 at padding.
        edge_mask: (E,) bool, False = padding.
        pair_index: (E,) int32 index of (receiver, sender) among the P = sum(count * size**2) pairs
            of all tiles, receiver-major; P = padding.
        lattices: (rows, 3, 3) float32 cell vectors as rows, angstrom; identity at padding.
        descriptors: the crystals' descriptors; None if no encoder needs it.
        tiles: static, layout of the node slots.
        num_views: static, crystal views per example.
    """

    atomic_numbers: Array
    crystal_index: Array
    senders: Array
    receivers: Array
    edge_vectors: Array
    edge_mask: Array
    pair_index: Array
    lattices: Array
    descriptors: DescriptorBatch | None
    tiles: Tiles = flax.struct.field(pytree_node=False)
    num_views: int = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class TextBatch:
    """Token sequences packed into tiles.

    Attributes:
        ids: (K,) int32 token ids, 0 at padding.
        positions: (K,) int32 index of the token in its text, from 0; 0 at padding.
        text_index: (K,) int32 row (view * examples + example) of the token's text; the
            number of rows at padding.
        first_token: (rows,) int32 slot of each text's first token; 0 for padding examples.
        lengths: (rows,) int32 number of tokens of each text; 0 for padding examples.
        labels: (K,) int32 targets of the language-model loss, -100 = ignored; None if it has none.
        numbers: (K,) float32 value of the number that a token is a part of, NaN elsewhere; None if
            no encoder reads them.
        compositions: (rows, 2, MAX_ATOMIC_NUMBER + 1) float32, what each text states, see
            `token_facts.token_composition`; 0 for padding examples. None if no encoder reads them.
        tiles: static, layout of the token slots.
        num_views: static, text views per example.
    """

    ids: Array
    positions: Array
    text_index: Array
    first_token: Array
    lengths: Array
    labels: Array | None
    numbers: Array | None
    compositions: Array | None
    tiles: Tiles = flax.struct.field(pytree_node=False)
    num_views: int = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class Batch:
    """The input of one device for one forward pass.

    Attributes:
        graphs: all crystal views.
        texts: all text views.
        example_mask: (B,) bool, False = padding example.
        example_index: (B,) int32 global index of each example; -1 at padding.
        labels: (B,) float32 property values, 0 at padding; None when no property is learned.
        digests: (3, 2) uint32, the sum of those of the examples; None if they are not recorded.
    """

    graphs: GraphBatch
    texts: TextBatch
    example_mask: Array
    example_index: Array
    labels: Array | None = None
    digests: Array | None = None

    @property
    def layout(self) -> tuple[Tiles, int, Tiles]:
        """The layout that its program is compiled for: node tiles, edge slots, token tiles."""
        return self.graphs.tiles, self.graphs.senders.shape[-1], self.texts.tiles


def _real(examples: Sequence[ExampleViews]) -> list[ExampleViews]:
    """The examples that are not left out."""
    return [example for example in examples if example.graphs]


def _crystals(examples: Sequence[ExampleViews], shape: BatchShape) -> list[CrystalGraph]:
    return [each.graphs[view] for view in range(shape.graph_views) for each in _real(examples)]


def _texts(examples: Sequence[ExampleViews], shape: BatchShape) -> list[TokenView]:
    return [each.tokens[view] for view in range(shape.text_views) for each in _real(examples)]


def misfit(examples: Sequence[ExampleViews], shape: BatchShape) -> str | None:
    """The reason, in words, why these examples do not fit the shape; None if they fit."""
    if len(examples) > shape.num_examples:
        return f"{len(examples)} examples for {shape.num_examples} slots"
    for example in _real(examples):
        if len(example.graphs) < shape.graph_views or len(example.tokens) < shape.text_views:
            return (
                f"example {example.index} has {len(example.graphs)} crystal and "
                f"{len(example.tokens)} text views, {shape.graph_views} and {shape.text_views} "
                "are needed"
            )
    crystals = _crystals(examples, shape)
    num_edges = sum(len(crystal.senders) for crystal in crystals)
    if num_edges > shape.num_edges:
        return f"{num_edges} edges for {shape.num_edges} slots"
    packed = (
        ("atoms", [len(crystal.atomic_numbers) for crystal in crystals], shape.node_tiles),
        ("tokens", [len(text.ids) for text in _texts(examples, shape)], shape.token_tiles),
    )
    for what, sizes, tiles in packed:
        if pack(sizes, tiles) is None:
            return f"{sum(sizes)} {what} (at most {max(sizes)} together) for the tiles {tiles}"
    return None


def collate(examples: Sequence[ExampleViews], shape: BatchShape) -> Batch:
    """Packs examples into arrays of the given shape.

    Places at the end without examples, and those of examples that are left out, become masked
    padding. Each example is in the row of its place.

    Raises:
        BatchShapeError: the examples do not fit; the message says which size is exceeded.
    """
    reason = misfit(examples, shape)
    if reason is not None:
        raise BatchShapeError(f"A batch does not fit its shape: {reason}. Take a larger shape.")
    taken = _taken(examples)
    example_mask = np.zeros(shape.num_examples, bool)
    example_mask[taken] = True
    example_index = np.full(shape.num_examples, -1, np.int32)
    example_index[taken] = [example.index for example in _real(examples)]
    labels = None
    if shape.present.labels:
        labels = np.zeros(shape.num_examples, np.float32)
        labels[taken] = [example.label for example in _real(examples)]
    words = [example.digests for example in examples if example.digests is not None]
    digests = np.stack(words).sum(axis=0, dtype=np.uint32) if words else None
    return Batch(
        graphs=_collate_graphs(examples, shape),
        texts=_collate_texts(examples, shape),
        example_mask=example_mask,
        example_index=example_index,
        labels=labels,
        digests=digests,
    )


def _taken(examples: Sequence[ExampleViews]) -> list[int]:
    """The places that hold an example."""
    return [place for place, example in enumerate(examples) if example.graphs]


def _rows(examples: Sequence[ExampleViews], shape: BatchShape, num_views: int) -> list[int]:
    """Row of each (view, example), view-major, real examples only."""
    return [v * shape.num_examples + place for v in range(num_views) for place in _taken(examples)]


def _collate_graphs(examples: Sequence[ExampleViews], shape: BatchShape) -> GraphBatch:
    crystals = _crystals(examples, shape)
    spans = pack([len(crystal.atomic_numbers) for crystal in crystals], shape.node_tiles)
    assert spans is not None  # checked by collate
    rows = shape.num_examples * shape.graph_views
    atomic_numbers = np.zeros(shape.num_nodes, np.int32)
    crystal_index = np.full(shape.num_nodes, rows, np.int32)
    senders = np.zeros(shape.num_edges, np.int32)
    receivers = np.zeros(shape.num_edges, np.int32)
    edge_vectors = np.zeros((shape.num_edges, 3), np.float32)
    pair_index = np.full(shape.num_edges, num_pairs(shape.node_tiles), np.int32)
    lattices = np.tile(np.eye(3, dtype=np.float32), (rows, 1, 1))
    descriptors = no_descriptors(rows, shape.num_nodes) if shape.present.descriptors else None
    edge = 0
    for row, crystal, span in zip(
        _rows(examples, shape, shape.graph_views), crystals, spans, strict=True
    ):
        nodes = slice(span.first, span.first + len(crystal.atomic_numbers))
        atomic_numbers[nodes] = crystal.atomic_numbers
        crystal_index[nodes] = row
        edges = slice(edge, edge + len(crystal.senders))
        edge = edges.stop
        senders[edges] = crystal.senders + span.first
        receivers[edges] = crystal.receivers + span.first
        edge_vectors[edges] = crystal.edge_vectors
        pair_index[edges] = (
            span.first_pair
            + (crystal.receivers + span.offset) * span.tile_size
            + (crystal.senders + span.offset)
        )
        lattices[row] = crystal.lattice
        if descriptors is not None:
            assert crystal.descriptors is not None  # all examples of a run have them, or none
            descriptors.space_group[row] = crystal.descriptors.space_group
            descriptors.cell[row] = crystal.descriptors.cell
            descriptors.sites[nodes] = crystal.descriptors.sites
    return GraphBatch(
        atomic_numbers=atomic_numbers,
        crystal_index=crystal_index,
        senders=senders,
        receivers=receivers,
        edge_vectors=edge_vectors,
        edge_mask=np.arange(shape.num_edges) < edge,
        pair_index=pair_index,
        lattices=lattices,
        descriptors=descriptors,
        tiles=shape.node_tiles,
        num_views=shape.graph_views,
    )


def _collate_texts(examples: Sequence[ExampleViews], shape: BatchShape) -> TextBatch:
    texts = _texts(examples, shape)
    spans = pack([len(text.ids) for text in texts], shape.token_tiles)
    assert spans is not None  # checked by collate
    rows = shape.num_examples * shape.text_views
    ids = np.zeros(shape.num_tokens, np.int32)
    positions = np.zeros(shape.num_tokens, np.int32)
    text_index = np.full(shape.num_tokens, rows, np.int32)
    first_token = np.zeros(rows, np.int32)
    lengths = np.zeros(rows, np.int32)
    with_labels = any(text.labels is not None for each in examples for text in each.tokens)
    labels = np.full(shape.num_tokens, IGNORED_LABEL, np.int32) if with_labels else None
    numbers = np.full(shape.num_tokens, np.nan, np.float32) if shape.present.numbers else None
    stated = (rows, 2, MAX_ATOMIC_NUMBER + 1)
    compositions = np.zeros(stated, np.float32) if shape.present.compositions else None
    for row, text, span in zip(_rows(examples, shape, shape.text_views), texts, spans, strict=True):
        tokens = slice(span.first, span.first + len(text.ids))
        ids[tokens] = text.ids
        positions[tokens] = np.arange(len(text.ids))
        text_index[tokens] = row
        first_token[row] = span.first
        lengths[row] = len(text.ids)
        if labels is not None and text.labels is not None:
            labels[tokens] = text.labels
        if numbers is not None and text.numbers is not None:
            numbers[tokens] = text.numbers
        if compositions is not None and text.composition is not None:
            compositions[row] = text.composition
    return TextBatch(
        ids=ids,
        positions=positions,
        text_index=text_index,
        first_token=first_token,
        lengths=lengths,
        labels=labels,
        numbers=numbers,
        compositions=compositions,
        tiles=shape.token_tiles,
        num_views=shape.text_views,
    )
