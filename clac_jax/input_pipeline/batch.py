"""Examples of any size packed into arrays of a few fixed shapes (host side, NumPy).

Both views of a batch are encoded together: row ``view * num_examples + example`` of every per-view
array belongs to that view of that example.

Crystals and texts are packed whole into *tiles* of a fixed number of places (nodes, tokens),
several small ones to a tile. Whatever couples two places (a message between atoms, attention
between tokens) then stays inside one ``size x size`` block: dense products, no scatter, little
padding. Everything else sees one flat array, the places of all tiles one after the other.

Padding never changes a result: padded places, edges and examples are masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import flax.struct
import numpy as np

from clac_jax.text.sentences import IGNORED_LABEL
from clac_jax.typing import Array

if TYPE_CHECKING:
    from clac_jax.crystals.graph import CrystalGraph

Tiles = tuple[tuple[int, int], ...]
"""(places in a tile, number of such tiles), ...: the static layout of a packed axis."""


class BatchShapeError(ValueError):
    """A batch that does not fit the shape it was to be packed into."""


@dataclass(frozen=True)
class TokenView:
    """One tokenized text.

    Attributes:
        ids: (L,) int32 token ids with special tokens, truncated, unpadded.
        labels: (L,) int32 targets of the language-model loss (-100 = ignored), or None.
    """

    ids: np.ndarray
    labels: np.ndarray | None = None


@dataclass(frozen=True)
class ExampleViews:
    """One example as the model sees it: one or two views of its crystal and of its text.

    Attributes:
        index: in its split.
        graphs: views of the crystal.
        tokens: views of the text.
        label: of the property that is learned, if one is.
    """

    index: int
    graphs: tuple[CrystalGraph, ...]
    tokens: tuple[TokenView, ...]
    label: float | None = None


@dataclass(frozen=True)
class BatchShape:
    """The static sizes of one batch; batches of equal shape share one compiled program.

    Attributes:
        num_examples: examples, real and padding together.
        graph_views: crystal views per example (1 or 2).
        text_views: text views per example (1 or 2).
        node_tiles: (nodes in a tile, number of such tiles), ascending.
        num_edges: edges of all crystal views together.
        token_tiles: (tokens in a tile, number of such tiles), ascending.
        labelled: whether a property is learned; also a part without examples has its places then.
    """

    num_examples: int
    graph_views: int
    text_views: int
    node_tiles: Tiles
    num_edges: int
    token_tiles: Tiles
    labelled: bool = False

    @property
    def num_nodes(self) -> int:
        """Node places of all tiles."""
        return num_places(self.node_tiles)

    @property
    def num_tokens(self) -> int:
        """Token places of all tiles."""
        return num_places(self.token_tiles)


@flax.struct.dataclass
class GraphBatch:
    """Crystal graphs packed into tiles.

    Attributes:
        atomic_numbers: (N,) int32, 0 = padding.
        crystal_index: (N,) int32 row (view * examples + example) of the node's crystal; the number
            of rows = padding.
        senders: (E,) int32 node a message comes from; 0 at padding.
        receivers: (E,) int32 node a message goes to; 0 at padding.
        edge_vectors: (E, 3) float32 from sender to receiver, angstrom; 0 at padding.
        edge_mask: (E,) bool, False = padding.
        pair_index: (E,) int32 place of (receiver, sender) among the P = sum(count * size**2) pairs
            of all tiles, receiver major; P = padding.
        lattices: (rows, 3, 3) float32 cell vectors as rows, angstrom; identity at padding.
        tiles: static, layout of the nodes.
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
    tiles: Tiles = flax.struct.field(pytree_node=False)
    num_views: int = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class TextBatch:
    """Token sequences packed into tiles.

    Attributes:
        ids: (K,) int32 token ids, 0 at padding.
        positions: (K,) int32 place of the token in its text, from 0; 0 at padding.
        text_index: (K,) int32 row (view * examples + example) of the token's text; the number of
            rows = padding.
        first_token: (rows,) int32 place of each text's first token; 0 for padding examples.
        lengths: (rows,) int32 number of tokens of each text; 0 for padding examples.
        labels: (K,) int32 targets of the language-model loss, -100 = ignored; None without one.
        tiles: static, layout of the tokens.
        num_views: static, text views per example.
    """

    ids: Array
    positions: Array
    text_index: Array
    first_token: Array
    lengths: Array
    labels: Array | None
    tiles: Tiles = flax.struct.field(pytree_node=False)
    num_views: int = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class Batch:
    """What one device gets for one forward pass.

    Attributes:
        graphs: all crystal views.
        texts: all text views.
        example_mask: (B,) bool, False = padding example.
        example_index: (B,) int32 global index of each example; -1 at padding.
        labels: (B,) float32 of the property that is learned, 0 at padding; None if none is.
    """

    graphs: GraphBatch
    texts: TextBatch
    example_mask: Array
    example_index: Array
    labels: Array | None = None

    @property
    def layout(self) -> tuple[Tiles, int, Tiles]:
        """What its program was compiled for: tiles of atoms, edges, tiles of tokens."""
        return self.graphs.tiles, self.graphs.senders.shape[-1], self.texts.tiles


def num_places(tiles: Tiles) -> int:
    """Places of all tiles."""
    return sum(size * count for size, count in tiles)


def num_pairs(tiles: Tiles) -> int:
    """Ordered pairs of places that share a tile."""
    return sum(size * size * count for size, count in tiles)


@dataclass(frozen=True)
class _Place:
    """Where one sequence lies: its first place; its tile's first pair, size; its offset there."""

    first: int
    first_pair: int
    tile_size: int
    offset: int


def _pack(sizes: Sequence[int], tiles: Tiles) -> list[_Place] | None:
    """Places sequences of the given sizes, best fit, largest first; None where there is no room."""
    starts: list[tuple[int, int, int]] = []
    place = pair = 0
    for size, count in tiles:
        for _ in range(count):
            starts.append((place, pair, size))
            place += size
            pair += size * size
    free = [size for _, _, size in starts]
    places: dict[int, _Place] = {}
    for k in sorted(range(len(sizes)), key=lambda k: -sizes[k]):
        rooms = [(room, tile) for tile, room in enumerate(free) if room >= sizes[k]]
        if not rooms:
            return None
        room, tile = min(rooms)
        first, first_pair, tile_size = starts[tile]
        offset = tile_size - room
        places[k] = _Place(first + offset, first_pair, tile_size, offset)
        free[tile] -= sizes[k]
    return [places[k] for k in range(len(sizes))]


def _crystals(examples: Sequence[ExampleViews], shape: BatchShape) -> list[CrystalGraph]:
    return [example.graphs[view] for view in range(shape.graph_views) for example in examples]


def _texts(examples: Sequence[ExampleViews], shape: BatchShape) -> list[TokenView]:
    return [example.tokens[view] for view in range(shape.text_views) for example in examples]


def misfit(examples: Sequence[ExampleViews], shape: BatchShape) -> str | None:
    """Why these examples do not fit the shape, in words, or None if they do."""
    if len(examples) > shape.num_examples:
        return f"{len(examples)} examples for {shape.num_examples} places"
    for example in examples:
        if len(example.graphs) < shape.graph_views or len(example.tokens) < shape.text_views:
            return (
                f"example {example.index} has {len(example.graphs)} crystal and "
                f"{len(example.tokens)} text views, {shape.graph_views} and {shape.text_views} "
                "are needed"
            )
    crystals = _crystals(examples, shape)
    num_edges = sum(len(crystal.senders) for crystal in crystals)
    if num_edges > shape.num_edges:
        return f"{num_edges} edges for {shape.num_edges} places"
    packed = (
        ("atoms", [len(crystal.atomic_numbers) for crystal in crystals], shape.node_tiles),
        ("tokens", [len(text.ids) for text in _texts(examples, shape)], shape.token_tiles),
    )
    for what, sizes, tiles in packed:
        if _pack(sizes, tiles) is None:
            return f"{sum(sizes)} {what} (at most {max(sizes)} together) for the tiles {tiles}"
    return None


def collate(examples: Sequence[ExampleViews], shape: BatchShape) -> Batch:
    """Packs examples into arrays of the given shape; missing examples become masked padding.

    Raises:
        BatchShapeError: the examples do not fit; says what does not.
    """
    reason = misfit(examples, shape)
    if reason is not None:
        raise BatchShapeError(f"A batch does not fit its shape: {reason}. Take a larger shape.")
    example_index = np.full(shape.num_examples, -1, np.int32)
    example_index[: len(examples)] = [example.index for example in examples]
    labels = None
    if shape.labelled:
        labels = np.zeros(shape.num_examples, np.float32)
        labels[: len(examples)] = [example.label for example in examples]
    return Batch(
        graphs=_collate_graphs(examples, shape),
        texts=_collate_texts(examples, shape),
        example_mask=np.arange(shape.num_examples) < len(examples),
        example_index=example_index,
        labels=labels,
    )


def _rows(num_examples: int, shape: BatchShape, num_views: int) -> list[int]:
    """Row of each (view, example), view major, real examples only."""
    return [v * shape.num_examples + e for v in range(num_views) for e in range(num_examples)]


def _collate_graphs(examples: Sequence[ExampleViews], shape: BatchShape) -> GraphBatch:
    crystals = _crystals(examples, shape)
    places = _pack([len(crystal.atomic_numbers) for crystal in crystals], shape.node_tiles)
    assert places is not None  # collate has checked
    rows = shape.num_examples * shape.graph_views
    atomic_numbers = np.zeros(shape.num_nodes, np.int32)
    crystal_index = np.full(shape.num_nodes, rows, np.int32)
    senders = np.zeros(shape.num_edges, np.int32)
    receivers = np.zeros(shape.num_edges, np.int32)
    edge_vectors = np.zeros((shape.num_edges, 3), np.float32)
    pair_index = np.full(shape.num_edges, num_pairs(shape.node_tiles), np.int32)
    lattices = np.tile(np.eye(3, dtype=np.float32), (rows, 1, 1))
    edge = 0
    for row, crystal, place in zip(
        _rows(len(examples), shape, shape.graph_views), crystals, places, strict=True
    ):
        nodes = slice(place.first, place.first + len(crystal.atomic_numbers))
        atomic_numbers[nodes] = crystal.atomic_numbers
        crystal_index[nodes] = row
        edges = slice(edge, edge + len(crystal.senders))
        edge = edges.stop
        senders[edges] = crystal.senders + place.first
        receivers[edges] = crystal.receivers + place.first
        edge_vectors[edges] = crystal.edge_vectors
        pair_index[edges] = (
            place.first_pair
            + (crystal.receivers + place.offset) * place.tile_size
            + (crystal.senders + place.offset)
        )
        lattices[row] = crystal.lattice
    return GraphBatch(
        atomic_numbers=atomic_numbers,
        crystal_index=crystal_index,
        senders=senders,
        receivers=receivers,
        edge_vectors=edge_vectors,
        edge_mask=np.arange(shape.num_edges) < edge,
        pair_index=pair_index,
        lattices=lattices,
        tiles=shape.node_tiles,
        num_views=shape.graph_views,
    )


def _collate_texts(examples: Sequence[ExampleViews], shape: BatchShape) -> TextBatch:
    texts = _texts(examples, shape)
    places = _pack([len(text.ids) for text in texts], shape.token_tiles)
    assert places is not None  # collate has checked
    rows = shape.num_examples * shape.text_views
    ids = np.zeros(shape.num_tokens, np.int32)
    positions = np.zeros(shape.num_tokens, np.int32)
    text_index = np.full(shape.num_tokens, rows, np.int32)
    first_token = np.zeros(rows, np.int32)
    lengths = np.zeros(rows, np.int32)
    with_labels = any(text.labels is not None for text in texts)
    labels = np.full(shape.num_tokens, IGNORED_LABEL, np.int32) if with_labels else None
    for row, text, place in zip(
        _rows(len(examples), shape, shape.text_views), texts, places, strict=True
    ):
        tokens = slice(place.first, place.first + len(text.ids))
        ids[tokens] = text.ids
        positions[tokens] = np.arange(len(text.ids))
        text_index[tokens] = row
        first_token[row] = place.first
        lengths[row] = len(text.ids)
        if labels is not None and text.labels is not None:
            labels[tokens] = text.labels
    return TextBatch(
        ids=ids,
        positions=positions,
        text_index=text_index,
        first_token=first_token,
        lengths=lengths,
        labels=labels,
        tiles=shape.token_tiles,
        num_views=shape.text_views,
    )
