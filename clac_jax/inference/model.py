"""`Model`: a trained model that embeds crystals and texts, or predicts a property."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, Literal

import flax.linen as nn
import jax
import ml_collections
import numpy as np

from clac_jax.crystals.graph import build_graph
from clac_jax.crystals.reading import crystal_of
from clac_jax.datasets.record import is_unicode
from clac_jax.errors import UserError, warn
from clac_jax.files.huggingface import resolve_folder
from clac_jax.inference import labels as labels_lib
from clac_jax.inference.batches import (
    MAX_ATOM_PAIRS,
    MAX_ATOMS,
    MAX_TOKEN_PAIRS,
    NO_CRYSTAL,
    NO_TEXT,
    Devices,
    Work,
    check_listed,
    in_batches,
    is_single,
)
from clac_jax.inference.errors import InputError, LoadError
from clac_jax.inference.identity import checksum
from clac_jax.inference.source import Source
from clac_jax.inference.variables import read_variables
from clac_jax.inference.vectors import are_vectors, vectors_of
from clac_jax.input_pipeline.example import ExampleViews
from clac_jax.input_pipeline.views import token_view
from clac_jax.models.build import build_model, pair_loss_of
from clac_jax.models.encoders import build_graph_encoder, encoder_needs
from clac_jax.models.property_model import PropertyModel
from clac_jax.tasks.retrieval import make_score
from clac_jax.text.sentences import Tokenizer

CrystalLike = Any
"""A `Crystal`, the path or the text of a CIF, a pymatgen or ASE object, or a dict of one."""

OnBad = Literal["raise", "nan"]


class Model:
    """A trained model, as returned by `clac_jax.load`.

    A contrastive model embeds crystals and texts (`embed_crystals`, `embed_texts`), compares them
    (`similarity`, `rank`) and assigns labels (`classify`); a property model predicts (`predict`).
    Each result is independent of the other inputs in a call. All local devices are used.

    >>> import clac_jax
    >>> model = clac_jax.load("mini")
    >>> fcc = [[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    >>> salt, silicon = (
    ...     clac_jax.Crystal.from_arrays([[a * x for x in row] for row in fcc], numbers, sites)
    ...     for a, numbers, sites in (
    ...         (5.64, [11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    ...         (5.43, [14, 14], [[0, 0, 0], [0.25, 0.25, 0.25]]),
    ...     )
    ... )
    >>> model.embed_crystals([salt, silicon]).shape
    (2, 256)
    >>> indices, scores = model.rank(["Rock salt.", "Silicon."], [salt, silicon], k=1)
    >>> indices.tolist()
    [[0], [1]]
    >>> labels = ["an element", "a chloride"]
    >>> labels[model.classify(salt, labels, templates=["The compound is {}."]).argmax()]
    'a chloride'

    Attributes:
        name: what it was loaded by ("outputs/base@best", "mini").
        config: the config of the run that trained it, read-only.
        step: number of optimizer updates in its training.
        dim: width of the vectors; 0 for a property model.
        is_dot_product: whether a score is a dot product of two vectors, so that they can be
            searched by any vector index; False with a "concat" critic, and for a property model.
    """

    name: str
    config: ml_collections.FrozenConfigDict
    step: int
    dim: int
    is_dot_product: bool

    def __init__(self, source: Source):
        """Builds the model of a config and reads its variables; raises the errors of `load`."""
        self.name, self.config, self.step = source.name, source.config, source.step
        config = source.build_config
        self._build_config = config
        self._needs = encoder_needs(config)
        self._tokenizer: Tokenizer | None = None
        self.dim, self.is_dot_product, self._outputs = 0, False, 0
        model: nn.Module
        if self._is_property:
            self._outputs = source.shapes.get("params/property_head/bias", (1,))[0]
            model = PropertyModel(build_graph_encoder(config), self._outputs)
        else:
            self._tokenizer = Tokenizer.from_folder(resolve_folder(config.text_encoder.tokenizer))
            model = clac = build_model(config, self._tokenizer.vocab_size)
            self.dim = config.projection_dim
            self.is_dot_product = pair_loss_of(config.loss).heads.cross_critic == "dot"
            self._score = make_score(clac)
        variables = read_variables(model, source)
        self._head = {"cross_head": variables["params"].get("cross_head")}
        self._devices = Devices(variables)
        apply: Any = model.apply
        compiled = self._devices.compile
        self._embed_graphs = compiled(lambda v, b: apply(v, b.graphs, method="embed_graphs"))
        self._embed_texts = compiled(lambda v, b: apply(v, b.texts, method="embed_texts"))
        self._predict_values = compiled(lambda v, b: apply(v, b, train=False).values)
        self._predict_logits = compiled(lambda v, b: apply(v, b, train=False).outputs)

    @functools.cached_property
    def checksum(self) -> str:
        """SHA-256 of the variables and settings that determine its results, hexadecimal.

        It identifies the model: `RUN@best` and the folder published from it have the same.
        """
        folder = None
        if not self._is_property:
            folder = resolve_folder(self._build_config.text_encoder.tokenizer)
        vocab_size = self._tokenizer.vocab_size if self._tokenizer else None
        return checksum(self._build_config, self.variables, folder, vocab_size)

    @property
    def variables(self) -> dict[str, Any]:
        """The variables that it uses, nested, as float32 arrays on the devices."""
        return self._devices.variables

    @property
    def _is_property(self) -> bool:
        return bool(self.config.task == "property")

    def __repr__(self) -> str:
        graphs = self.config.graph_encoder.name
        if self._is_property:
            kind = f"{self.config.property.kind} of {self.config.property.name!r}"
        else:
            kind = f"contrastive, {self.dim} dimensions"
        return f"<clac_jax.Model {self.name!r}: {kind}, {graphs} crystals, step {self.step}>"

    def embed_crystals(
        self, crystals: Iterable[CrystalLike], on_bad: OnBad = "raise", progress: bool = True
    ) -> np.ndarray:
        """Embeds crystals in the space shared with texts.

        Args:
            crystals: `Crystal` objects, paths of CIF files, texts of CIFs, pymatgen `Structure` or
                ASE `Atoms` objects, atoms dicts (`Crystal.from_atoms`) or the `as_dict()` of a
                `Structure`, in any mixture and number: a generator is read as it is needed.
            on_bad: "raise" stops at a crystal that cannot be used; "nan" names it on the standard
                error and leaves its row NaN, so that the rows stay in order.
            progress: whether to draw a bar if it takes longer than a few seconds; it is only drawn
                on a terminal.

        Returns:
            (n, dim) float32 unit vectors in the order given, as compared by the loss. For a model
            with a "concat" critic (`config.loss.critic`) they are the inputs of the critic instead:
            not normalized, and to be compared only by `similarity` or `scores`.

        Raises:
            InputError: the list is empty, or a crystal cannot be used; the message names it.
            LoadError: a property model has no shared space.
        """
        self._needs_contrast("embed_crystals")
        return self._of_crystals(crystals, on_bad, progress, self._embed_graphs, (self.dim,))

    def embed_texts(self, texts: Iterable[str], progress: bool = True) -> np.ndarray:
        """Embeds texts in the space shared with crystals.

        Args:
            texts: texts of any length; tokens beyond `config.text_encoder.max_length` are cut off.
            progress: as for `embed_crystals`.

        Returns:
            (n, dim) float32 in the order given, as from `embed_crystals`.

        Raises:
            InputError: the list or one of the texts is empty.
            LoadError: a property model has no text encoder.
        """
        self._needs_contrast("embed_texts")
        work = Work(
            self._views_of_text,
            lambda views: len(views.tokens[0].ids),
            MAX_TOKEN_PAIRS,
            self._embed_texts,
            (self.dim,),
        )
        return in_batches(texts, "texts", work, progress=progress)

    def similarity(self, texts: Iterable[str], crystals: Iterable[CrystalLike]) -> np.ndarray:
        """Scores each text against each crystal, by the logits used in the loss and the evaluation.

        Without a critic these are the cosine similarity of the two embeddings times the learned
        inverse temperature (plus the learned bias of a sigmoid loss); the cosine similarities are
        `embed_texts(texts) @ embed_crystals(crystals).T`.

        Returns:
            (n_texts, n_crystals) float32; higher is more similar.

        Raises:
            InputError, LoadError: as for `embed_texts` and `embed_crystals`.
        """
        self._needs_contrast("similarity")
        return self.scores(self.embed_texts(texts), self.embed_crystals(crystals))

    def scores(self, text_vectors: np.ndarray, crystal_vectors: np.ndarray) -> np.ndarray:
        """`similarity` of vectors from an earlier call.

        Args:
            text_vectors: (n_texts, dim) from `embed_texts`.
            crystal_vectors: (n_crystals, dim) from `embed_crystals`.

        Returns:
            (n_texts, n_crystals) float32 logits.

        Raises:
            InputError: the arrays do not have these shapes.
            LoadError: the model predicts a property.
        """
        self._needs_contrast("scores")
        texts = vectors_of(text_vectors, "text", self.dim)
        crystals = vectors_of(crystal_vectors, "crystal", self.dim)
        scores: np.ndarray = np.asarray(self._score(self._head, crystals, texts)).T
        return scores

    def rank(
        self,
        texts: str | Iterable[str],
        crystals: Iterable[CrystalLike] | np.ndarray,
        k: int = 10,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best crystals for each text.

        Args:
            texts: one text, or several.
            crystals: crystals, as for `embed_crystals`; or their vectors, (n, dim) real numbers in
                an array or lists, which saves embedding them again for the next text.
            k: number of crystals per text; fewer if there are not that many.

        Returns:
            Indices, (n_texts, k) int64, best first; and their scores, (n_texts, k) float32, as from
            `similarity`. For a single text both are (k,). Of equal scores the first crystal comes
            first; vectors that are NaN come last.

        Raises:
            InputError: k is less than 1; otherwise as for `similarity`.
            LoadError: the model predicts a property.
        """
        self._needs_contrast("rank")
        if not isinstance(k, int | np.integer) or k < 1:
            raise InputError(f"k is {k!r}. Give the number of crystals to return, at least 1.")
        is_one = isinstance(texts, str)
        queries = self.embed_texts([texts] if isinstance(texts, str) else texts)
        vectors = crystals if are_vectors(crystals) else self.embed_crystals(crystals)
        scores = self.scores(queries, vectors)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(scores, order, axis=1)
        return (order[0], best[0]) if is_one else (order, best)

    def classify(
        self,
        crystals: CrystalLike | Iterable[CrystalLike] | np.ndarray,
        labels: Iterable[str],
        templates: Iterable[str] = ("{}",),
    ) -> np.ndarray:
        """Assigns labels that the model was not trained on, by their similarity to each crystal.

        Args:
            crystals: one crystal or several, as for `embed_crystals`; or vectors, (n, dim).
            labels: at least two different ones, such as "a metal" and "an insulator".
            templates: sentences with `{}` in place of the label ("This material is {}."). The
                vectors of a label's sentences are averaged, and normalized again.

        Returns:
            (n, labels) float32 probabilities, the softmax of the scores over the labels; (labels,)
            for a single crystal.

        Raises:
            InputError: labels, templates or a crystal cannot be used.
            LoadError: the model predicts a property.
        """
        self._needs_contrast("classify")
        labels = labels_lib.listed(labels, "labels")
        templates = labels_lib.listed(templates, "templates")
        prompts = labels_lib.prompts(labels, templates)
        is_one = is_single(crystals)
        if are_vectors(crystals):
            vectors = crystals
        else:
            vectors = self.embed_crystals([crystals] if is_one else crystals)
        texts = self.embed_texts(prompts).reshape(len(templates), len(labels), self.dim)
        if self.is_dot_product:
            logits = self.scores(labels_lib.mean_direction(texts), vectors).T
        else:  # a critic's inputs have no mean that it could score: average its scores
            logits = np.mean([self.scores(each, vectors) for each in texts], axis=0).T
        probabilities = labels_lib.softmax(logits)
        return np.asarray(probabilities[0] if is_one else probabilities)

    def predict(
        self, crystals: Iterable[CrystalLike], on_bad: OnBad = "raise", progress: bool = True
    ) -> np.ndarray:
        """Predicts the property that the model was trained on.

        Args:
            crystals: as for `embed_crystals`.
            on_bad: as for `embed_crystals`; the class of a crystal that cannot be used is -1.
            progress: as for `embed_crystals`.

        Returns:
            (n,) float32 in the unit of the training data; or (n,) int32 class indices (for
            "crystal system": indices into `clac_jax.input_pipeline.labels.CRYSTAL_SYSTEMS`).

        Raises:
            InputError: the list is empty, or a crystal cannot be used.
            LoadError: the model is not a property model.
        """
        if not self._is_property:
            raise LoadError(
                "predict needs a property model, and this one is contrastive. Load a run of "
                "--config=finetune_property, or use embed_crystals."
            )
        if self.config.property.kind == "regression":
            return self._of_crystals(crystals, on_bad, progress, self._predict_values, ())
        shape = (self._outputs,)
        logits = self._of_crystals(crystals, on_bad, progress, self._predict_logits, shape)
        classes = np.asarray(np.argmax(logits, axis=1), np.int32)
        classes[np.isnan(logits).any(axis=1)] = -1
        return classes

    def _needs_contrast(self, what: str) -> None:
        if self._is_property:
            raise LoadError(
                f"{what} needs a contrastive model, and this one predicts "
                f"{self.config.property.name!r}: it has no text encoder and no space that texts "
                "and crystals share. Use predict, or load a contrastive run."
            )

    def _of_crystals(
        self,
        crystals: Iterable[CrystalLike],
        on_bad: OnBad,
        progress: bool,
        compute: Callable[..., jax.Array],
        row_shape: tuple[int, ...],
    ) -> np.ndarray:
        if on_bad not in ("raise", "nan"):
            raise InputError(f'on_bad is {on_bad!r}. Give "raise" or "nan".')
        check_listed(crystals, "crystals")
        work = Work(
            self._views_of_crystal,
            lambda views: len(views.graphs[0].atomic_numbers),
            MAX_ATOM_PAIRS,
            compute,
            row_shape,
        )
        handler = None if on_bad == "raise" else (lambda error: warn(str(error)))
        return in_batches(crystals, "crystals", work, handler, progress)

    def _views_of_crystal(self, index: int, value: CrystalLike) -> ExampleViews:
        try:
            crystal = crystal_of(value)
        except UserError as error:
            raise InputError(f"Crystal {index} cannot be used: {error}") from error
        if crystal.num_atoms > MAX_ATOMS:
            raise InputError(
                f"Crystal {index} cannot be used: its cell has {crystal.num_atoms:,} atoms, and a "
                f"model takes at most {MAX_ATOMS:,}. Give its primitive cell."
            )
        needs, described = self._needs, crystal if self._needs.descriptors else None
        graph = build_graph(crystal, needs.cutoff, needs.max_neighbours, described)
        return ExampleViews(index, (graph,), (NO_TEXT,))

    def _views_of_text(self, index: int, text: Any) -> ExampleViews:
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"Text {index} is empty or not a string. Give one with words.")
        if not is_unicode(text):
            raise InputError(f"Text {index} has half of a character (a surrogate). Remove it.")
        assert self._tokenizer is not None  # contrastive models have one
        longest = self.config.text_encoder.max_length
        tokens = token_view(text, longest, self._tokenizer, self._needs.facts)
        return ExampleViews(index, (NO_CRYSTAL,), (tokens,))
