"""Inputs of any number and size in batches, on all local devices."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clac_jax.crystals.crystal import Crystal
from clac_jax.crystals.descriptors import CELL_NUMBERS, SITE_NUMBERS, Descriptors
from clac_jax.crystals.elements import MAX_ATOMIC_NUMBER
from clac_jax.crystals.graph import CrystalGraph
from clac_jax.crystals.objects import is_ase, is_pymatgen
from clac_jax.inference.errors import InputError
from clac_jax.input_pipeline.batch import Batch, BatchShape, collate
from clac_jax.input_pipeline.example import ExampleViews, TokenView

_BATCH = 32  # crystals or texts per batch and device; fewer if they are large:
MAX_ATOM_PAIRS = _BATCH * 64**2  # pairs of atoms in a tile, per batch
MAX_TOKEN_PAIRS = _BATCH * 256**2  # per batch; attention heads need less memory per pair
MAX_ATOMS = 4096  # the encoders hold some hundred bytes per pair of atoms, so 5 to 15 GB
_WINDOW = 1024  # crystals or texts read at a time, to be sorted by size; two windows are held
_BAR_AFTER = 3.0  # seconds until a progress bar appears

# Placeholders for the other input when only crystals or only texts are encoded.
NO_TEXT = TokenView(
    np.zeros(1, np.int32),
    numbers=np.full(1, np.nan, np.float32),
    composition=np.zeros((2, MAX_ATOMIC_NUMBER + 1), np.float32),
)
NO_CRYSTAL = CrystalGraph(
    atomic_numbers=np.ones(1, np.int32),
    senders=np.zeros(0, np.int32),
    receivers=np.zeros(0, np.int32),
    edge_vectors=np.zeros((0, 3), np.float32),
    lattice=np.eye(3, dtype=np.float32),
    descriptors=Descriptors(
        0, np.ones(CELL_NUMBERS, np.float32), np.ones((1, SITE_NUMBERS), np.float32)
    ),
)

OnBatch = Callable[[Any, Batch], jax.Array]
"""(variables, batch of one device) -> rows, one per example."""


@dataclass(frozen=True)
class Work:
    """The computation for each input, and how large its batches may be.

    Attributes:
        views_of: (index, input) -> the example as the model sees it; raises `InputError`.
        size_of: number of atoms or tokens of an example.
        max_pairs: most pairs of atoms or tokens in the tiles of one batch.
        compute: batches of equal shape, one per device -> (devices * rows, ...).
        row_shape: shape of the result for one input.
    """

    views_of: Callable[[int, Any], ExampleViews]
    size_of: Callable[[ExampleViews], int]
    max_pairs: int
    compute: Callable[[Sequence[Batch]], jax.Array]
    row_shape: tuple[int, ...]


class Devices:
    """All local devices, each with a copy of a model's variables.

    Attributes:
        mesh: the devices, along one axis.
        count: number of devices.
        variables: the variables, replicated.
    """

    def __init__(self, variables: Mapping[str, Any]):
        """Copies the variables to every local device."""
        self.mesh = Mesh(np.array(jax.local_devices()), ("devices",))
        self.count = self.mesh.size
        self.variables: dict[str, Any] = jax.device_put(
            dict(variables), NamedSharding(self.mesh, PartitionSpec())
        )

    def compile(self, function: OnBatch) -> Program:
        """Compiles a function for batches on each device."""
        return Program(self, function)


class Program:
    """A function of one batch per device, compiled once for each shape of batches."""

    def __init__(self, devices: Devices, function: OnBatch):
        """Compiles nothing yet."""
        self._devices = devices
        self._jitted: Any = jax.jit(function)
        if devices.count > 1:

            def on_each(variables: Any, batch: Batch) -> jax.Array:
                return function(variables, jax.tree.map(lambda leaf: leaf[0], batch))

            split = PartitionSpec(devices.mesh.axis_names)
            self._jitted = jax.jit(
                jax.shard_map(
                    on_each,
                    mesh=devices.mesh,
                    in_specs=(PartitionSpec(), split),
                    out_specs=split,
                    check_vma=False,
                )
            )

    def __call__(self, batches: Sequence[Batch]) -> jax.Array:
        """The rows of all batches, one batch per device and all of the same shape."""
        if self._devices.count == 1:
            rows: jax.Array = self._jitted(self._devices.variables, batches[0])
            return rows
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
        rows = self._jitted(self._devices.variables, stacked)
        return rows

    @property
    def num_compiled(self) -> int:
        """Number of shapes that it has been compiled for."""
        return int(self._jitted._cache_size())


def is_single(value: Any) -> bool:
    """Whether this is one crystal or text and not a collection of them."""
    return (
        isinstance(value, str | bytes | os.PathLike | Crystal | Mapping)
        or is_pymatgen(value)
        or is_ase(value)
    )


def check_listed(values: Any, what: str) -> None:
    """Rejects a single value; `what` names the values in the message.

    Raises:
        InputError: a single value was given instead of a list.
    """
    # An array of no dimension is iterable by its type only.
    if is_single(values) or not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0:
        raise InputError(f"The {what} must be a list. Give one, even for a single one: [...].")


def in_batches(
    values: Iterable[Any],
    what: str,
    work: Work,
    on_bad: Callable[[InputError], None] | None = None,
    progress: bool = True,
) -> np.ndarray:
    """The results for all values, in their order; values are read and held by windows.

    Args:
        values: list, generator, or any other iterable.
        what: names the values in messages and in the progress bar.
        work: what to compute for each.
        on_bad: called with the error of each value that cannot be used, whose row becomes NaN;
            None: the error is raised.
        progress: whether a bar may be drawn: after a few seconds, if the standard error is a
            terminal.

    Returns:
        (n, *row_shape) float32.

    Raises:
        InputError: it is a single value or none, or one of them cannot be used.
    """
    check_listed(values, what)
    source = iter(values)
    finished: list[np.ndarray] = []
    pending: _Window | None = None
    count = 0
    with _bar(values, what, progress) as advance:
        while chunk := list(itertools.islice(source, _WINDOW)):
            # Devices compute while the next window is read: only then are results waited for.
            window = _Window(chunk, count, work, on_bad)
            if pending is not None:
                finished.append(pending.rows(advance))
            pending = window
            count += len(chunk)
        if pending is None:
            raise InputError(f"The list of {what} is empty. Give at least one.")
        finished.append(pending.rows(advance))
    return np.concatenate(finished)


class _Window:
    """Some consecutive values, whose computation has been started."""

    def __init__(
        self,
        values: list[Any],
        start: int,
        work: Work,
        on_bad: Callable[[InputError], None] | None,
    ):
        self._start, self._count, self._work = start, len(values), work
        self._on_bad = on_bad
        views = []
        for index, value in enumerate(values, start):
            try:
                views.append(work.views_of(index, value))
            except InputError as error:
                if on_bad is None:
                    raise
                on_bad(error)
        views.sort(key=work.size_of)
        self._started = []
        for parts, rows, shape in _grouped(views, work):
            with _no_memory(parts, work):
                computed = work.compute([collate(part, shape) for part in parts])
            self._started.append((parts, rows, computed))

    def rows(self, advance: Callable[[int], Any]) -> np.ndarray:
        """Waits for the results; NaN for values without one.

        Raises:
            InputError: a result is not finite, and there is no `on_bad`.
        """
        result = np.full((self._count, *self._work.row_shape), np.nan, np.float32)
        done = self._count - sum(len(part) for parts, _, _ in self._started for part in parts)
        for parts, rows, computed in self._started:
            advance(done)
            with _no_memory(parts, self._work):
                by_part = np.asarray(computed).reshape(len(parts), rows, *self._work.row_shape)
            for part, of_part in zip(parts, by_part, strict=True):
                for example, row in zip(part, of_part, strict=False):  # the rest is padding
                    if np.isfinite(row).all():
                        result[example.index - self._start] = row
                        continue
                    error = InputError(
                        f"The model gives NaN or infinity for input {example.index}, which is "
                        "valid: this is a fault of the model. Use another, or leave the input out."
                    )
                    if self._on_bad is None:
                        raise error
                    self._on_bad(error)
            done = sum(map(len, parts))
        advance(done)
        return result


@contextlib.contextmanager
def _no_memory(parts: Sequence[Sequence[ExampleViews]], work: Work) -> Iterator[None]:
    """Names the largest input of a batch for which a device has not enough memory.

    Raises:
        InputError: there is not enough memory.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        largest = max((example for part in parts for example in part), key=work.size_of)
        raise InputError(
            f"There is not enough memory for input {largest.index} and those computed with it; its "
            f"size is {work.size_of(largest):,} atoms or tokens. Free memory, or leave it out."
        ) from error


def _grouped(
    views: Sequence[ExampleViews], work: Work
) -> Iterator[tuple[list[list[ExampleViews]], int, BatchShape]]:
    """Splits examples, in ascending order of size, into the batches that are computed together.

    Yields:
        The examples of each device, the rows of each batch, and the shape of all of them.
    """
    devices = jax.local_device_count()

    def rows(example: ExampleViews) -> int:
        return max(1, min(_BATCH, work.max_pairs // step_of(work.size_of(example)) ** 2))

    def divided(
        group: list[ExampleViews],
    ) -> tuple[list[list[ExampleViews]], int, BatchShape]:
        parts = [group[k::devices] for k in range(devices)]
        count = 1 if len(parts[0]) == 1 else rows(group[-1])
        return parts, count, shape_of(parts, count)

    group: list[ExampleViews] = []
    for example in views:
        if len(group) >= devices * rows(example):
            yield divided(group)
            group = []
        group.append(example)
    if group:
        yield divided(group)


def shape_of(parts: Sequence[Sequence[ExampleViews]], rows: int) -> BatchShape:
    """A batch shape with one tile per row; sizes are rounded up so that few shapes occur."""
    examples = [example for part in parts for example in part]
    atoms = step_of(max(len(example.graphs[0].atomic_numbers) for example in examples))
    tokens = step_of(max(len(example.tokens[0].ids) for example in examples))
    edges = max(sum(len(example.graphs[0].senders) for example in part) for part in parts)
    return BatchShape(
        num_examples=rows,
        graph_views=1,
        text_views=1,
        node_tiles=((atoms, rows),),
        num_edges=max(2048, 1 << (edges - 1).bit_length()),
        token_tiles=((tokens, rows),),
        present=examples[0].present,
    )


def step_of(size: int, smallest: int = 16) -> int:
    """The size rounded up to 1, 1.5, 2, 3, 4, 6, 8, ... times `smallest`, a power of 2."""
    step = smallest
    while step < size:
        step = step * 3 // 2 if step & (step - 1) == 0 else step * 4 // 3
    return step


@contextlib.contextmanager
def _bar(values: Any, what: str, progress: bool) -> Iterator[Callable[[int], Any]]:
    """A progress bar as a context; entering it gives the function that advances it."""
    if not (progress and sys.stderr.isatty()):
        yield lambda count: None
        return
    from tqdm import tqdm

    total = len(values) if hasattr(values, "__len__") else None
    with tqdm(total=total, desc=what, delay=_BAR_AFTER, dynamic_ncols=True) as bar:
        yield bar.update
