"""Records to views of an example: pure functions of (seed, epoch, example index)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import ml_collections
import numpy as np

from clac_jax.crystals.augment import perturb, strain
from clac_jax.crystals.crystal import Crystal
from clac_jax.crystals.formulas import conventional, counts_of
from clac_jax.crystals.graph import CrystalGraph, build_graph
from clac_jax.datasets.record import DataError, Record, shortened
from clac_jax.errors import ConfigError, UserError
from clac_jax.input_pipeline.example import ExampleViews, TokenView
from clac_jax.input_pipeline.labels import label_of
from clac_jax.input_pipeline.needs import NO_FACTS, EncoderNeeds, TextFacts
from clac_jax.text.formula import replace_formulas
from clac_jax.text.hidden_elements import without_elements
from clac_jax.text.sentences import IGNORED_LABEL, Tokenizer, chosen_sentences, split_sentences
from clac_jax.text.token_facts import token_composition, token_numbers

FORMULA_WORD = "material"
NO_TEXT = TokenView(np.zeros(1, np.int32))  # placeholder for a text that is never read

# Last part of a generator's seed. Each view draws from its own stream, so that switching off one
# augmentation leaves the others unchanged.
# Stream 0 is `order.ORDER_STREAM`; crystals and texts have two views each.
_CRYSTAL, _TEXT, _HIDING, _STATEMENTS, _SHORT, _COMPOSITION = 1, 3, 5, 6, 8, 10


@dataclass(frozen=True)
class ViewOptions:
    """Settings for turning an example into views.

    Attributes:
        cutoff: radius of the graph, angstrom.
        max_neighbours: nearest incoming edges kept per atom; 0 keeps all.
        descriptors: whether crystals get descriptors.
        facts: what accompanies the tokens of texts.
        max_length: maximum number of tokens in a text, including special tokens.
        text_source: "narratives" or "papers".
        graph_views: 2, or 1 for only the unaugmented crystal.
        text_views: 2, or 1 for only the full text.
        perturb_law: distribution of the displacements in crystal view 1, see `augment.perturb`.
        strain_law: distribution of the strain in crystal view 2, see `augment.strain`.
        max_strain: largest strain of crystal view 2.
        max_compression: largest compression of crystal view 2.
        sentence_keep_prob: see `text.sentences.chosen_sentences`.
        drop_in_single_text_view: whether sentences are also dropped and shuffled when there is only
            one text view; the reference uses the full text in that case.
        short_text_prob: probability that a text whose sentences are dropped keeps only one or two.
        statement_prob: probability that a text consists of the true statements of the example's
            question lists.
        mask_prob: share of tokens masked in training.
        with_labels: whether masked tokens become labels of a language-model loss.
        causal: set for a decoder: nothing is masked, and every token except the first is a label.
        replace_formula_prob: probability that all formulas in a text view become "material".
        replace_formula_start_epoch: first epoch in which formulas are replaced.
        hide_elements_prob: probability that all views of an example hide its elements.
        hide_composition_prob: probability that a text view has a composition of zeros.
        label: name of the property being learned, in which case there are no texts; "": none.
    """

    cutoff: float
    max_neighbours: int = 0
    descriptors: bool = False
    facts: TextFacts = NO_FACTS
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
    short_text_prob: float = 0.0
    statement_prob: float = 0.0
    mask_prob: float = 0.15
    with_labels: bool = False
    causal: bool = False
    replace_formula_prob: float = 0.0
    replace_formula_start_epoch: int = 0
    hide_elements_prob: float = 0.0
    hide_composition_prob: float = 0.0
    label: str = ""


def view_options(config: ml_collections.ConfigDict, needs: EncoderNeeds) -> ViewOptions:
    """The view options of a training example, from the config and the encoders' needs.

    Raises:
        ConfigError: the language-model loss has no tokens to predict.
    """
    is_property = config.task == "property"
    with_labels = config.lm_weight > 0 and not is_property
    if with_labels and not needs.causal and not config.augment.mask_prob:
        raise ConfigError(
            f'Config key "lm_weight" is {config.lm_weight:g}, and "augment.mask_prob" is 0, so no '
            "token is masked, and none is to be predicted. Set augment.mask_prob=0.15, or "
            "lm_weight=0."
        )
    return ViewOptions(
        cutoff=needs.cutoff,
        max_neighbours=needs.max_neighbours,
        descriptors=needs.descriptors,
        facts=needs.facts,
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
        short_text_prob=config.augment.short_text_prob,
        statement_prob=config.augment.statement_prob,
        mask_prob=config.augment.mask_prob,
        with_labels=with_labels,
        causal=needs.causal,
        replace_formula_prob=config.replace_formula_prob,
        replace_formula_start_epoch=config.replace_formula_start_epoch,
        hide_elements_prob=0.0 if is_property else config.augment.hide_elements_prob,
        hide_composition_prob=config.augment.hide_composition_prob,
        label=config.property.name if is_property else "",
    )


@dataclass(frozen=True)
class DrawnText:
    """One random view of a text, and how it came about.

    Attributes:
        sentences: the sentences of the text that it was drawn from; () if the text is not split.
        kept: the numbers of those in the view, in its order.
        replaced: whether every formula was replaced.
        words: the view.
        tokens: the view as the model gets it.
        hidden: whether it does not say which elements the crystal consists of.
    """

    sentences: tuple[str, ...]
    kept: tuple[int, ...]
    replaced: bool
    words: str
    tokens: TokenView
    hidden: bool = False


@dataclass(frozen=True)
class Drawn:
    """The random views of one training example, before crystals become graphs.

    Attributes:
        original: the crystal in the data set.
        crystals: its views.
        texts: the views of its text; empty if a property is learned.
    """

    original: Crystal
    crystals: tuple[Crystal, ...]
    texts: tuple[DrawnText, ...]

    @property
    def hidden(self) -> bool:
        """Whether the views hide which elements the crystal consists of."""
        return any(text.hidden for text in self.texts)


def draw(
    record: Record, index: int, seed: int, epoch: int, options: ViewOptions, tokenizer: Tokenizer
) -> Drawn:
    """Draws the random views of one training example; a pure function of its arguments.

    Raises:
        DataError: the record has no text of the source.
        CrystalError: its arrays do not describe a crystal.
    """

    def generator(stream: int) -> np.random.Generator:
        return np.random.default_rng((seed, epoch, stream, index))

    def happens(stream: int, probability: float) -> bool:
        return probability > 0 and bool(generator(stream).uniform() < probability)

    def text(view: int) -> DrawnText:
        rng = generator(_TEXT + view)
        words = record.text_of(options.text_source, rng)
        sentences: tuple[str, ...] = ()
        kept: tuple[int, ...] = ()
        if happens(_STATEMENTS + view, options.statement_prob):
            sentences = record.true_statements()
        of_statements = bool(sentences)
        if not sentences and (options.text_views == 2 or options.drop_in_single_text_view):
            sentences = tuple(split_sentences(words))
        if sentences:
            if not of_statements and happens(_SHORT + view, options.short_text_prob):
                chosen = rng.permutation(len(sentences))[: rng.integers(1, 3)]
            else:
                chosen = chosen_sentences(len(sentences), rng, options.sentence_keep_prob)
            kept = tuple(chosen.tolist())
            words = " ".join(sentences[number] for number in kept)
        replaced = rng.uniform() < options.replace_formula_prob
        replaced = replaced and epoch >= options.replace_formula_start_epoch
        if replaced or hidden:
            words = without_formulas(words, record)
        if hidden:
            words = without_elements(words)
        plain = token_view(words, options.max_length, tokenizer, options.facts)
        ids, numbers, composition = plain.ids, plain.numbers, plain.composition
        labels = None
        if options.causal:
            labels = np.concatenate([[IGNORED_LABEL], ids[1:]]).astype(np.int32)
        elif options.mask_prob:
            ids, labels = tokenizer.mask_tokens(ids, rng, options.mask_prob)
            shown = labels == IGNORED_LABEL
            if options.facts != NO_FACTS:  # numbers and formulas with masked tokens say nothing
                offsets = tokenizer.encode_with_offsets(words, options.max_length)[1]
                numbers, composition = _facts(words, offsets, options.facts, shown)
        if composition is not None and happens(_COMPOSITION + view, options.hide_composition_prob):
            composition = np.zeros_like(composition)
        tokens = TokenView(ids, labels if options.with_labels else None, numbers, composition)
        return DrawnText(sentences, kept, replaced or hidden, words, tokens, hidden)

    hidden = happens(_HIDING, options.hide_elements_prob)
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
    texts = () if options.label else tuple(text(view) for view in range(options.text_views))
    return Drawn(crystal, views, texts)


def train_views(
    record: Record, index: int, seed: int, epoch: int, options: ViewOptions, tokenizer: Tokenizer
) -> ExampleViews:
    """The random views of one training example; a pure function of its arguments.

    Raises:
        DataError: the record cannot be used; the message names it.
    """

    def build() -> ExampleViews:
        drawn = draw(record, index, seed, epoch, options, tokenizer)
        tokens = tuple(text.tokens for text in drawn.texts)
        graphs = tuple(_graph(view, options, drawn.original) for view in drawn.crystals)
        if drawn.hidden:
            graphs = tuple(graph.without_elements() for graph in graphs)
        return ExampleViews(
            index=index,
            graphs=graphs,
            tokens=(NO_TEXT,) * options.text_views if options.label else tokens,
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
    """The unaugmented crystal and the full text of one example, for evaluation.

    Raises:
        DataError: the record cannot be used; the message names it.
    """

    def build() -> ExampleViews:
        crystal = record.crystal()
        graphs = (_graph(crystal, options, crystal),)
        if options.label:
            return ExampleViews(index, graphs, (NO_TEXT,), label_of(record, options.label))
        words = record.text_of(options.text_source, None)
        if replace_formula:
            words = without_formulas(words, record)
        tokens = token_view(words, options.max_length, tokenizer, options.facts)
        return ExampleViews(index, graphs, (tokens,))

    return _named(record, index, build)


def without_formulas(words: str, record: Record) -> str:
    """The text with "material" for every formula, and for the record's own even if ambiguous."""
    own = {record.formula}
    counts = counts_of(record.atomic_numbers)
    if len(counts) > 1:  # a table without formulas has given "FK" for KF
        own.add(conventional(counts))
    return replace_formulas(words, FORMULA_WORD, also=own)


def token_view(
    words: str, max_length: int, tokenizer: Tokenizer, facts: TextFacts = NO_FACTS
) -> TokenView:
    """A text as the model gets it.

    Args:
        words: the text.
        max_length: maximum number of tokens, including special tokens.
        tokenizer: the text encoder's.
        facts: what accompanies the tokens.
    """
    if facts == NO_FACTS:
        return TokenView(tokenizer.encode(words, max_length))
    ids, offsets = tokenizer.encode_with_offsets(words, max_length)
    numbers, composition = _facts(words, offsets, facts)
    return TokenView(ids, numbers=numbers, composition=composition)


def _facts(
    words: str, offsets: np.ndarray, facts: TextFacts, shown: np.ndarray | None = None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    numbers = token_numbers(words, offsets, shown) if facts.numbers else None
    composition = token_composition(words, offsets, shown) if facts.compositions else None
    return numbers, composition


def _graph(view: Crystal, options: ViewOptions, original: Crystal) -> CrystalGraph:
    described = original if options.descriptors else None
    return build_graph(view, options.cutoff, options.max_neighbours, described)


def _named(record: Record, index: int, build: Callable[[], ExampleViews]) -> ExampleViews:
    """The result of `build`; its errors get the example's name."""
    try:
        return build()
    except UserError as error:
        raise DataError(
            f"Example {index} ({shortened(record.material_id)}) cannot be used: {error} Remove or "
            "fix it in the data set and prepare the data again."
        ) from error
