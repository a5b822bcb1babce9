"""A run's data: its batches and their shapes, as requested by the config."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ml_collections
import numpy as np

from clac_jax.files.huggingface import resolve_folder
from clac_jax.input_pipeline.batch import Batch, collate
from clac_jax.input_pipeline.example import ExampleViews
from clac_jax.input_pipeline.example_digest import digested
from clac_jax.input_pipeline.needs import EncoderNeeds
from clac_jax.input_pipeline.order import epoch_order, eval_rows, steps_in_epoch, train_rows
from clac_jax.input_pipeline.packing import (
    Packed,
    chunk_size,
    chunks_per_device,
    in_one_shape,
    pack_eval,
    pack_train,
)
from clac_jax.input_pipeline.prefetch import after_first, prefetched
from clac_jax.input_pipeline.sample import Sample, kept_sample
from clac_jax.input_pipeline.shape_plan import Planning, ShapePlan
from clac_jax.input_pipeline.shape_search import MAX_BATCHES
from clac_jax.input_pipeline.share import ONE_PROCESS, Share
from clac_jax.input_pipeline.splits import Splits
from clac_jax.input_pipeline.views import Drawn, draw, plain_views, train_views, view_options
from clac_jax.text.sentences import Tokenizer

# Number of examples from which the batch shapes are planned. More would not change any planned
# shape, and each one has to be read, tokenized and turned into a graph before the first step.
PLANNING_EXAMPLES = 512
# Examples in the batch that serves to find the shapes of the parameters.
EXAMPLES = 2


@dataclass(frozen=True)
class Gap:
    """Training examples that are left out from some point of a run on.

    Attributes:
        epoch: the first epoch in which they are left out.
        start: number of examples at the beginning of that epoch that are not left out.
        examples: their indices in the training split.
    """

    epoch: int
    start: int
    examples: frozenset[int]


class RunData:
    """The splits of a run and the batches drawn from them.

    Attributes:
        splits: the records of each split.
        split_sizes: number of examples by split name ("train", "validation", "test").
        steps_per_epoch: optimizer updates in a full epoch.
        vocab_size: number of tokens in the tokenizer's vocabulary.
        on_eval_batch: called for each batch that is evaluated, before it is.
        gaps: examples that are left out from some point of the training on.
    """

    def __init__(
        self, config: ml_collections.ConfigDict, needs: EncoderNeeds, share: Share = ONE_PROCESS
    ):
        """Opens the data set (building it if necessary) and plans the batch shapes.

        Args:
            config: the run's config.
            needs: requirements of the run's encoders.
            share: the share of this process; by default, the only process, with one device.

        Raises:
            UserError: the data, the tokenizer or the batch size cannot be used.
        """
        self.on_eval_batch: Callable[[], None] = lambda: None
        self.gaps: tuple[Gap, ...] = ()
        self._config = config
        self._share = share
        self._options = view_options(config, needs)
        self._per_device = share.per_device(config.batch_size)
        self._chunks = chunks_per_device(config, share)
        self._per_chunk = chunk_size(self._per_device, self._chunks or 1)
        self._eval_per_device = share.per_device(config.eval_batch_size)
        # Gradient caching does not concern evaluations, but the parts of a reproducible batch do.
        self._eval_chunks = self._chunks if config.reproducible == "layout" else None
        self._eval_per_chunk = chunk_size(self._eval_per_device, self._eval_chunks or 1)
        with share.first_goes_first("data set"):  # may have to be built
            self.splits = Splits(config.dataset, self._options.label)
        self.split_sizes = self.splits.sizes
        self._tokenizer = Tokenizer.from_folder(resolve_folder(config.text_encoder.tokenizer))
        self.vocab_size = self._tokenizer.vocab_size
        self.steps_per_epoch = steps_in_epoch(
            self.split_sizes["train"], config.batch_size * config.accumulate_steps
        )
        self._groups = order_groups(config, self.splits)
        self._train_shapes = self._plan_train()
        self._eval_shapes: dict[str, ShapePlan] = {}
        self._built_kinds: set[str] = set()
        self._started: tuple[int, frozenset[int], Iterator[Packed]] | None = None

    def start_epoch(self, epoch: int) -> None:
        """Starts to build the first batches of an epoch, for `train_batches`.

        To be called where something else is about to compute, such as a validation: on a fast
        device, the first batches of an epoch take longer than many steps. Does nothing before the
        first evaluation: threads that run Python would slow its compilation down.
        """
        if "eval" not in self._built_kinds:
            return
        left_out = self.left_out(epoch)
        self._started = epoch, left_out, self._train_parts(epoch, 0, left_out)

    def train_batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """The rest of an epoch, starting at example `start`.

        The slots of examples that are left out (`left_out`) are masked padding.

        Yields:
            Batches with leaves (devices, accumulation, ...), or (devices, accumulation, chunks,
            ...) if `config.gradient_cache_chunks` is greater than 1.
        """
        started, self._started = self._started, None
        left_out = self.left_out(epoch)  # which may have changed since
        if started is not None and started[:2] == (epoch, left_out) and start == 0:
            return in_one_shape(started[2], self._share)
        return in_one_shape(self._train_parts(epoch, start, left_out), self._share)

    def _train_parts(self, epoch: int, start: int, left_out: frozenset[int]) -> Iterator[Packed]:
        """This process's parts of the batches of the rest of an epoch."""
        build = functools.partial(self._packed, epoch, left_out.__contains__)
        return self._built("train", self._rows(epoch, start, self._share), build)

    def left_out(self, epoch: int) -> frozenset[int]:
        """The examples that `config.dataset.skip` and `gaps` leave out of an epoch."""
        skipped = {each for each in self._config.dataset.skip if each < self.split_sizes["train"]}
        for gap in self.gaps:
            if epoch > gap.epoch:
                skipped.update(gap.examples)
            elif epoch == gap.epoch:
                skipped.update(gap.examples & set(self._order(epoch)[gap.start :].tolist()))
        return frozenset(skipped)

    def parts_of_step(self, epoch: int, start: int) -> Callable[[Collection[int]], Batch]:
        """A function that makes the batch of a step with only some of its examples.

        All its batches have the shape of the step, and the slots of the other examples are empty.
        A collective; the function is not.

        Args:
            epoch: the epoch of the step.
            start: the example at which it starts.
        """
        row = self._rows(epoch, start, self._share)[0]
        left_out, own = self.left_out(epoch), frozenset(row.ravel().tolist())
        full = self._packed(epoch, left_out.__contains__, row)
        shape = full.plan.shape(int(self._share.maximum([full.number])()[0]))

        def with_only(kept: Collection[int]) -> Batch:
            out = left_out | own.difference(kept)
            return self._packed(epoch, out.__contains__, row).in_shape(shape)

        return with_only

    def train_example(self, epoch: int, index: int) -> tuple[str, ExampleViews]:
        """The name of a training example, and the views that it has in an epoch."""
        return self.splits["train"][index].material_id, self._train_views(epoch, index)

    def eval_batches(self, split: str, replace_formula: bool = False) -> Iterator[Batch]:
        """All examples of a split in order, unaugmented; leaves have shape (devices, ...).

        Args:
            split: "train", "validation" or "test".
            replace_formula: whether every formula in the texts is replaced by "material".
        """
        config = self._config
        if split not in self._eval_shapes:
            self._eval_shapes[split] = self._plan_eval(split)
        plan = self._eval_shapes[split]

        def build(indices: range) -> Packed:
            examples = [self._plain_views(split, index, replace_formula) for index in indices]
            return pack_eval(
                examples,
                plan,
                self._share.num_local_devices,
                self._eval_per_device,
                self._eval_chunks,
            )

        rows = eval_rows(self.split_sizes[split], config.eval_batch_size, self._share)
        return self._reported(in_one_shape(self._built("eval", rows, build), self._share))

    def example_batch(self) -> Batch:
        """A training batch of one device (or a chunk of it), used for the parameter shapes.

        Only a few of its slots are filled, since the initial parameters depend on none.
        """
        count = min(self._per_chunk, self.split_sizes["train"], EXAMPLES)
        examples = [self._train_views(0, index) for index in range(count)]
        return collate(examples, self._train_shapes.choose([examples]))

    def ends_epoch(self, examples_in_epoch: int) -> bool:
        """Whether no full step is left in the epoch after `examples_in_epoch` examples."""
        left = self.split_sizes["train"] - examples_in_epoch
        return bool(left < self._config.batch_size * self._config.accumulate_steps)

    def step_examples(self, epoch: int, start: int) -> np.ndarray:
        """(accumulation, batch) example indices of the step that starts at example `start`.

        They include those that are left out.
        """
        step: np.ndarray = self._rows(epoch, start, ONE_PROCESS)[0]
        return step

    def drawn(self, epoch: int, index: int) -> Drawn:
        """The views of a training example in an epoch, and how they came about.

        Raises:
            DataError, CrystalError: see `draw`.
        """
        record = self.splits["train"][int(index)]
        return draw(record, int(index), self._config.seed, epoch, self._options, self._tokenizer)

    def describe_shapes(self) -> str:
        """A description of the planned batch shapes."""
        return self._train_shapes.describe()

    def _rows(self, epoch: int, start: int, share: Share) -> np.ndarray:
        """Example indices of the rest of an epoch; see `order.train_rows`."""
        config = self._config
        return train_rows(
            self._order(epoch), start, config.batch_size, config.accumulate_steps, share
        )

    def _packed(
        self, epoch: int, is_left_out: Callable[[int], bool], micro_batches: np.ndarray
    ) -> Packed:
        """The examples of one optimizer update, packed."""
        empty = ExampleViews.left_out(self._options.with_labels)

        def examples(number: int, row: np.ndarray) -> list[ExampleViews]:
            """This process's part of an accumulated batch, given its number in the update."""
            views = [
                empty if is_left_out(index) else self._train_views(epoch, index)
                for index in row.tolist()
            ]
            if not self._config.journal.digest_every:
                return views
            first = number * self._config.batch_size + self._share.process_index * len(row)
            return [digested(example, first + slot) for slot, example in enumerate(views)]

        return pack_train(
            [examples(*each) for each in enumerate(micro_batches)],
            self._train_shapes,
            self._share.num_local_devices,
            self._per_device,
            self._chunks,
        )

    def _built(
        self, kind: str, items: Sequence[Any] | np.ndarray, build: Callable[[Any], Packed]
    ) -> Iterator[Packed]:
        """Builds batches ahead; the first ones of each kind are for a new program."""
        threads, ahead = self._config.input.num_threads, self._config.input.prefetch
        if kind in self._built_kinds:
            return prefetched(items, build, threads, ahead)
        self._built_kinds.add(kind)
        return after_first(items, build, threads, ahead)

    def _plan_train(self) -> ShapePlan:
        config = self._config
        epochs = -(-MAX_BATCHES // self.steps_per_epoch)
        return ShapePlan(
            self._sample("train", lambda index: self._train_views(0, index)),
            self._per_chunk,
            config.text_encoder.max_length,
            self._atoms("train", [self._order(epoch) for epoch in range(epochs)]),
            Planning(
                num_parts=config.accumulate_steps * config.batch_size // self._per_chunk,
                num_batches=self.steps_per_epoch,
                seed=config.seed,
                max_programs=config.input.max_batch_shapes,
            ),
        )

    def _plan_eval(self, split: str) -> ShapePlan:
        config = self._config
        return ShapePlan(
            self._sample(split, lambda index: self._plain_views(split, index, False)),
            self._eval_per_chunk,
            config.text_encoder.max_length,
            self._atoms(split, [np.arange(self.split_sizes[split])]),
            Planning(
                num_parts=config.eval_batch_size // self._eval_per_chunk,
                seed=config.seed,
                max_programs=min(2, config.input.max_batch_shapes),  # an epoch has few eval batches
            ),
        )

    def _reported(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self.on_eval_batch()
            yield batch

    def _sample(self, split: str, views: Callable[[int], ExampleViews]) -> Sample:
        """Sizes of the examples from which the shapes are planned."""
        count, seed = self.split_sizes[split], self._config.seed
        rng = np.random.default_rng(seed)
        chosen = rng.choice(count, min(count, PLANNING_EXAMPLES), replace=False)
        facts = [
            split,
            self.splits.fingerprint(split),
            repr(self._options),
            self._tokenizer.identity(),
            f"{seed} {chosen.tolist()}",
        ]
        return kept_sample(facts, lambda: [views(int(index)) for index in chosen])

    def _order(self, epoch: int) -> np.ndarray:
        """(examples,) the order of the training examples in an epoch."""
        return epoch_order(self._config.seed, epoch, self.split_sizes["train"], self._groups)

    def _atoms(self, split: str, orders: Sequence[np.ndarray]) -> np.ndarray:
        """Number of atoms of each crystal, for all these orders concatenated."""
        atoms: np.ndarray = self.splits.crystals[split].atoms[np.concatenate(orders)]
        return atoms

    def _train_views(self, epoch: int, index: int) -> ExampleViews:
        record = self.splits["train"][int(index)]
        return train_views(
            record, int(index), self._config.seed, epoch, self._options, self._tokenizer
        )

    def _plain_views(self, split: str, index: int, replace_formula: bool) -> ExampleViews:
        record = self.splits[split][int(index)]
        return plain_views(record, int(index), self._options, self._tokenizer, replace_formula)


def order_groups(config: ml_collections.ConfigDict, splits: Splits) -> np.ndarray | None:
    """(examples,) the groups of the training examples that `config.input.group_by` selects.

    Returns:
        See `epoch_order`; None for none.
    """
    group_by = config.input.group_by
    groups: np.ndarray | None = None
    if group_by != "none":
        groups = getattr(splits.crystals["train"], group_by)
    return groups
