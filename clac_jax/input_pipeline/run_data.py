"""A run's data: splits, views and batches as its config asks for them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import jax
import ml_collections
import numpy as np

from clac_jax import datasets
from clac_jax.datasets.crystal_table import CrystalTable
from clac_jax.datasets.record import DataError, Record
from clac_jax.distributed import processes
from clac_jax.files.huggingface import resolve_folder
from clac_jax.input_pipeline import pipeline as input_pipeline
from clac_jax.input_pipeline.batch import Batch, BatchShape, ExampleViews, collate
from clac_jax.input_pipeline.labels import CRYSTAL_SYSTEM, CRYSTAL_SYSTEMS, Labelled, label_of
from clac_jax.input_pipeline.needs import EncoderNeeds
from clac_jax.input_pipeline.pipeline import ViewOptions
from clac_jax.input_pipeline.shape_plan import ShapePlan
from clac_jax.input_pipeline.shape_search import MAX_BATCHES
from clac_jax.text.sentences import Tokenizer
from clac_jax.training import parallel
from clac_jax.training.progress import RunProgress
from clac_jax.training.schedules import Timeline, timeline_of

# Examples whose sizes the shapes of the batches are planned from.
PLANNING_EXAMPLES = 512


def view_options(config: ml_collections.ConfigDict, needs: EncoderNeeds) -> ViewOptions:
    """The config's views of a training example, as its encoders need them."""
    masks = config.lm_weight > 0 or config.augment.mask_prob > 0
    is_property = config.task == "property"
    return ViewOptions(
        cutoff=needs.cutoff,
        max_neighbours=needs.max_neighbours,
        max_length=config.text_encoder.max_length,
        text_source=config.dataset.text_source,
        graph_views=1 + (config.use_visual_intramodal_loss and not is_property),
        text_views=1 + (config.use_textual_intramodal_loss and not is_property),
        perturb_law=config.augment.perturb_law,
        strain_law=config.augment.strain_law,
        max_strain=config.augment.max_strain,
        max_compression=config.augment.max_compression,
        sentence_keep_prob=config.augment.sentence_keep_prob,
        drop_in_single_text_view=config.augment.drop_in_single_text_view,
        mask_prob=config.augment.mask_prob if masks else 0.0,
        with_labels=config.lm_weight > 0,
        causal=needs.causal,
        replace_formula_prob=config.replace_formula_prob,
        replace_formula_start_epoch=config.replace_formula_start_epoch,
        label=config.property.name if is_property else "",
    )


class RunData:
    """The splits of a run and the batches it takes from them.

    Attributes:
        split_sizes: examples by split name ("train", "validation", "test").
        steps_per_epoch: optimizer updates in a whole epoch.
        vocab_size: of the tokenizer.
        num_unlabelled: examples left out because the property that is learned is not known.
    """

    def __init__(self, config: ml_collections.ConfigDict, needs: EncoderNeeds):
        """Opens the data set (building it if need be) and plans the shapes of the batches.

        Raises:
            UserError: the data, the tokenizer or the batch size cannot be used.
        """
        self._config = config
        self.num_unlabelled = 0
        self._options = view_options(config, needs)
        self._per_device = parallel.check_batch_size(config.batch_size)
        self._num_chunks = config.gradient_cache_chunks
        self._per_chunk = parallel.check_chunks(self._per_device, self._num_chunks)
        self._eval_per_device = parallel.check_batch_size(config.eval_batch_size)
        with processes.first_goes_first("data set"):  # which it may have to build
            self._splits = {split: self._open(split) for split in ("train", "validation", "test")}
        self.split_sizes = {name: len(records) for name, records in self._splits.items()}
        self._tokenizer = Tokenizer.from_folder(resolve_folder(config.text_encoder.tokenizer))
        self.vocab_size = self._tokenizer.vocab_size
        self.steps_per_epoch = input_pipeline.steps_in_epoch(
            self.split_sizes["train"], config.batch_size * config.accumulate_steps
        )
        self._crystals = {
            split: CrystalTable.of(records) for split, records in self._splits.items()
        }
        group_by = config.input.group_by
        self._groups = None if group_by == "none" else getattr(self._crystals["train"], group_by)
        epochs = -(-MAX_BATCHES // self.steps_per_epoch)
        self._train_shapes = ShapePlan(
            [self._train_views(0, index) for index in self._sample("train")],
            self._per_chunk,
            config.text_encoder.max_length,
            self._atoms("train", [self._order(epoch) for epoch in range(epochs)]),
            num_parts=config.accumulate_steps * config.batch_size // self._per_chunk,
            num_batches=self.steps_per_epoch,
            seed=config.seed,
            max_programs=config.input.max_batch_shapes,
        )
        self._eval_shapes: dict[str, ShapePlan] = {}

    def _open(self, split: str) -> Sequence[Record]:
        config, label = self._config.dataset, self._options.label
        options = datasets.TableOptions(
            config.on_bad_row, config.split_by, label, config.on_formula_mismatch
        )
        records = datasets.load(config.name, config.data_dir, split, config.path, options)
        if label:
            records = Labelled(records, label)
            self.num_unlabelled += records.num_dropped
        return input_pipeline.limited(records, config.max_examples)

    def fingerprint(self, split: str) -> str:
        """Of the content and the order of the examples that this run takes from a split.

        Hexadecimal. It is the same wherever the same data are prepared, and another one with
        another `dataset.max_examples` or another label, if they change which examples are taken.
        """
        return self._crystals[split].fingerprint()

    def train_labels(self) -> np.ndarray:
        """(examples,) float64: the labels of the training split."""
        return np.array([label_of(record, self._options.label) for record in self._splits["train"]])

    def num_classes(self) -> int:
        """Classes of a property whose labels are 0, 1, 2, ...

        Raises:
            DataError: a label is something else.
        """
        if self._options.label == CRYSTAL_SYSTEM:
            return len(CRYSTAL_SYSTEMS)
        labels = self.train_labels()
        if np.any(labels < 0) or np.any(labels != np.round(labels)):
            raise DataError(
                f"The property {self._options.label!r} is not a class: its values are not 0, 1, 2, "
                "... Set config.property.kind=regression."
            )
        return int(labels.max()) + 1

    def train_batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """The rest of an epoch from its example `start`.

        Yields:
            Batches with leaves (devices, accumulation, ...), or (devices, accumulation, chunks,
            ...) where `config.gradient_cache_chunks` is more than 1.
        """
        config = self._config
        packed = input_pipeline.train_batches(
            functools.partial(self._train_views, epoch),
            self._pack_train,
            self._order(epoch),
            start,
            config.batch_size,
            config.accumulate_steps,
            jax.process_index(),
            jax.process_count(),
            config.input.num_threads,
            config.input.prefetch,
        )
        return _in_one_shape(packed)

    def eval_batches(self, split: str, replace_formula: bool = False) -> Iterator[Batch]:
        """A whole split in order, plain crystals and full texts: leaves (devices, ...)."""
        config = self._config
        if split not in self._eval_shapes:
            self._eval_shapes[split] = ShapePlan(
                [self._plain_views(split, index, False) for index in self._sample(split)],
                self._eval_per_device,
                config.text_encoder.max_length,
                self._atoms(split, [np.arange(self.split_sizes[split])]),
                num_parts=config.eval_batch_size // self._eval_per_device,
                seed=config.seed,
                max_programs=min(2, config.input.max_batch_shapes),  # an epoch has few such batches
            )
        plan = self._eval_shapes[split]

        def pack(examples: list[ExampleViews]) -> Packed:
            parts = _divide(examples, self._eval_per_device)

            def in_shape(shape: BatchShape) -> Batch:
                return parallel.stack_devices([collate(part, shape) for part in parts])

            return Packed.from_parts(plan, parts, in_shape)

        packed = input_pipeline.eval_batches(
            lambda index: self._plain_views(split, index, replace_formula),
            pack,
            self.split_sizes[split],
            config.eval_batch_size,
            jax.process_index(),
            jax.process_count(),
            config.input.num_threads,
            config.input.prefetch,
        )
        return _in_one_shape(packed)

    def example_batch(self) -> Batch:
        """One device's training batch or a chunk of it, for the shapes of the parameters."""
        count = min(self._per_chunk, self.split_sizes["train"])
        examples = [self._train_views(0, index) for index in range(count)]
        return collate(examples, self._train_shapes.choose([examples]))

    def timeline(self, progress: RunProgress) -> Timeline:
        """The optimizer steps of the run, seen from a position in it."""
        return timeline_of(self._config, self.split_sizes["train"], progress)

    def ends_epoch(self, progress: RunProgress) -> bool:
        """Whether no whole step of the epoch is left."""
        left = self.split_sizes["train"] - progress.examples_in_epoch
        return bool(left < self._config.batch_size * self._config.accumulate_steps)

    def describe_shapes(self) -> str:
        """The planned batch shapes in words."""
        return self._train_shapes.describe()

    def _sample(self, split: str) -> np.ndarray:
        """Indices of the examples whose sizes the shapes are planned from."""
        count = self.split_sizes[split]
        rng = np.random.default_rng(self._config.seed)
        return rng.choice(count, min(count, PLANNING_EXAMPLES), replace=False)

    def _order(self, epoch: int) -> np.ndarray:
        """(examples,) the order of the training examples in an epoch."""
        return input_pipeline.epoch_order(
            self._config.seed, epoch, self.split_sizes["train"], self._groups
        )

    def _atoms(self, split: str, orders: Sequence[np.ndarray]) -> np.ndarray:
        """Atoms of all crystals in these orders, one after the other."""
        return np.take(self._crystals[split].atoms, np.concatenate(orders))

    def _train_views(self, epoch: int, index: int) -> ExampleViews:
        return input_pipeline.train_views(
            self._splits["train"][int(index)],
            int(index),
            self._config.seed,
            epoch,
            self._options,
            self._tokenizer,
        )

    def _plain_views(self, split: str, index: int, replace_formula: bool) -> ExampleViews:
        return input_pipeline.plain_views(
            self._splits[split][int(index)],
            int(index),
            self._options,
            self._tokenizer,
            replace_formula,
        )

    def _pack_train(self, micro_batches: list[list[ExampleViews]]) -> Packed:
        parts = [_divide(examples, self._per_device) for examples in micro_batches]
        chunks = [c for row in parts for part in row for c in _in_chunks(part, self._per_chunk)]

        def pack(part: Sequence[ExampleViews], shape: BatchShape) -> Batch:
            if self._num_chunks == 1:
                return collate(part, shape)
            packed = [collate(chunk, shape) for chunk in _in_chunks(part, self._per_chunk)]
            chunked: Batch = jax.tree.map(lambda *leaves: np.stack(leaves), *packed)
            return chunked

        def in_shape(shape: BatchShape) -> Batch:
            by_device = zip(*parts, strict=True)
            return parallel.stack([[pack(part, shape) for part in row] for row in by_device])

        return Packed.from_parts(self._train_shapes, chunks, in_shape)


@dataclass(frozen=True)
class Packed:
    """This process's part of a batch.

    Attributes:
        plan: of the shapes.
        number: of the shape that the part needs.
        in_shape: packs it into a shape.
        batch: it, in the shape it needs.
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
        """Packs parts (of a device, of an accumulation step) into the shape that they need."""
        number = plan.number_of(parts)
        return cls(plan, number, in_shape, in_shape(plan.shape(number)))


def _in_one_shape(parts: Iterator[Packed]) -> Iterator[Batch]:
    """The batches, each in the shape that the process with the largest part of it needs.

    A step is one program on all devices, so all parts of a batch have one shape. The processes
    agree on it one batch ahead; few batches are packed a second time.
    """
    asked: tuple[Packed, processes.Answer] | None = None

    def agreed(part: Packed, answer: processes.Answer) -> Batch:
        number = int(answer()[0])
        return part.batch if number == part.number else part.in_shape(part.plan.shape(number))

    for part in parts:
        if not processes.are_several():
            yield part.batch
            continue
        ahead = part, processes.maximum([part.number])
        if asked is not None:
            yield agreed(*asked)
        asked = ahead
    if asked is not None:
        yield agreed(*asked)


def _divide(examples: Sequence[ExampleViews], per_device: int) -> list[Sequence[ExampleViews]]:
    """This process's examples, in slices for its devices; the last ones may be short or empty."""
    return [
        examples[device * per_device : (device + 1) * per_device]
        for device in range(jax.local_device_count())
    ]


def _in_chunks(examples: Sequence[ExampleViews], size: int) -> list[Sequence[ExampleViews]]:
    """A device's examples in slices of equal size."""
    return [examples[first : first + size] for first in range(0, len(examples), size)]
