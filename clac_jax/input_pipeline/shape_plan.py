"""Few shapes for all batches of a run: planned from simulated batches, grown when one is odd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from clac_jax.input_pipeline.batch import BatchShape, BatchShapeError, ExampleViews, misfit
from clac_jax.input_pipeline.shape_search import Needs, Sizes, padding, rounded, search

# A program more must save more than its compilation is worth:
PROGRAM_COST = 0.02  # of a batch, and
COMPILATION = 1.0  # batches in every epoch
ROOM = 1.05  # for edges in the largest planned shape, over the largest batch that was simulated
GROWTH = 1.5  # from one shape to the next larger one that nobody planned


class ShapePlan:
    """The shapes of a run's batches, smallest first.

    A batch takes the first shape that it fits. Planned are one or two that most batches
    fit, as many as save enough work, and one for nearly all. A batch that fits none of them gets a
    larger one, which later batches can use too; which shape a batch gets depends on the batch
    alone, all processes' parts of it included.
    """

    def __init__(
        self,
        sample: Sequence[ExampleViews],
        num_examples: int,
        max_tokens: int,
        atoms: np.ndarray,
        *,
        num_parts: int = 1,
        num_batches: int = 1_000_000,
        seed: int = 0,
        max_programs: int = 3,
    ):
        """Plans from a sample.

        Args:
            sample: examples with the views that batches will have, drawn at random.
            num_examples: in a part of a batch.
            max_tokens: that a text can have.
            atoms: (examples,) of all crystals of the split, one after the other as batches have
                them, once or more often.
            num_parts: of a batch that take one shape, on all devices.
            num_batches: in an epoch.
            seed: of the simulated batches.
            max_programs: shapes that are planned at most. A run compiles one more at most, but for
                outlier batches.
        """
        self._num_examples = num_examples
        self._max_tokens = max_tokens
        self._sizes = sizes = Sizes.of(sample, max_tokens, atoms)
        rng = np.random.default_rng(seed)
        batches = sizes.simulated(num_examples, num_parts, rng, atoms)
        program = PROGRAM_COST + COMPILATION / max(num_batches, 1)
        rungs = search(batches, sizes, max_programs, program)
        # What fits a smaller shape fits the largest.
        tiles = zip(*(rung.needs.node_tiles for rung in rungs), strict=True)
        self._most = replace(rungs[-1].needs, node_tiles=tuple(map(max, tiles)))
        shapes = [sizes.shape(num_examples, rung.needs) for rung in rungs[:-1]]
        shapes.append(self._grown(0))
        self.planned = tuple(dict.fromkeys(shapes))
        taken = np.argmax([rung.fits for rung in rungs], axis=0)
        self.padding_share = padding(batches, [shapes[k] for k in taken])

    def choose(self, parts: Sequence[Sequence[ExampleViews]]) -> BatchShape:
        """The smallest shape that every part (of a device, of an accumulation step) fits."""
        return self.shape(self.number_of(parts))

    def number_of(self, parts: Sequence[Sequence[ExampleViews]]) -> int:
        """The number of that shape, smallest first; the larger of two fits what either does."""
        number = len(self.planned)
        # Larger shapes are tried first, so that one which fits has none behind it that does not.
        while number > 0 and not any(misfit(part, self.planned[number - 1]) for part in parts):
            number -= 1
        if number < len(self.planned):
            return number
        largest = max(len(g.atomic_numbers) for part in parts for e in part for g in e.graphs)
        largest_tile = self._most.node_tiles[-1][0]
        if largest > largest_tile:
            raise BatchShapeError(
                f"A batch has a crystal of {largest} atoms, and shapes were planned for crystals "
                f"of up to {largest_tile}. Plan with the atoms of all crystals."
            )
        while any(misfit(part, self.shape(number)) for part in parts):
            number += 1
        return number

    def shape(self, number: int) -> BatchShape:
        """The shape of a number."""
        if number < len(self.planned):
            return self.planned[number]
        return self._grown(number - len(self.planned) + 1)

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

    def _grown(self, power: int) -> BatchShape:
        """The largest planned shape, or one for more; with tiles for any text."""
        most, factor = self._most, GROWTH**power
        *usual, (largest, rare) = most.node_tiles
        needs = Needs(
            node_tiles=(
                *((size, int(np.ceil(count * factor)) + 1) for size, count in usual),
                (largest, max(rare, self._sizes.graph_views) * 2**power),
            ),
            edges=int(np.ceil(most.edges * factor * ROOM)),
            token_tiles=int(np.ceil(most.token_tiles * factor)) + 1,
        )
        sizes = replace(self._sizes, token_tile=rounded(self._max_tokens))
        return sizes.shape(self._num_examples, needs)
