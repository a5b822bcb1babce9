"""Steps whose bits do not depend on how many devices and processes share a batch.

Floating-point addition is not associative, so the order of every sum has to be the same for every
layout; and XLA fuses and rewrites the same code differently in programs for different numbers of
devices. So a batch always consists of the same number of parts, whichever devices hold them, and

- everything that is computed is computed by programs for one device, which are the same in every
  layout: a part's features, the loss of the full batch (on every device), a part's gradient, the
  sum of two gradients, the update;
- programs for several devices only move bits.

The gradients of the parts are added along a binary tree: first those of one device in pairs and
pairs of pairs, then those of different devices at the next levels of the same tree.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clac_jax.input_pipeline.batch import Batch
from clac_jax.training.gradients import BatchGradient, GradientFunction
from clac_jax.training.losses import Loss
from clac_jax.training.parallel import Pmap
from clac_jax.training.state import TrainState
from clac_jax.training.step import (
    AXIS,
    EvalStep,
    TrainStep,
    digest_terms,
    digests_of_batch,
    make_update,
)


class FixedOrder(Pmap):
    """Like `Pmap`, every local device holds a copy of the state; the steps are those above."""

    def train(
        self, trainable: Any, schedule: optax.Schedule, loss: Loss, digests: bool = False
    ) -> TrainStep:
        """See `Parallel.train`. The leaves of a batch start with (devices, accumulation, parts)."""
        return _Step(self, trainable, schedule, loss, digests)

    def evaluate(self, eval_step: Callable[..., Any]) -> Callable[..., Any]:
        """See `Parallel.evaluate`. The leaves of a batch start with (devices, parts)."""
        if isinstance(eval_step, EvalStep):
            return _Evaluation(self, eval_step)
        return super().evaluate(eval_step)

    def on_all(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Maps a function with collectives over all devices: it may move bits, or add integers."""
        mapped: Callable[[Any], Any] = jax.pmap(function, axis_name=AXIS, devices=self._given)
        return mapped

    def by_device(self, tree: Any) -> list[Any]:
        """The inverse of `joined`: arrays on all devices -> the shards of each local device."""
        leaves, structure = jax.tree.flatten(tree)
        order = {device: row for row, device in enumerate(self.local_devices)}
        rows: list[list[Any]] = [[] for _ in order]
        for leaf in leaves:
            for shard in leaf.addressable_shards:
                rows[order[shard.device]].append(shard.data)
        return [jax.tree.unflatten(structure, row) for row in rows]


class _Step:
    """One training step: (state, batch) -> (state, metrics).

    The arrays of one device, in lists over the local devices, have a leading axis of length 1, as
    the shards of `Pmap`'s arrays do.
    """

    def __init__(
        self, on: FixedOrder, trainable: Any, schedule: optax.Schedule, loss: Loss, digests: bool
    ):
        """Takes the placement; other arguments as for `Parallel.train`."""
        self._on, self._trainable, self._loss, self._digests = on, trainable, loss, digests
        self._encode = jax.jit(self._encode_part)
        self._stack = jax.jit(_stacked)
        self._gradient_of_loss = jax.jit(self._differentiate_loss)
        self._gradient_of_part = jax.jit(self._differentiate_part)
        self._add = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b), donate_argnums=(0,))
        self._update = jax.jit(self._updated, donate_argnums=0)
        self._gather = on.on_all(_gathered)
        self._swap = functools.cache(lambda distance: on.on_all(_swap(distance)))
        # Sums of integers, which are exact in any order.
        self._sum_digests = on.on_all(lambda words: digests_of_batch(words, AXIS))
        self._apply = make_update(schedule)

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        """See `TrainStep`."""
        on = self._on
        states = on.by_device(state)
        stats = [each.batch_stats for each in states]
        grads: list[Any] = []
        terms: list[list[Any]] = [[] for _ in states]
        for number in range(batch.example_mask.shape[1]):
            more, stats, found = self._micro_batch(states, stats, batch, number)
            grads = list(map(self._add, grads, more)) if grads else more
            for so_far, new in zip(terms, found, strict=True):
                so_far.append(new)
        words: Sequence[Any] = [None] * len(states)
        if self._digests and batch.digests is not None:
            words = on.by_device(self._sum_digests(batch.digests))
        done = list(map(self._update, states, grads, stats, terms, words))
        for leaf in jax.tree.leaves(state):
            leaf.delete()  # its buffers were donated
        return on.joined([after for after, _ in done]), on.joined([metrics for _, metrics in done])

    def _micro_batch(
        self, states: Sequence[TrainState], stats: Sequence[Any], batch: Batch, number: int
    ) -> tuple[list[Any], list[Any], list[dict[str, jax.Array]]]:
        """By device: the gradient of one accumulated batch, the batch statistics, and the terms."""
        on = self._on
        index = np.int32(number)
        parts = [
            [_on(device, batch, (row, number, part)) for part in range(batch.example_mask.shape[2])]
            for row, device in enumerate(on.local_devices)
        ]
        encoded = [
            self._stack(*(self._encode(state, stat, part, index) for part in own))
            for state, stat, own in zip(states, stats, parts, strict=True)
        ]
        examples = [
            self._stack(*((part.example_mask, part.example_index) for part in own)) for own in parts
        ]
        together = on.joined(list(zip(encoded, examples, strict=True)))
        everywhere = on.by_device(self._gather(together))
        losses = [
            self._gradient_of_loss(state, stat, all_parts, own[0], index)
            for state, stat, all_parts, own in zip(states, stats, everywhere, parts, strict=True)
        ]
        first = jax.process_index() * len(parts) * len(parts[0])
        sums = []
        for row, own in enumerate(parts):
            start = first + row * len(own)
            of_part = functools.partial(
                self._gradient_of_part, states[row], stats[row], losses[row][1], index
            )
            sums.append(self._summed(of_part, own, start))
        distance = 1
        while distance < jax.device_count():
            others = on.by_device(self._swap(distance)(on.joined(sums)))
            sums = list(map(self._add, sums, others))
            distance *= 2
        # The gradients of the heads are complete on every device.
        grads = [self._add(total, found[0]) for total, found in zip(sums, losses, strict=True)]
        return grads, [found[2] for found in losses], [found[3] for found in losses]

    def _updated(
        self, state: TrainState, grads: Any, stats: Any, terms: Sequence[Any], words: Any
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """The state after the update, and the metrics; `terms` are those of each micro-batch."""
        state, grads, stats, terms, words = _first((state, grads, stats, terms, words))
        if (count := len(terms)) > 1:
            grads = jax.tree.map(lambda leaf: leaf / count, grads)
        mean = jax.tree.map(lambda *leaves: jnp.mean(jnp.stack(leaves)), *terms)
        if self._digests:
            mean = {**mean, **digest_terms(grads, self._trainable, words)}
        after: tuple[TrainState, dict[str, jax.Array]] = _with_axis(
            self._apply(state, BatchGradient(grads, stats, mean))
        )
        return after

    def _summed(self, of_part: Callable[..., Any], parts: Sequence[Batch], start: int) -> Any:
        """The sum over a power of two of parts, the first being part `start` of the batch."""
        if len(parts) == 1:
            return of_part(parts[0], np.int32(start))
        half = len(parts) // 2
        left = self._summed(of_part, parts[:half], start)
        return self._add(left, self._summed(of_part, parts[half:], start + half))

    def _function(self, state: TrainState) -> GradientFunction:
        return GradientFunction(state.apply_fn, self._loss, self._trainable, axis_name=None)

    def _encode_part(self, state: TrainState, stats: Any, part: Batch, index: jax.Array) -> Any:
        state, stats = _first((state, stats))
        key = jax.random.fold_in(state.step_key(), index)
        return self._function(state).encode(state.params, stats, part, key)

    def _differentiate_loss(
        self, state: TrainState, stats: Any, all_parts: Any, part: Batch, index: jax.Array
    ) -> Any:
        state, stats, (encoded, (mask, examples)) = _first((state, stats, all_parts))
        key = jax.random.fold_in(state.step_key(), index)
        full = dataclasses.replace(part, example_mask=mask, example_index=examples)
        found = self._function(state).of_features(state.params, stats, encoded, full, key)
        return _with_axis(found)

    def _differentiate_part(
        self,
        state: TrainState,
        stats: Any,
        of_features: Any,
        index: jax.Array,
        part: Batch,
        number: jax.Array,
    ) -> Any:
        state, stats, of_features = _first((state, stats, of_features))
        key = jax.random.fold_in(state.step_key(), index)
        own = jax.tree.map(lambda leaf: leaf[number], of_features)
        return _with_axis(self._function(state).of_chunk(state.params, stats, part, own, key))


class _Evaluation:
    """One evaluation step: (state, batch) -> the result, the same on every device."""

    def __init__(self, on: FixedOrder, step: EvalStep):
        """Each part goes through `step.forward`; `step.measure` is mapped over all parts."""
        self._on = on

        def forward(state: TrainState, part: Batch) -> Any:
            return step.forward(_first(state), part)

        def measure(results: Any) -> Any:
            found = jax.vmap(step.measure, axis_name=AXIS)(_first(results))
            return _with_axis(_first(found))  # the same for each part

        self._forward, self._measure = jax.jit(forward), jax.jit(measure)
        self._stack = jax.jit(_stacked)
        self._gather = on.on_all(_gathered)

    def __call__(self, state: TrainState, batch: Batch) -> Any:
        """See `Parallel.evaluate`."""
        on = self._on
        count = batch.example_mask.shape[1]
        model = state.replace(opt_state=())
        own = [
            self._stack(
                *(self._forward(each, _on(device, batch, (row, part))) for part in range(count))
            )
            for row, (device, each) in enumerate(
                zip(on.local_devices, on.by_device(model), strict=True)
            )
        ]
        return on.joined(list(map(self._measure, on.by_device(self._gather(on.joined(own))))))


def _stacked(*trees: Any) -> Any:
    """Trees of the parts of a device -> one tree, with their axis after that of the device."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves)[None], *trees)


def _gathered(tree: Any) -> Any:
    """(parts of this device, ...) -> (all parts, ...) on every device, in order."""
    return jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, AXIS, tiled=True), tree)


def _swap(distance: int) -> Callable[[Any], Any]:
    """Exchanges trees between devices whose numbers differ by the bit `distance`."""
    pairs = [(device, device ^ distance) for device in range(jax.device_count())]

    def swap(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.lax.ppermute(leaf, AXIS, pairs), tree)

    return swap


def _on(device: jax.Device, batch: Batch, where: tuple[int, ...]) -> Batch:
    """One part of a host batch, on a device."""
    part: Batch = jax.device_put(jax.tree.map(lambda leaf: leaf[where], batch), device)
    return part


def _first(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], tree)


def _with_axis(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[None], tree)
