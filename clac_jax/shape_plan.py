"""Few shapes for all batches of a run: planned from a sample of examples, grown when one is odd."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from clac_jax.batch import BatchShape, ExampleViews, misfit

SIMULATED_BATCHES = 64
# The share of batches that each of some shapes is made for; a program more must save more places
# than its compilation is worth.
LADDERS = ((0.95,), (0.7, 0.97), (0.5, 0.8, 0.97))
PROGRAM_COST = 0.02  # of the places of a batch, and
COMPILATION = 2.0  # batches more in every epoch
NODE_TILE_SHARE = 0.98  # of the crystals fit the smaller node tile
GROWTH = 1.5  # from one shape to the next larger one that nobody planned
ROUNDING = 8
TEXT_MARGIN = 1.25
RARE_CRYSTALS = 1  # that are larger than any in the sample, in one batch

Size = tuple[int, int]
"""The number of a shape, smallest first, and atoms of the largest crystal where nobody planned it.
"""


class ShapePlan:
    """The shapes of a run's batches, smallest first.

    A batch takes the first shape that it fits. Planned are one to three that most batches
    fit, as many as leave enough fewer places empty, and one for nearly all: four at most, an odd
    one included. A batch that fits none of them gets a larger one, which later batches can use too;
    which shape a batch gets depends on the batch alone, all processes' parts of it included.
    """

    def __init__(
        self,
        sample: Sequence[ExampleViews],
        num_examples: int,
        max_tokens: int,
        max_atoms: int = 0,
        seed: int = 0,
        num_batches: int = 1_000_000,
        ladders: Sequence[tuple[float, ...]] = LADDERS,
    ):
        """Plans from a sample.

        Args:
            sample: examples with the views that batches will have, drawn at random.
            num_examples: in a batch.
            max_tokens: that a text can have.
            max_atoms: of the largest crystal, where it is known.
            seed: of the simulated batches.
            num_batches: in an epoch.
            ladders: to choose from: the share of batches that each shape but the last is made for.
        """
        sizes = _Sizes(sample, max_tokens)
        rng = np.random.default_rng(seed)
        needs = np.array(
            [sizes.needs(rng.choice(len(sample), num_examples)) for _ in range(SIMULATED_BATCHES)]
        )
        self._sizes = sizes
        self._num_examples = num_examples
        self._most = needs.max(axis=0)
        self._max_atoms = max_atoms
        roomy = self._grown(0, 0)
        plans = []
        # Where larger crystals than the sample's may come, a program is left for them.
        for ladder in [x for x in ladders if max_atoms or len(x) < 3]:
            rungs = np.quantile(needs, ladder, axis=0, method="higher")
            shapes = [*(sizes.shape(num_examples, rung) for rung in rungs), roomy]
            fits = np.all(needs[:, None, :] <= rungs, axis=2)
            taken = np.where(fits.any(axis=1), fits.argmax(axis=1), len(rungs))
            padding = sizes.padding(needs, [shapes[k] for k in taken], num_examples)
            program = PROGRAM_COST + COMPILATION / max(num_batches, 1)
            cost = np.mean(padding) + program * len(shapes)
            plans.append((cost, tuple(dict.fromkeys(shapes)), padding))
        _, self.planned, self.padding_share = min(plans, key=lambda plan: plan[0])

    def choose(self, parts: Sequence[Sequence[ExampleViews]]) -> BatchShape:
        """The smallest shape that every part (of a device, of an accumulation step) fits."""
        return self.shape(self.size_of(parts))

    def size_of(self, parts: Sequence[Sequence[ExampleViews]]) -> Size:
        """The size of that shape; the larger of two, elementwise, fits what either does."""
        for number, shape in enumerate(self.planned):
            if all(misfit(part, shape) is None for part in parts):
                return number, 0
        largest_crystal = max(
            (len(g.atomic_numbers) for part in parts for e in part for g in e.graphs), default=1
        )
        # All crystals up to the largest known have one tile; beyond it sizes are few, too.
        known = largest_crystal <= self._max_atoms
        largest_crystal = 0 if known else 1 << (largest_crystal - 1).bit_length()
        number = len(self.planned)
        while any(misfit(part, self.shape((number, largest_crystal))) for part in parts):
            number += 1
        return number, largest_crystal

    def shape(self, size: Size) -> BatchShape:
        """The shape of a size."""
        number, largest_crystal = size
        if number < len(self.planned):
            return self.planned[number]
        return self._grown(number - len(self.planned) + 1, largest_crystal)

    def describe(self) -> str:
        """The planned shapes and how much of a batch is padding on average, in words."""
        shapes = "; ".join(
            f"{s.num_nodes} atoms, {s.num_edges} edges, {s.num_tokens} tokens" for s in self.planned
        )
        nodes, edges, tokens = self.padding_share
        return (
            f"{shapes} (padding: {nodes:.0%} of the atoms, {edges:.0%} of the edges, "
            f"{tokens:.0%} of the tokens)"
        )

    def _grown(self, power: int, largest_crystal: int = 0) -> BatchShape:
        largest_crystal = max(largest_crystal, self._max_atoms)
        sizes = self._sizes.with_room_for(largest_crystal, RARE_CRYSTALS * 2**power)
        needs = np.ceil(self._most * GROWTH**power + (1, 1, 0, 1))
        return sizes.shape(self._num_examples, needs)


class _Sizes:
    """Atoms, edges and tokens of a sample, and the tiles that suit them."""

    def __init__(self, sample: Sequence[ExampleViews], max_tokens: int):
        self.nodes = np.array([[len(g.atomic_numbers) for g in e.graphs] for e in sample])
        self.edges = np.array([[len(g.senders) for g in e.graphs] for e in sample])
        self.tokens = np.array([[len(t.ids) for t in e.tokens] for e in sample])
        # A tile of one size for nearly all crystals; the few larger ones have tiles of their own,
        # since the work in a tile grows with the square of its size.
        self.small_tile = _rounded(max(np.quantile(self.nodes, NODE_TILE_SHARE), 16))
        self.large_tile = max(_rounded(self.nodes.max()), self.small_tile)
        self.rare_tile = self.rare_count = 0
        # With a margin over the sample: a longer text that comes later would need another shape.
        self.token_tile = min(_rounded(TEXT_MARGIN * self.tokens.max()), _rounded(max_tokens))
        self._max_tokens = max_tokens
        self.labelled = sample[0].label is not None

    def with_room_for(self, largest_crystal: int, count: int) -> _Sizes:
        """The same with tiles for any text and for such crystals, in coarse steps of size."""
        roomy = copy.copy(self)
        roomy.token_tile = _rounded(self._max_tokens)
        if largest_crystal > self.large_tile:
            roomy.rare_tile = -(-largest_crystal // 64) * 64
            roomy.rare_count = count
        return roomy

    def needs(self, chosen: np.ndarray) -> tuple[int, int, int, int]:
        """(small node tiles, large node tiles, edges, token tiles) for some of the sample."""
        nodes = self.nodes[chosen].ravel()
        large = nodes[nodes > self.small_tile]
        return (
            _tiles_needed(nodes[nodes <= self.small_tile], self.small_tile),
            _tiles_needed(large, self.large_tile),
            int(self.edges[chosen].sum()),
            _tiles_needed(self.tokens[chosen].ravel(), self.token_tile),
        )

    def shape(self, num_examples: int, needs: np.ndarray) -> BatchShape:
        """A shape with so many tiles and edges."""
        small, large, edges, tokens = (int(need) for need in needs)
        node_tiles = [(self.small_tile, small), (self.large_tile, large)]
        if self.small_tile == self.large_tile:
            node_tiles = [(self.small_tile, small + large)]
        if self.rare_tile:
            node_tiles.append((self.rare_tile, self.rare_count * self.nodes.shape[1]))
        return BatchShape(
            num_examples=num_examples,
            graph_views=self.nodes.shape[1],
            text_views=self.tokens.shape[1],
            node_tiles=tuple(tile for tile in node_tiles if tile[1]),
            num_edges=max(-(-edges // 256) * 256, 256),
            token_tiles=((self.token_tile, max(tokens, 1)),),
            labelled=self.labelled,
        )

    def padding(
        self, needs: np.ndarray, taken: Sequence[BatchShape], num_examples: int
    ) -> tuple[float, float, float]:
        """Mean share of atom, edge and token places that stay empty in the shapes taken."""

        def share(full: float, places: Sequence[int]) -> float:
            return max(0.0, 1 - full / float(np.mean(places)))

        return (
            share(self.nodes.sum(axis=1).mean() * num_examples, [s.num_nodes for s in taken]),
            share(needs[:, 2].mean(), [s.num_edges for s in taken]),
            share(self.tokens.sum(axis=1).mean() * num_examples, [s.num_tokens for s in taken]),
        )


def _rounded(size: float) -> int:
    return int(-(-size // ROUNDING) * ROUNDING)


def _tiles_needed(sizes: np.ndarray, tile: int) -> int:
    """Tiles that best-fit packing, largest first, opens for sequences of these sizes."""
    room: list[int] = []
    for size in sorted(sizes.tolist(), reverse=True):
        fitting = [(left, k) for k, left in enumerate(room) if left >= size]
        if fitting:
            room[min(fitting)[1]] -= size
        else:
            room.append(tile - size)
    return len(room)
