"""Few shapes for all batches of a run: planned from simulated batches, grown when one is odd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from clac_jax.batch import BatchShape, ExampleViews, misfit
from clac_jax.shape_search import Needs, Sizes, padding, rounded, search

MAX_PROGRAMS = 4  # that a run compiles
# A program more must save more than its compilation is worth:
PROGRAM_COST = 0.02  # of a batch, and
COMPILATION = 1.0  # batches in every epoch
ROOM = 1.05  # for edges in the largest planned shape, over the largest batch that was simulated
GROWTH = 1.5  # from one shape to the next larger one that nobody planned

Size = tuple[int, int]
"""The number of a shape, smallest first, and atoms of the largest crystal where nobody planned it.
"""


class ShapePlan:
    """The shapes of a run's batches, smallest first.

    A batch takes the first shape that it fits. Planned are one to three that most batches
    fit, as many as save enough work, and one for nearly all: four at most, an odd one included. A
    batch that fits none of them gets a larger one, which later batches can use too; which shape a
    batch gets depends on the batch alone, all processes' parts of it included.
    """

    def __init__(
        self,
        sample: Sequence[ExampleViews],
        num_examples: int,
        max_tokens: int,
        atoms: np.ndarray | None = None,
        *,
        num_parts: int = 1,
        num_batches: int = 1_000_000,
        seed: int = 0,
        max_programs: int = MAX_PROGRAMS,
    ):
        """Plans from a sample.

        Args:
            sample: examples with the views that batches will have, drawn at random.
            num_examples: in a part of a batch.
            max_tokens: that a text can have.
            atoms: (examples,) of all crystals of the split, one after the other as batches have
                them (once or more often); None: not known.
            num_parts: of a batch that take one shape, on all devices.
            num_batches: in an epoch.
            seed: of the simulated batches.
            max_programs: shapes that are planned.
        """
        self._num_examples = num_examples
        self._max_atoms = 0 if atoms is None else int(atoms.max())
        self._max_tokens = max_tokens
        self._sizes = sizes = Sizes.of(sample, max_tokens, atoms)
        rng = np.random.default_rng(seed)
        batches = sizes.simulated(num_examples, num_parts, rng, atoms)
        program = PROGRAM_COST + COMPILATION / max(num_batches, 1)
        # Where larger crystals than the sample's may come, a program is left for them.
        rungs = search(batches, sizes, max_programs - (self._max_atoms == 0), program)
        # What fits a smaller shape fits the largest.
        counts = np.max([rung.needs.node_tiles for rung in rungs], axis=0)
        self._most = replace(rungs[-1].needs, node_tiles=tuple(counts.tolist()))
        shapes = [sizes.shape(num_examples, rung.needs) for rung in rungs[:-1]]
        shapes.append(self._grown(0))
        self.planned = tuple(dict.fromkeys(shapes))
        taken = np.argmax([rung.fits for rung in rungs], axis=0)
        self.padding_share = padding(batches, [shapes[k] for k in taken])

    def choose(self, parts: Sequence[Sequence[ExampleViews]]) -> BatchShape:
        """The smallest shape that every part (of a device, of an accumulation step) fits."""
        return self.shape(self.size_of(parts))

    def size_of(self, parts: Sequence[Sequence[ExampleViews]]) -> Size:
        """The size of that shape; the larger of two, elementwise, fits what either does."""
        number = len(self.planned)
        # Larger shapes are tried first, so that one which fits has none behind it that does not.
        while number > 0 and not any(misfit(part, self.planned[number - 1]) for part in parts):
            number -= 1
        if number < len(self.planned):
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
        """The largest planned shape, or one for more, with tiles for any text and such crystals."""
        most, factor = self._most, GROWTH**power
        *counts, rare = most.node_tiles
        views = self._sizes.graph_views
        needs = Needs(
            node_tiles=(
                *(int(np.ceil(count * factor)) + 1 for count in counts),
                max(rare, views) * 2**power,
            ),
            edges=int(np.ceil(most.edges * factor * ROOM)),
            token_tiles=int(np.ceil(most.token_tiles * factor)) + 1,
        )
        sizes = replace(self._sizes, token_tile=rounded(self._max_tokens))
        shape = sizes.shape(self._num_examples, needs)
        if largest_crystal <= max(sizes.node_tiles):
            return shape
        rare = -(-largest_crystal // 64) * 64, views * 2**power
        return replace(shape, node_tiles=(*shape.node_tiles, rare))
