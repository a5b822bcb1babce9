"""Search for a few shapes that suit most batches: simulates batches, drops the costliest."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clac_jax.input_pipeline.batch import BatchShape
from clac_jax.input_pipeline.example import Present
from clac_jax.input_pipeline.sample import Sample
from clac_jax.input_pipeline.tiles import Tiles, num_pairs, num_slots

# Number of simulated batches: many small ones, or fewer large ones, which vary less.
MIN_BATCHES, MAX_BATCHES = 16, 64
SIMULATED_EXAMPLES = 16_384
CANDIDATES = 20  # candidate shapes
# Candidate shares of the crystals that fit a small and a large tile; the rest get tiles of the
# largest crystal's size. The work per tile grows with the square of its size.
SMALL_TILES = (0.9, 0.95, 0.98)
LARGE_TILES = (0.99, 0.995, 0.998)
ROUNDING = 8
TEXT_MARGIN = 1.25


@dataclass(frozen=True)
class Part:
    """The sizes in one device's part of a simulated batch.

    Attributes:
        nodes: (crystals,) number of atoms per crystal, all views.
        edges: total number of edges of all crystals.
        tokens: (texts,) number of tokens per text, all views.
    """

    nodes: np.ndarray
    edges: int
    tokens: np.ndarray


@dataclass(frozen=True)
class Needs:
    """Resources that a batch needs.

    Attributes:
        node_tiles: (size, number of tiles) of the node tiles, smallest size first.
        edges: number of edge slots.
        token_tiles: number of token tiles.
    """

    node_tiles: Tiles
    edges: int
    token_tiles: int


@dataclass(frozen=True)
class Candidate:
    """A candidate shape and the simulated batches that fit it.

    Attributes:
        needs: resources of the largest of those batches.
        fits: (batches,) bool, which batches fit.
    """

    needs: Needs
    fits: np.ndarray


@dataclass(frozen=True)
class Sizes:
    """Sizes of the sampled examples, and the tile sizes that suit them.

    Attributes:
        nodes: (sample, crystal views) number of atoms.
        edges: (sample, crystal views) number of edges.
        tokens: (sample, text views) number of tokens.
        node_tiles: alternative sets of node tile sizes, each ascending.
        token_tile: size of the token tiles.
        present: which optional arrays they have.
    """

    nodes: np.ndarray
    edges: np.ndarray
    tokens: np.ndarray
    node_tiles: tuple[tuple[int, ...], ...]
    token_tile: int
    present: Present

    @classmethod
    def of(cls, sample: Sample, max_tokens: int, atoms: np.ndarray) -> Sizes:
        """Sizes of a sample; node tiles suit the crystals of the split, of sizes `atoms`."""
        small, large, all_ = (
            [rounded(max(x, 16)) for x in np.quantile(atoms, shares, method="higher")]
            for shares in (SMALL_TILES, LARGE_TILES, (1.0,))
        )
        node_tiles = {tuple(sorted(set(sizes))) for sizes in itertools.product(small, large, all_)}
        return cls(
            nodes=sample.nodes,
            edges=sample.edges,
            tokens=sample.tokens,
            node_tiles=tuple(sorted(node_tiles)),
            # With a margin over the sample: a longer text later on would need another shape.
            token_tile=min(rounded(TEXT_MARGIN * sample.tokens.max()), rounded(max_tokens)),
            present=sample.present,
        )

    @property
    def graph_views(self) -> int:
        """Number of views per crystal."""
        return int(self.nodes.shape[1])

    def simulated(
        self, num_examples: int, num_parts: int, rng: np.random.Generator, atoms: np.ndarray
    ) -> list[list[Part]]:
        """Batches of `num_parts` parts, drawn in order from crystals with these `atoms`.

        Edges and tokens come from a sampled example with the same or nearly the same atom count.
        """
        part = num_parts, num_examples
        count = min(max(SIMULATED_EXAMPLES // math.prod(part), MIN_BATCHES), MAX_BATCHES)
        # Spread over the epochs, whose first crystals may differ from their last ones.
        num_full = max(len(atoms) // math.prod(part), 1)
        nodes = np.resize(atoms, (num_full, *part))[np.arange(count) * num_full // count]
        by_size = np.argsort(self.nodes[:, 0], kind="stable")
        ascending = self.nodes[by_size, 0]
        first, last = (np.searchsorted(ascending, nodes, side) for side in ("left", "right"))
        offset = (rng.random(nodes.shape) * (last - first)).astype(int)
        chosen = by_size[np.minimum(first + offset, len(by_size) - 1)]
        nodes = np.repeat(nodes[..., None], self.graph_views, axis=-1)
        edges = self.edges[chosen] * nodes // self.nodes[chosen]
        tokens = self.tokens[chosen]
        return [
            [
                Part(nodes[b, p].ravel(), int(edges[b, p].sum()), tokens[b, p].ravel())
                for p in range(num_parts)
            ]
            for b in range(count)
        ]

    def shape(self, num_examples: int, needs: Needs) -> BatchShape:
        """A shape with the tiles and edge slots of `needs`."""
        return BatchShape(
            num_examples=num_examples,
            graph_views=self.graph_views,
            text_views=self.tokens.shape[1],
            node_tiles=tuple(tile for tile in needs.node_tiles if tile[1]),
            num_edges=max(-(-needs.edges // 256) * 256, 256),
            token_tiles=((self.token_tile, max(needs.token_tiles, 1)),),
            present=self.present,
        )


def search(
    batches: Sequence[Sequence[Part]], sizes: Sizes, max_shapes: int, program_cost: float
) -> list[Candidate]:
    """The shapes that minimize the cost of the batches, smallest first; the last fits all of them.

    Args:
        batches: simulated batches, each with one or more parts that share one shape.
        sizes: sample sizes and tile sizes.
        max_shapes: maximum number of shapes.
        program_cost: minimum saving of each additional shape, relative to an unpadded batch.
    """
    best: tuple[float, list[Candidate]] | None = None
    edges = _of_largest([[part.edges for part in batch] for batch in batches])
    token_tiles = _of_largest(
        [[_tiles_needed(part.tokens, sizes.token_tile) for part in batch] for batch in batches]
    )
    for node_tiles in sizes.node_tiles:
        packing = _Packing(batches, sizes, node_tiles, edges, token_tiles)
        candidates = packing.candidates()
        costs = np.array([packing.cost(each.needs) for each in candidates])
        shares = np.array([each.fits.mean() for each in candidates])
        largest = len(candidates) - 1
        for number in range(max_shapes):
            for smaller in itertools.combinations(range(largest), number):
                chosen = [*smaller, largest]
                cost = np.diff(shares[chosen], prepend=0) @ costs[chosen] + program_cost * len(
                    chosen
                )
                if best is None or cost < best[0]:
                    best = cost, [candidates[k] for k in chosen]
    assert best is not None
    return best[1]


class _Packing:
    """Tiles and edges that simulated batches need, for one set of tile sizes."""

    def __init__(
        self,
        batches: Sequence[Sequence[Part]],
        sizes: Sizes,
        node_tiles: tuple[int, ...],
        edges: np.ndarray,
        token_tiles: np.ndarray,
    ) -> None:
        """Packs with one set of node tile sizes; `edges` and `token_tiles` are (batches,) needs."""
        self._batches = batches
        self._node_tiles = node_tiles
        self._token_tile = sizes.token_tile
        self._known: dict[Tiles, np.ndarray] = {}
        self._edges = edges
        self._token_tiles = token_tiles
        parts = [part for batch in batches for part in batch]
        nodes = np.mean([part.nodes.sum() for part in parts])
        self._full = np.array(
            [
                nodes,
                nodes * sizes.node_tiles[0][0],
                max(np.mean([part.edges for part in parts]), 1),
                np.mean([part.tokens.sum() for part in parts]),
            ]
        )

    def candidates(self) -> list[Candidate]:
        """Shapes that fit more and more of the batches; the last fits all.

        Built from the last backwards: each removes the batches whose removal saves most per batch.
        """
        fits = np.ones(len(self._batches), bool)
        candidates = []
        while fits.any():
            candidates.append(Candidate(self._needs(fits), fits))
            now, count = self.cost(candidates[-1].needs), fits.sum()
            fewer = [left for left in self._without_largest(candidates[-1]) if left.any()]
            fits = max(
                fewer,
                key=lambda left: (now - self.cost(self._needs(left))) / (count - left.sum()),
                default=np.zeros_like(fits),
            )
        step = -(-len(candidates) // CANDIDATES)
        return candidates[::step][::-1]

    def cost(self, needs: Needs) -> float:
        """Slots of nodes, pairs of nodes, edges and tokens, each relative to an average batch."""
        slots = num_slots(needs.node_tiles), num_pairs(needs.node_tiles)
        tokens = needs.token_tiles * self._token_tile
        return float(np.mean(np.array([*slots, needs.edges, tokens]) / self._full))

    def _needs(self, fits: np.ndarray) -> Needs:
        """Element-wise maximum of the needs of the selected batches, (batches,) bool."""
        tiles: Tiles = ()
        for size in self._node_tiles[::-1]:
            tiles = ((size, int(self._more_tiles(tiles)[fits].max())), *tiles)
        return Needs(tiles, int(self._edges[fits].max()), int(self._token_tiles[fits].max()))

    def _without_largest(self, candidate: Candidate) -> list[np.ndarray]:
        """(batches,) masks: the candidate's batches without the largest, one mask per resource."""
        tiles = candidate.needs.node_tiles
        kinds = [self._more_tiles(tiles[k + 1 :]) for k in range(len(tiles))]
        return [
            candidate.fits & (kind < kind[candidate.fits].max())
            for kind in (*kinds, self._edges, self._token_tiles)
        ]

    def _more_tiles(self, larger: Tiles) -> np.ndarray:
        """(batches,) number of tiles of the next smaller size needed in addition to `larger`."""
        if larger not in self._known:
            below, size = (0, *self._node_tiles)[-len(larger) - 2 :][:2]
            self._known[larger] = _of_largest(
                [
                    [_tiles_needed(part.nodes[part.nodes > below], size, larger) for part in batch]
                    for batch in self._batches
                ]
            )
        return self._known[larger]


def _of_largest(need: list[list[int]]) -> np.ndarray:
    """(batches, parts) -> (batches,): a batch needs what its largest part needs."""
    return np.array([max(parts) for parts in need])


def padding(
    batches: Sequence[Sequence[Part]], taken: Sequence[BatchShape]
) -> tuple[float, float, float]:
    """Mean share of atom, edge and token slots left empty in the shapes that the batches use."""
    parts = [part for batch in batches for part in batch]
    full = (
        sum(part.nodes.sum() for part in parts),
        sum(part.edges for part in parts),
        sum(part.tokens.sum() for part in parts),
    )
    slots = np.sum([(s.num_nodes, s.num_edges, s.num_tokens) for s in taken], axis=0)
    nodes, edges, tokens = 1 - np.array(full) / (slots * len(batches[0]))
    return float(nodes), float(edges), float(tokens)


def rounded(size: float) -> int:
    """The size rounded up to a valid tile size."""
    return int(-(-size // ROUNDING) * ROUNDING)


def _tiles_needed(lengths: np.ndarray, size: int, existing: Tiles = ()) -> int:
    """Tiles of a size that best-fit packing adds to those of `existing`, largest sequence first.

    Sequences that fit neither are skipped.
    """
    free = sorted(size for size, count in existing for _ in range(count))
    opened = 0
    for length in sorted(lengths.tolist(), reverse=True):
        fitting = bisect_left(free, length)
        if fitting < len(free):
            insort(free, free.pop(fitting) - length)
        elif length <= size:
            insort(free, size - length)
            opened += 1
    return opened
