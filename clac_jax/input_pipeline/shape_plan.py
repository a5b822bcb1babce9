"""A few shapes for all batches of a run: planned from simulated batches, enlarged for outliers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from clac_jax.input_pipeline.batch import BatchShape, BatchShapeError, misfit
from clac_jax.input_pipeline.example import ExampleViews
from clac_jax.input_pipeline.sample import Sample
from clac_jax.input_pipeline.shape_search import Needs, Sizes, padding, rounded, search

# An additional program must save more than its compilation costs:
PROGRAM_COST = 0.02  # fraction of a batch, plus
COMPILATION = 1.0  # batches, spread over one epoch
MARGIN = 1.05  # edge slots of the largest planned shape, relative to the largest simulated batch
GROWTH = 1.5  # size ratio of successive unplanned shapes


@dataclass(frozen=True)
class Planning:
    """Settings of the shape planning.

    Attributes:
        num_parts: parts of a batch that share one shape, over all devices.
        num_batches: batches per epoch; in a short epoch, fewer shapes are worth their compilation.
        seed: seed of the simulated batches.
        max_programs: maximum number of planned shapes. A run compiles at most one more, apart from
            those for outlier batches.
    """

    num_parts: int = 1
    num_batches: int = 1_000_000
    seed: int = 0
    max_programs: int = 3


PLANNING = Planning()


class ShapePlan:
    """The shapes of a run's batches, smallest first.

    A batch takes the first shape that it fits. The plan has one or two shapes that fit most
    batches (another is added only if it saves enough work) and one that fits nearly all. A batch
    that fits none of them gets a larger shape, which later batches can also use. The shape of a
    batch depends only on that batch, including the parts held by other processes.
    """

    def __init__(
        self,
        sample: Sample,
        num_examples: int,
        max_tokens: int,
        atoms: np.ndarray,
        planning: Planning = PLANNING,
    ):
        """Plans the shapes from a sample of examples.

        Args:
            sample: sizes of randomly drawn examples with the views that batches will have.
            num_examples: number of examples in one part of a batch.
            max_tokens: maximum number of tokens in a text.
            atoms: (examples,) number of atoms of every crystal in the split, in the order in which
                batches draw them; several epochs may be concatenated.
            planning: settings for batches of several parts, short epochs, or fewer shapes.
        """
        self._num_examples = num_examples
        self._max_tokens = max_tokens
        self._sizes = sizes = Sizes.of(sample, max_tokens, atoms)
        rng = np.random.default_rng(planning.seed)
        batches = sizes.simulated(num_examples, planning.num_parts, rng, atoms)
        program_cost = PROGRAM_COST + COMPILATION / max(planning.num_batches, 1)
        chosen = search(batches, sizes, planning.max_programs, program_cost)
        # Anything that fits a smaller shape must also fit the largest.
        tiles = zip(*(each.needs.node_tiles for each in chosen), strict=True)
        self._most = replace(chosen[-1].needs, node_tiles=tuple(map(max, tiles)))
        shapes = [sizes.shape(num_examples, each.needs) for each in chosen[:-1]]
        shapes.append(self._grown(0))
        self.planned = tuple(dict.fromkeys(shapes))
        taken = np.argmax([each.fits for each in chosen], axis=0)
        self.padding_share = padding(batches, [shapes[k] for k in taken])

    def choose(self, parts: Sequence[Sequence[ExampleViews]]) -> BatchShape:
        """The smallest shape that fits every part (per device or accumulation step)."""
        return self.shape(self.number_of(parts))

    def number_of(self, parts: Sequence[Sequence[ExampleViews]]) -> int:
        """The number of that shape, smallest first; the larger of two fits both batches."""
        number = len(self.planned)
        # Try larger shapes first, so that no shape above the chosen one fails to fit.
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
        """The shape with a given number."""
        if number < len(self.planned):
            return self.planned[number]
        return self._grown(number - len(self.planned) + 1)

    def describe(self) -> str:
        """A description of the planned shapes and the average share of padding in a batch."""
        shapes = "; ".join(
            f"{s.num_nodes} atoms, {s.num_edges} edges, {s.num_tokens} tokens" for s in self.planned
        )
        nodes, edges, tokens = self.padding_share
        return (
            f"{shapes} (padding: {nodes:.0%} of the atoms, {edges:.0%} of the edges, "
            f"{tokens:.0%} of the tokens)"
        )

    def _grown(self, power: int) -> BatchShape:
        """The largest planned shape, or one enlarged `power` times; its tiles fit any text."""
        most, factor = self._most, GROWTH**power
        *usual, (largest, rare) = most.node_tiles
        needs = Needs(
            node_tiles=(
                *((size, int(np.ceil(count * factor)) + 1) for size, count in usual),
                (largest, max(rare, self._sizes.graph_views) * 2**power),
            ),
            edges=int(np.ceil(most.edges * factor * MARGIN)),
            token_tiles=int(np.ceil(most.token_tiles * factor)) + 1,
        )
        sizes = replace(self._sizes, token_tile=rounded(self._max_tokens))
        return sizes.shape(self._num_examples, needs)
