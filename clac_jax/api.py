"""Trained models for notebooks and scripts: `clac_jax.load(RUN)`.

    model = clac_jax.load("outputs/base@best")
    crystals = model.embed_crystals(["a.cif", "b.cif"])
    scores = model.similarity(["a wide-gap perovskite"], ["a.cif", "b.cif"])

No data set is needed, and nothing is written.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import numpy as np
from flax import traverse_util

from clac_jax.checkpoint.arrays import MissingArraysError, read_arrays
from clac_jax.checkpoint.export import MODEL_FILE, read_export
from clac_jax.checkpoint.layout import CHECKPOINTS
from clac_jax.checkpoint.locate import locate
from clac_jax.config.schema import to_plain, with_defaults
from clac_jax.crystals.crystal import Crystal
from clac_jax.crystals.graph import CrystalGraph, build_graph
from clac_jax.crystals.objects import is_ase, is_pymatgen
from clac_jax.crystals.reading import crystal_of
from clac_jax.errors import UserError
from clac_jax.files.huggingface import resolve_folder
from clac_jax.files.paths import local_path
from clac_jax.input_pipeline.batch import Batch, BatchShape, ExampleViews, TokenView, collate
from clac_jax.models.build import build_model
from clac_jax.models.encoders import build_graph_encoder, encoder_needs
from clac_jax.models.property_model import PropertyModel
from clac_jax.tasks.retrieval import make_score
from clac_jax.text.sentences import Tokenizer

Reader = Callable[[list[str]], Mapping[str, np.ndarray]]
"""Slash paths -> the arrays of a checkpoint at these paths."""

CrystalLike = Any
"""A `Crystal`, the path of a CIF file, a pymatgen `Structure` or an ASE `Atoms` object."""

_BATCH = 32  # crystals or texts per batch; fewer if they are large:
_MAX_ATOM_PAIRS = _BATCH * 64**2  # pairs of atoms in a tile, per batch
_MAX_TOKEN_PAIRS = _BATCH * 256**2  # per batch; attention heads need less memory per pair
_WINDOW = 1024  # crystals or texts held in memory at a time, to be sorted by size
_HEAD_BIAS = "params/property_head/bias"


class LoadError(UserError):
    """A checkpoint does not hold the model that its config describes."""


class InputError(UserError, ValueError):
    """Crystals or texts that a model cannot process."""


def load(run: str | os.PathLike[str]) -> Model:
    """Loads a trained model.

    Args:
        run: a run's workdir (its newest checkpoint), optionally with the suffix `@best`, `@last`,
            `@step=5000` or `@epoch=49`, as in `config.resume_from`; a checkpoint's folder; or a
            model exported by `clac-jax ckpt export`: its folder or its `model.safetensors`.

    Raises:
        CheckpointNotFoundError: no checkpoint has that name.
        DamagedCheckpointError: a file of the checkpoint differs from what was written.
        ExportError: an exported model cannot be read.
        PretrainedError: the folder or package that provides the run's tokenizer does not exist.
        LoadError: the checkpoint does not hold the model that its config describes.
    """
    if folder := _exported(run):
        config, about, arrays = read_export(folder)
        read: Reader = functools.partial(_chosen, arrays)
        shapes: Mapping[str, tuple[int, ...]] = {path: a.shape for path, a in arrays.items()}
        values, step = to_plain(config), int(about["progress"]["step"])
    else:
        info = locate(os.fspath(run))
        shapes = {path: leaf.shape for path, leaf in info.leaves.items()}
        values, step = info.config, info.step
        read = functools.partial(read_arrays, info)
    return Model(ml_collections.FrozenConfigDict(with_defaults(values)), step, shapes, read)


class Model:
    """A trained model, as returned by `load`.

    A contrastive model embeds crystals and texts (`embed_crystals`, `embed_texts`, `similarity`); a
    property model predicts (`predict`). Each result is independent of the other inputs in a call.

    Attributes:
        config: the config of the run that trained it, read-only.
        step: number of optimizer updates in its training.
    """

    config: ml_collections.FrozenConfigDict
    step: int

    def __init__(
        self,
        config: ml_collections.FrozenConfigDict,
        step: int,
        shapes: Mapping[str, tuple[int, ...]],
        read: Reader,
    ):
        """Builds the model of a config and reads its variables; raises the errors of `load`.

        Args:
            config: the run's config.
            step: step of the checkpoint.
            shapes: slash path -> shape of each array in the checkpoint.
            read: reads the arrays at given paths.
        """
        self.config = config
        self.step = step
        self._needs = encoder_needs(config)
        self._max_length = config.text_encoder.max_length
        self._tokenizer: Tokenizer | None = None
        model: nn.Module
        if self._is_property:
            outputs = shapes.get(_HEAD_BIAS, (1,))[0]
            model = PropertyModel(build_graph_encoder(config), outputs)
            self._predict = jax.jit(functools.partial(model.apply, train=False))
        else:
            self._tokenizer = Tokenizer.from_folder(resolve_folder(config.text_encoder.tokenizer))
            model = clac = build_model(config, self._tokenizer.vocab_size)
            self._embed_graphs = jax.jit(functools.partial(model.apply, method="embed_graphs"))
            self._embed_texts = jax.jit(functools.partial(model.apply, method="embed_texts"))
            self._score = make_score(clac)
        self._variables = jax.device_put(_variables(model, shapes, read))

    @property
    def _is_property(self) -> bool:
        return bool(self.config.task == "property")

    def __repr__(self) -> str:
        graphs = self.config.graph_encoder.name
        if self._is_property:
            kind = f"{self.config.property.kind} of {self.config.property.name!r}"
        else:
            kind = "contrastive"
        return f"<clac_jax.Model: {kind}, {graphs} crystals, step {self.step}>"

    def embed_crystals(self, crystals: Iterable[CrystalLike]) -> np.ndarray:
        """Embeds crystals in the space shared with texts.

        Args:
            crystals: `Crystal` objects, paths of CIF files, pymatgen `Structure` or ASE `Atoms`
                objects, in any mixture.

        Returns:
            (n, d) float32 unit vectors in the order given, as compared by the loss. For a model
            with a "concat" critic (`config.loss.critic`) they are the inputs of the critic instead:
            not normalised, and to be compared only by `similarity`.

        Raises:
            InputError: the list is empty, or a crystal cannot be used; the message names it.
            LoadError: a property model has no shared space.
        """
        self._needs_contrast("embed_crystals")
        return self._of_crystals(crystals, lambda b: self._embed_graphs(self._variables, b.graphs))

    def embed_texts(self, texts: Iterable[str]) -> np.ndarray:
        """Embeds texts in the space shared with crystals.

        Args:
            texts: texts of any length; tokens beyond `config.text_encoder.max_length` are cut off.

        Returns:
            (n, d) float32 in the order given, as from `embed_crystals`.

        Raises:
            InputError: the list or one of the texts is empty.
            LoadError: a property model has no text encoder.
        """
        self._needs_contrast("embed_texts")
        return self._in_batches(
            _listed(texts, "texts"),
            self._views_of_text,
            lambda views: len(views.tokens[0].ids),
            _MAX_TOKEN_PAIRS,
            lambda b: self._embed_texts(self._variables, b.texts),
        )

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
        rows, columns = self.embed_texts(texts), self.embed_crystals(crystals)
        head = {"cross_head": self._variables["params"]["cross_head"]}
        return np.asarray(self._score(head, columns, rows)).T

    def predict(self, crystals: Iterable[CrystalLike]) -> np.ndarray:
        """Predicts the property that the model was trained on.

        Args:
            crystals: as in `embed_crystals`.

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
            return self._of_crystals(crystals, lambda b: self._predict(self._variables, b).values)
        logits = self._of_crystals(crystals, lambda b: self._predict(self._variables, b).outputs)
        return np.asarray(np.argmax(logits, axis=1), np.int32)

    def _needs_contrast(self, what: str) -> None:
        if self._is_property:
            raise LoadError(
                f"{what} needs a contrastive model, and this one predicts "
                f"{self.config.property.name!r}: it has no text encoder and no space that texts "
                "and crystals share. Use predict, or load a contrastive run."
            )

    def _of_crystals(
        self, crystals: Iterable[CrystalLike], compute: Callable[[Batch], jax.Array]
    ) -> np.ndarray:
        return self._in_batches(
            _listed(crystals, "crystals"),
            self._views_of_crystal,
            lambda views: len(views.graphs[0].atomic_numbers),
            _MAX_ATOM_PAIRS,
            compute,
        )

    def _views_of_crystal(self, index: int, value: CrystalLike) -> ExampleViews:
        try:
            crystal = crystal_of(value)
        except UserError as error:
            raise InputError(f"Crystal {index} cannot be used: {error}") from error
        graph = build_graph(crystal, self._needs.cutoff, self._needs.max_neighbours)
        return ExampleViews(index, (graph,), (_NO_TEXT,))

    def _views_of_text(self, index: int, text: Any) -> ExampleViews:
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"Text {index} is empty or not a string. Give one with words.")
        assert self._tokenizer is not None  # contrastive models have one
        tokens = TokenView(self._tokenizer.encode(text, self._max_length))
        return ExampleViews(index, (_NO_CRYSTAL,), (tokens,))

    def _in_batches(
        self,
        values: list[Any],
        views_of: Callable[[int, Any], ExampleViews],
        size_of: Callable[[ExampleViews], int],
        max_pairs: int,
        compute: Callable[[Batch], jax.Array],
    ) -> np.ndarray:
        """The rows that `compute` returns for all values, in the order of the values."""
        rows: list[np.ndarray] = [np.zeros(0)] * len(values)
        for start in range(0, len(values), _WINDOW):
            window = enumerate(values[start : start + _WINDOW], start)
            views = sorted((views_of(k, value) for k, value in window), key=size_of)
            for examples, num_rows in _grouped(views, size_of, max_pairs):
                computed = np.asarray(compute(collate(examples, _shape(examples, num_rows))))
                for example, row in zip(examples, computed, strict=False):  # the rest is padding
                    rows[example.index] = row
        return np.stack(rows)


# Placeholders for the other input when only crystals or only texts are encoded.
_NO_TEXT = TokenView(np.zeros(1, np.int32))
_NO_CRYSTAL = CrystalGraph(
    atomic_numbers=np.ones(1, np.int32),
    senders=np.zeros(0, np.int32),
    receivers=np.zeros(0, np.int32),
    edge_vectors=np.zeros((0, 3), np.float32),
    lattice=np.eye(3, dtype=np.float32),
)


def _exported(run: str | os.PathLike[str]) -> Path | None:
    """The folder of an exported model, if `run` names one; otherwise None."""
    path = local_path(run, "The name of a model")
    if path.name == MODEL_FILE and path.is_file():
        return path.parent
    return path if (path / MODEL_FILE).is_file() and not (path / CHECKPOINTS).exists() else None


def _chosen(arrays: Mapping[str, np.ndarray], paths: list[str]) -> Mapping[str, np.ndarray]:
    if missing := sorted(set(paths) - set(arrays)):
        raise MissingArraysError(
            f"The exported model lacks {missing[0]} and {len(missing) - 1} more. Export it again."
        )
    return {path: arrays[path] for path in paths}


def _variables(
    model: nn.Module, shapes: Mapping[str, tuple[int, ...]], read: Reader
) -> dict[str, Any]:
    """The variables needed for evaluation, without heads that are used only in training.

    Raises:
        MissingArraysError, LoadError: some are missing from the checkpoint, or differ in shape.
    """
    example = [ExampleViews(0, (_NO_CRYSTAL,), (_NO_TEXT,))]
    batch = collate(example, _shape(example, 1))
    key = jax.random.PRNGKey(0)
    abstract = jax.eval_shape(lambda: model.init(key, batch, train=False))
    needed = traverse_util.flatten_dict(dict(abstract), sep="/")
    for path, leaf in needed.items():
        if path in shapes and tuple(shapes[path]) != leaf.shape:
            raise LoadError(
                f"{path} has the shape {tuple(shapes[path])} in the checkpoint, and {leaf.shape} "
                "in the model of its config. Restore the pretrained folders that the run was "
                "trained with."
            )
    return dict(traverse_util.unflatten_dict(dict(read(list(needed))), sep="/"))


def _listed(values: Any, what: str) -> list[Any]:
    """The values as a list; `what` names them in messages.

    Raises:
        InputError: a single value was given instead of a list, or the list is empty.
    """
    is_single = isinstance(values, str | os.PathLike | Crystal | Mapping)
    if is_single or is_pymatgen(values) or is_ase(values) or not isinstance(values, Iterable):
        raise InputError(f"The {what} must be a list. Give one, even for a single one: [...].")
    if not (listed := list(values)):
        raise InputError(f"The list of {what} is empty. Give at least one.")
    return listed


def _grouped(
    views: Sequence[ExampleViews], size_of: Callable[[ExampleViews], int], max_pairs: int
) -> Iterator[tuple[list[ExampleViews], int]]:
    """Splits examples, in ascending order of size, into groups; yields each with its batch rows."""

    def rows(example: ExampleViews) -> int:
        return max(1, min(_BATCH, max_pairs // _step(size_of(example)) ** 2))

    group: list[ExampleViews] = []
    for example in views:
        if len(group) >= rows(example):
            yield group, rows(group[-1])
            group = []
        group.append(example)
    yield group, 1 if len(group) == 1 else rows(group[-1])


def _shape(examples: Sequence[ExampleViews], rows: int) -> BatchShape:
    """A batch shape with one tile per row; sizes are rounded up so that few shapes occur."""
    atoms = _step(max(len(example.graphs[0].atomic_numbers) for example in examples))
    tokens = _step(max(len(example.tokens[0].ids) for example in examples))
    edges = sum(len(example.graphs[0].senders) for example in examples)
    return BatchShape(
        num_examples=rows,
        graph_views=1,
        text_views=1,
        node_tiles=((atoms, rows),),
        num_edges=max(2048, 1 << (edges - 1).bit_length()),
        token_tiles=((tokens, rows),),
    )


def _step(size: int, smallest: int = 16) -> int:
    """The size rounded up to 1, 1.5, 2, 3, 4, 6, 8, ... times `smallest`, a power of 2."""
    step = smallest
    while step < size:
        step = step * 3 // 2 if step & (step - 1) == 0 else step * 4 // 3
    return step
