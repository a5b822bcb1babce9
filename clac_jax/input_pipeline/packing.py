"""Packing of examples into the arrays of one step, with device, batch and chunk axes first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import jax
import ml_collections
import numpy as np

from clac_jax.errors import ConfigError
from clac_jax.input_pipeline.batch import Batch, BatchShape, collate
from clac_jax.input_pipeline.example import ExampleViews
from clac_jax.input_pipeline.shape_plan import ShapePlan
from clac_jax.input_pipeline.share import Answer, Share


@dataclass(frozen=True)
class Packed:
    """This process's part of a batch.

    Attributes:
        plan: shape plan of the run.
        number: number of the smallest shape that fits this part, see `ShapePlan.number_of`.
        in_shape: packs the part into a given shape.
        batch: the part, packed into the shape it needs.
    """

    plan: ShapePlan
    number: int
    in_shape: Callable[[BatchShape], Batch]
    batch: Batch

    @classmethod
    def from_parts(
        cls,
        plan: ShapePlan,
        parts: Sequence[Sequence[ExampleViews]],
        in_shape: Callable[[BatchShape], Batch],
    ) -> Packed:
        """Packs parts (per device or accumulation step) into the smallest shape that fits all."""
        number = plan.number_of(parts)
        return cls(plan, number, in_shape, in_shape(plan.shape(number)))


def pack_train(
    micro_batches: Sequence[Sequence[ExampleViews]],
    plan: ShapePlan,
    num_devices: int,
    per_device: int,
    num_chunks: int | None = None,
) -> Packed:
    """Packs the examples of one optimizer update.

    Args:
        micro_batches: this process's examples of each accumulated batch.
        plan: shape plan for a device's part, or for a chunk of it.
        num_devices: number of local devices.
        per_device: examples of each accumulated batch per device.
        num_chunks: equal chunks of a device's part, for gradient caching; None for no such axis.

    Returns:
        A batch whose leaves have leading axes (devices, accumulation), or (devices, accumulation,
        chunks).
    """
    per_chunk = per_device // (num_chunks or 1)
    parts = [_sliced(examples, per_device, num_devices) for examples in micro_batches]
    chunks = [chunk for row in parts for part in row for chunk in _in_chunks(part, per_chunk)]

    def pack(part: Sequence[ExampleViews], shape: BatchShape) -> Batch:
        if num_chunks is None:
            return collate(part, shape)
        return stacked([collate(chunk, shape) for chunk in _in_chunks(part, per_chunk)])

    def in_shape(shape: BatchShape) -> Batch:
        by_device = zip(*parts, strict=True)
        return stacked([stacked([pack(part, shape) for part in row]) for row in by_device])

    return Packed.from_parts(plan, chunks, in_shape)


def pack_eval(
    examples: Sequence[ExampleViews],
    plan: ShapePlan,
    num_devices: int,
    per_device: int,
    num_chunks: int | None = None,
) -> Packed:
    """Packs this process's examples of an evaluation batch.

    Arguments as for `pack_train`; leaves are (devices, ...), or (devices, chunks, ...).
    """
    count = num_devices * (num_chunks or 1)
    parts = _sliced(examples, per_device // (num_chunks or 1), count)

    def in_shape(shape: BatchShape) -> Batch:
        batch = stacked([collate(part, shape) for part in parts])
        if num_chunks is None:
            return batch
        split = (num_devices, num_chunks)
        in_chunks: Batch = jax.tree.map(lambda leaf: leaf.reshape(*split, *leaf.shape[1:]), batch)
        return in_chunks

    return Packed.from_parts(plan, parts, in_shape)


def in_one_shape(parts: Iterator[Packed], share: Share) -> Iterator[Batch]:
    """The batches, each in the shape needed by the process with the largest part.

    A step is one program on all devices, so all parts of a batch must have the same shape. The
    processes agree on the shape one batch ahead; few batches have to be packed a second time.
    """
    previous: tuple[Packed, Answer] | None = None

    def agreed(part: Packed, answer: Answer) -> Batch:
        number = int(answer()[0])
        return part.batch if number == part.number else part.in_shape(part.plan.shape(number))

    for part in parts:
        if share.num_processes == 1:
            yield part.batch
            continue
        current = part, share.maximum([part.number])
        if previous is not None:
            yield agreed(*previous)
        previous = current
    if previous is not None:
        yield agreed(*previous)


def stacked(batches: Sequence[Batch]) -> Batch:
    """Batches of equal shape stacked along a new leading axis."""
    batch: Batch = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
    return batch


def chunks_per_device(config: ml_collections.ConfigDict, share: Share) -> int | None:
    """The number of chunks in which a device encodes its part of a batch; None for no chunks.

    Raises:
        ConfigError: the parts of a reproducible batch cannot be split evenly over the devices.
    """
    if config.reproducible != "layout":
        return config.gradient_cache_chunks if config.gradient_cache_chunks > 1 else None
    parts, devices = config.layout_parts, share.num_devices
    if parts % devices:
        raise ConfigError(
            f'With reproducible="layout", the {parts} parts of a batch cannot be split evenly over '
            f"{devices} devices. Use a number of devices that divides {parts}, or set layout_parts "
            "to a multiple of it; that changes the bits."
        )
    return int(parts // devices)


def chunk_size(per_device: int, num_chunks: int) -> int:
    """The number of examples per chunk if each device encodes its part in `num_chunks` chunks.

    Raises:
        ConfigError: a device's examples cannot be split evenly into that many chunks.
    """
    if per_device % num_chunks:
        fitting = ", ".join(str(n) for n in range(1, per_device + 1) if per_device % n == 0)
        raise ConfigError(
            f"The {per_device} examples that each device gets of a batch cannot be split evenly "
            f"into gradient_cache_chunks = {num_chunks}. Use one of {fitting}, or another "
            "batch_size."
        )
    return per_device // num_chunks


def _sliced(
    examples: Sequence[ExampleViews], size: int, count: int
) -> list[Sequence[ExampleViews]]:
    """The examples in `count` slices; the last slices may be short or empty."""
    return [examples[number * size : (number + 1) * size] for number in range(count)]


def _in_chunks(examples: Sequence[ExampleViews], size: int) -> list[Sequence[ExampleViews]]:
    """A device's examples in slices of equal size."""
    return [examples[first : first + size] for first in range(0, len(examples), size)]
