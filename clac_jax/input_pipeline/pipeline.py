"""Records to batches: order and views are pure functions of (seed, epoch, example index)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np

from clac_jax.config.schema import ConfigError
from clac_jax.crystals.augment import perturb, strain
from clac_jax.crystals.crystal import Crystal
from clac_jax.crystals.graph import CrystalGraph, build_graph
from clac_jax.datasets.crystal_table import CrystalTable
from clac_jax.datasets.record import DataError, Record, shortened
from clac_jax.errors import UserError
from clac_jax.input_pipeline.batch import ExampleViews, TokenView
from clac_jax.input_pipeline.labels import label_of
from clac_jax.text.formula import replace_formulas
from clac_jax.text.sentences import IGNORED_LABEL, Tokenizer, split_sentences, text_view

FORMULA_WORD = "material"
NO_TEXT = TokenView(np.zeros(1, np.int32))  # of an example whose text nobody reads

# What a generator is for, as the last part of its seed: each view draws from its own stream, so
# that switching one augmentation leaves the others as they were.
_ORDER, _CRYSTAL, _TEXT = 0, 1, 3


@dataclass(frozen=True)
class ViewOptions:
    """How an example becomes views.

    Attributes:
        cutoff: of the graph, angstrom.
        max_neighbours: nearest incoming edges kept per atom; 0 keeps all.
        max_length: tokens of a text, special tokens included.
        text_source: "narratives" or "papers".
        graph_views: 2, or 1 for the plain crystal alone.
        text_views: 2, or 1 for the full text alone.
        perturb_law: of crystal view 1, see `augment.perturb`.
        strain_law: of crystal view 2, see `augment.strain`.
        max_strain: of the same.
        max_compression: of the same.
        sentence_keep_prob: see `text.text_view`.
        drop_in_single_text_view: whether sentences are dropped and shuffled also where there is
            only one text view; the reference then takes the full text.
        mask_prob: share of tokens masked in training.
        with_labels: whether masked tokens become labels of a language-model loss.
        causal: for a decoder: nothing is masked, and every token but the first is a label.
        replace_formula_prob: chance that a text view reads "material" for every formula.
        replace_formula_start_epoch: the first epoch in which that happens.
        label: name of the property that is learned; there are no texts then. "": none is.
    """

    cutoff: float
    max_neighbours: int = 0
    max_length: int = 128
    text_source: str = "narratives"
    graph_views: int = 2
    text_views: int = 2
    perturb_law: str = "bounded"
    strain_law: str = "axial"
    max_strain: float = 0.05
    max_compression: float = 0.0
    sentence_keep_prob: float = 0.5
    drop_in_single_text_view: bool = False
    mask_prob: float = 0.15
    with_labels: bool = False
    causal: bool = False
    replace_formula_prob: float = 0.0
    replace_formula_start_epoch: int = 0
    label: str = ""


def epoch_order(
    seed: int, epoch: int, num_examples: int, groups: np.ndarray | None = None
) -> np.ndarray:
    """(num_examples,) int64: the order of the examples in an epoch.

    Args:
        seed: of the run.
        epoch: its number.
        num_examples: of the split.
        groups: (num_examples,) integers; examples of equal number follow each other, from where the
            first of them would have come. None shuffles the examples freely.
    """
    shuffled = np.random.default_rng((seed, epoch, _ORDER)).permutation(num_examples)
    if groups is None:
        return shuffled
    # Large groups tend to come first so, which did no harm: docs/performance.md.
    _, first, group = np.unique(groups[shuffled], return_index=True, return_inverse=True)
    return shuffled[np.argsort(first[group], kind="stable")]


def steps_in_epoch(num_examples: int, examples_per_step: int, start: int = 0) -> int:
    """Optimizer updates from example `start` of an epoch to its end; the remainder is left out.

    Raises:
        ConfigError: not even one step fits into the split.
    """
    if examples_per_step > num_examples:
        raise ConfigError(
            f"An optimizer step takes {examples_per_step} examples (batch_size x accumulate_steps) "
            f"but the training split has only {num_examples}. Use a smaller batch_size."
        )
    return (num_examples - start) // examples_per_step


def train_views(
    record: Record, index: int, seed: int, epoch: int, options: ViewOptions, tokenizer: Tokenizer
) -> ExampleViews:
    """The random views of one training example; a pure function of its arguments.

    Raises:
        DataError: the record cannot be used; names it.
    """

    def generator(stream: int) -> np.random.Generator:
        return np.random.default_rng((seed, epoch, stream, index))

    def text(view: int) -> TokenView:
        if options.label:
            return NO_TEXT
        rng = generator(_TEXT + view)
        words = record.text_of(options.text_source, rng)
        if options.text_views == 2 or options.drop_in_single_text_view:
            words = text_view(split_sentences(words), rng, options.sentence_keep_prob)
        replaced = rng.uniform() < options.replace_formula_prob
        if replaced and epoch >= options.replace_formula_start_epoch:
            words = without_formulas(words, record)
        ids = tokenizer.encode(words, options.max_length)
        labels = None
        if options.causal:
            labels = np.concatenate([[IGNORED_LABEL], ids[1:]]).astype(np.int32)
        elif options.mask_prob:
            ids, labels = tokenizer.mask_tokens(ids, rng, options.mask_prob)
        return TokenView(ids, labels if options.with_labels else None)

    def build() -> ExampleViews:
        crystal = record.crystal()
        views: tuple[Crystal, ...] = (crystal,)
        if options.graph_views == 2:
            views = (
                perturb(crystal, generator(_CRYSTAL), options.perturb_law),
                strain(
                    crystal,
                    generator(_CRYSTAL + 1),
                    options.max_strain,
                    options.max_compression,
                    options.strain_law,
                ),
            )
        return ExampleViews(
            index=index,
            graphs=tuple(_graph(view, options) for view in views),
            tokens=tuple(text(view) for view in range(options.text_views)),
            label=label_of(record, options.label) if options.label else None,
        )

    return _named(record, index, build)


def plain_views(
    record: Record,
    index: int,
    options: ViewOptions,
    tokenizer: Tokenizer,
    replace_formula: bool = False,
) -> ExampleViews:
    """The plain crystal and the full text of one example, for evaluation.

    Raises:
        DataError: the record cannot be used; names it.
    """

    def build() -> ExampleViews:
        graphs = (_graph(record.crystal(), options),)
        if options.label:
            return ExampleViews(index, graphs, (NO_TEXT,), label_of(record, options.label))
        words = record.text_of(options.text_source, None)
        if replace_formula:
            words = without_formulas(words, record)
        tokens = TokenView(tokenizer.encode(words, options.max_length))
        return ExampleViews(index, graphs, (tokens,))

    return _named(record, index, build)


def without_formulas(words: str, record: Record) -> str:
    """The text with every formula, and the record's own however it looks, read "material"."""
    return replace_formulas(words, FORMULA_WORD, also=(record.formula,))


def train_batches(
    load: Callable[[int], ExampleViews],
    pack: Callable[[list[list[ExampleViews]]], Any],
    order: np.ndarray,
    start: int,
    batch_size: int,
    accumulate_steps: int = 1,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 2,
    prefetch: int = 8,
) -> Iterator[Any]:
    """The batches of the rest of one epoch, built ahead of time in Grain's threads.

    Args:
        load: example index -> its views in this epoch.
        pack: this process's examples of each accumulated batch -> what a step takes.
        order: (N,) the epoch's order of example indices.
        start: examples of the epoch that are done.
        batch_size: examples contrasted with each other, over all processes.
        accumulate_steps: such batches per optimizer update.
        process_index: this process takes the slice of each batch with this number...
        process_count: ...of so many equal ones.
        num_threads: that load and pack; their number changes nothing but the speed. 0: none.
        prefetch: batches held ready.

    Yields:
        One packed batch per optimizer update.
    """
    examples_per_step = batch_size * accumulate_steps
    per_process = batch_size // process_count

    def step_batch(step: int) -> Any:
        first = start + step * examples_per_step
        rows = order[first : first + examples_per_step].reshape(accumulate_steps, batch_size)
        mine = rows[:, process_index * per_process : (process_index + 1) * per_process]
        return pack([[load(int(index)) for index in row] for row in mine])

    num_steps = steps_in_epoch(len(order), examples_per_step, start)
    return _threaded(num_steps, step_batch, num_threads, prefetch)


def eval_batches(
    load: Callable[[int], ExampleViews],
    pack: Callable[[list[ExampleViews]], Any],
    num_examples: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 2,
    prefetch: int = 8,
) -> Iterator[Any]:
    """A whole split in its own order; the last batch may hold fewer examples, or none here.

    Arguments as for `train_batches`.
    """
    per_process = batch_size // process_count

    def batch(number: int) -> Any:
        first = number * batch_size + process_index * per_process
        return pack([load(i) for i in range(first, min(first + per_process, num_examples))])

    return _threaded(-(-num_examples // batch_size), batch, num_threads, prefetch)


def _threaded(
    count: int, build: Callable[[int], Any], num_threads: int, prefetch: int
) -> Iterator[Any]:
    if not count:
        return iter(())
    dataset = grain.MapDataset.range(count).map(build)
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads, prefetch)))


def _graph(crystal: Crystal, options: ViewOptions) -> CrystalGraph:
    return build_graph(crystal, options.cutoff, options.max_neighbours)


def _named(record: Record, index: int, build: Callable[[], ExampleViews]) -> ExampleViews:
    """What `build` makes, or its complaint with the example's name."""
    try:
        return build()
    except UserError as error:
        raise DataError(
            f"Example {index} ({shortened(record.material_id)}) cannot be used: {error} Remove or "
            "fix it in the data set and prepare the data again."
        ) from error


def limited(source: Sequence[Record], max_examples: int) -> Sequence[Record]:
    """The first `max_examples` records; all of them for 0."""
    return _First(source, max_examples) if 0 < max_examples < len(source) else source


@dataclass(frozen=True)
class _First(Sequence[Record]):
    source: Sequence[Record]
    length: int

    @property
    def crystals(self) -> CrystalTable:
        """The table of their crystals."""
        return CrystalTable.of(self.source).take(range(self.length))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self.length:
            raise IndexError(index)
        return self.source[index]
