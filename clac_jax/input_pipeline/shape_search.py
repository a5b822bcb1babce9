"""Which few shapes suit most batches: simulates batches and drops the ones that cost the most."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clac_jax.input_pipeline.batch import BatchShape, ExampleViews, Tiles, num_pairs, num_places

# Batches that are simulated: many small ones, fewer large ones, which vary less.
MIN_BATCHES, MAX_BATCHES = 16, 64
SIMULATED_EXAMPLES = 16_384
CANDIDATES = 20  # shapes to choose from
# Shares of the crystals that a small and a large tile may be made for; the rest have tiles of the
# largest one's size. The work in a tile grows with the square of its size.
SMALL_TILES = (0.9, 0.95, 0.98)
LARGE_TILES = (0.99, 0.995, 0.998)
ROUNDING = 8
TEXT_MARGIN = 1.25


@dataclass(frozen=True)
class Part:
    """The sizes in one device's part of a simulated batch.

    Attributes:
        nodes: (crystals,) atoms of each, all views.
        edges: of all crystals.
        tokens: (texts,) of each, all views.
    """

    nodes: np.ndarray
    edges: int
    tokens: np.ndarray


@dataclass(frozen=True)
class Needs:
    """What a batch needs.

    Attributes:
        node_tiles: (size, number of tiles) of nodes, smallest size first.
        edges: places of edges.
        token_tiles: tiles of tokens.
    """

    node_tiles: Tiles
    edges: int
    token_tiles: int


@dataclass(frozen=True)
class Rung:
    """A shape to choose, and the simulated batches it is made for.

    Attributes:
        needs: of the largest of them.
        fits: (batches,) bool.
    """

    needs: Needs
    fits: np.ndarray


@dataclass(frozen=True)
class Sizes:
    """What is known of the examples, and the tiles that suit them.

    Attributes:
        nodes: (sample, crystal views) atoms.
        edges: likewise.
        tokens: (sample, text views).
        node_tiles: sizes that the tiles of nodes may have, ascending: sets of them, to choose from.
        token_tile: size of the tiles of tokens.
        labelled: whether a property is learned.
    """

    nodes: np.ndarray
    edges: np.ndarray
    tokens: np.ndarray
    node_tiles: tuple[tuple[int, ...], ...]
    token_tile: int
    labelled: bool

    @classmethod
    def of(cls, sample: Sequence[ExampleViews], max_tokens: int, atoms: np.ndarray) -> Sizes:
        """Those of a sample, in tiles of nodes that suit all crystals, which have these `atoms`."""
        nodes = np.array([[len(g.atomic_numbers) for g in e.graphs] for e in sample])
        tokens = np.array([[len(t.ids) for t in e.tokens] for e in sample])
        small, large, all_ = (
            [rounded(max(x, 16)) for x in np.quantile(atoms, shares, method="higher")]
            for shares in (SMALL_TILES, LARGE_TILES, (1.0,))
        )
        node_tiles = {tuple(sorted(set(sizes))) for sizes in itertools.product(small, large, all_)}
        return cls(
            nodes=nodes,
            edges=np.array([[len(g.senders) for g in e.graphs] for e in sample]),
            tokens=tokens,
            node_tiles=tuple(sorted(node_tiles)),
            # With a margin over the sample: a longer text, later, would need another shape.
            token_tile=min(rounded(TEXT_MARGIN * tokens.max()), rounded(max_tokens)),
            labelled=sample[0].label is not None,
        )

    @property
    def graph_views(self) -> int:
        """Views of each crystal."""
        return int(self.nodes.shape[1])

    def simulated(
        self, num_examples: int, num_parts: int, rng: np.random.Generator, atoms: np.ndarray
    ) -> list[list[Part]]:
        """Batches of so many parts, of crystals with these `atoms`, one after the other.

        Edges and tokens are those of an example of the sample with as many atoms, or nearly.
        """
        part = num_parts, num_examples
        count = min(max(SIMULATED_EXAMPLES // math.prod(part), MIN_BATCHES), MAX_BATCHES)
        # Spread over the epochs, which may begin with other crystals than they end with.
        whole = max(len(atoms) // math.prod(part), 1)
        nodes = np.resize(atoms, (whole, *part))[np.arange(count) * whole // count]
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
        """A shape with so many tiles and edges."""
        return BatchShape(
            num_examples=num_examples,
            graph_views=self.graph_views,
            text_views=self.tokens.shape[1],
            node_tiles=tuple(tile for tile in needs.node_tiles if tile[1]),
            num_edges=max(-(-needs.edges // 256) * 256, 256),
            token_tiles=((self.token_tile, max(needs.token_tiles, 1)),),
            labelled=self.labelled,
        )


def search(
    batches: Sequence[Sequence[Part]], sizes: Sizes, max_rungs: int, rung_cost: float
) -> list[Rung]:
    """The shapes that cost the batches least, smallest first; the last fits all of them.

    Args:
        batches: simulated, each of one or several parts that take one shape.
        sizes: of the tiles.
        max_rungs: as many at most.
        rung_cost: what one more must save, as a share of the work on a batch without padding.
    """
    best: tuple[float, list[Rung]] | None = None
    edges = _of_largest([[part.edges for part in batch] for batch in batches])
    token_tiles = _of_largest(
        [[_tiles_needed(part.tokens, sizes.token_tile) for part in batch] for batch in batches]
    )
    for node_tiles in sizes.node_tiles:
        packing = _Packing(batches, sizes, node_tiles, edges, token_tiles)
        candidates = packing.candidates()
        costs = np.array([packing.cost(rung.needs) for rung in candidates])
        shares = np.array([rung.fits.mean() for rung in candidates])
        largest = len(candidates) - 1
        for number in range(max_rungs):
            for smaller in itertools.combinations(range(largest), number):
                chosen = [*smaller, largest]
                cost = np.diff(shares[chosen], prepend=0) @ costs[chosen] + rung_cost * len(chosen)
                if best is None or cost < best[0]:
                    best = cost, [candidates[k] for k in chosen]
    assert best is not None
    return best[1]


class _Packing:
    """What simulated batches need of each size of tile."""

    def __init__(
        self,
        batches: Sequence[Sequence[Part]],
        sizes: Sizes,
        node_tiles: tuple[int, ...],
        edges: np.ndarray,
        token_tiles: np.ndarray,
    ) -> None:
        """For one set of sizes of node tiles; `edges` and `token_tiles`, (batches,), are needed."""
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

    def candidates(self) -> list[Rung]:
        """Shapes for more and more of the batches, the last for all.

        Found from the last: the batches whose absence saves most, for each of them, are left out.
        """
        fits = np.ones(len(self._batches), bool)
        rungs = []
        while fits.any():
            rungs.append(Rung(self._needs(fits), fits))
            now, count = self.cost(rungs[-1].needs), fits.sum()
            fewer = [left for left in self._without_largest(rungs[-1]) if left.any()]
            fits = max(
                fewer,
                key=lambda left: (now - self.cost(self._needs(left))) / (count - left.sum()),
                default=np.zeros_like(fits),
            )
        step = -(-len(rungs) // CANDIDATES)
        return rungs[::step][::-1]

    def cost(self, needs: Needs) -> float:
        """Places of nodes, pairs of nodes, edges and tokens, each relative to a mean batch."""
        places = num_places(needs.node_tiles), num_pairs(needs.node_tiles)
        tokens = needs.token_tiles * self._token_tile
        return float(np.mean(np.array([*places, needs.edges, tokens]) / self._full))

    def _needs(self, fits: np.ndarray) -> Needs:
        """What the largest of some batches need."""
        tiles: Tiles = ()
        for size in self._node_tiles[::-1]:
            tiles = ((size, int(self._more_tiles(tiles)[fits].max())), *tiles)
        return Needs(tiles, int(self._edges[fits].max()), int(self._token_tiles[fits].max()))

    def _without_largest(self, rung: Rung) -> list[np.ndarray]:
        """The batches of a rung but those which need the most of one kind: (batches,) bool each."""
        tiles = rung.needs.node_tiles
        kinds = [self._more_tiles(tiles[k + 1 :]) for k in range(len(tiles))]
        return [
            rung.fits & (kind < kind[rung.fits].max())
            for kind in (*kinds, self._edges, self._token_tiles)
        ]

    def _more_tiles(self, larger: Tiles) -> np.ndarray:
        """(batches,) tiles of the next smaller size that are needed beside these larger ones."""
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
    """(batches, parts) -> (batches,): a batch needs what its largest part does."""
    return np.asarray(np.max(need, axis=1))


def padding(
    batches: Sequence[Sequence[Part]], taken: Sequence[BatchShape]
) -> tuple[float, float, float]:
    """Mean share of atom, edge and token places that stay empty in the shapes that batches take."""
    parts = [part for batch in batches for part in batch]
    full = (
        sum(part.nodes.sum() for part in parts),
        sum(part.edges for part in parts),
        sum(part.tokens.sum() for part in parts),
    )
    places = np.sum([(s.num_nodes, s.num_edges, s.num_tokens) for s in taken], axis=0)
    nodes, edges, tokens = 1 - np.array(full) / (places * len(batches[0]))
    return float(nodes), float(edges), float(tokens)


def rounded(size: float) -> int:
    """Up to a size that a tile has."""
    return int(-(-size // ROUNDING) * ROUNDING)


def _tiles_needed(lengths: np.ndarray, size: int, beside: Tiles = ()) -> int:
    """Tiles of a size that best-fit packing opens beside others, largest sequence first.

    What fits neither is left out.
    """
    room = sorted(size for size, count in beside for _ in range(count))
    opened = 0
    for length in sorted(lengths.tolist(), reverse=True):
        fitting = bisect_left(room, length)
        if fitting < len(room):
            insort(room, room.pop(fitting) - length)
        elif length <= size:
            insort(room, size - length)
            opened += 1
    return opened
