"""Digests of a run's state, computed on its devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax

from clac_jax.digests.digest import Digest
from clac_jax.training.parallel import Parallel
from clac_jax.training.state import TrainState


class StateDigests:
    """Computes the digests of a state; compiled at the first use.

    If the state is sharded over processes, each use is a collective.
    """

    def __init__(self, parallel: Parallel, template: TrainState):
        """Takes the placement of the state, and its shapes and dtypes on the host."""
        self._parallel = parallel
        self._compiled = parallel.digest(template)

    def queue(self, state: TrainState) -> Mapping[str, jax.Array]:
        """Queues the computation on the devices; the state may then be given to a step."""
        return self._compiled(state)

    def fetch(self, queued: Mapping[str, jax.Array]) -> Sequence[Mapping[str, Digest]]:
        """Waits for the result of `queue`: for each local device, part of the state -> digest."""
        return [
            {part: Digest.of_words(words) for part, words in copy.items()}
            for copy in self._parallel.copies(queued)
        ]

    def of(self, state: TrainState) -> Mapping[str, Digest]:
        """Part of the state -> digest, on the first local device."""
        return self.fetch(self.queue(state))[0]
