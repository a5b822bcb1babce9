"""The pool of an evaluation: the records of a split, embedded by a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import ml_collections
import numpy as np

from clac_jax.crystals.crystal import Crystal
from clac_jax.datasets.record import DataError, Record, shortened
from clac_jax.errors import UserError, warn
from clac_jax.evaluation.intervals import Resampling
from clac_jax.input_pipeline.labels import label_of
from clac_jax.input_pipeline.splits import SPLITS, Splits
from clac_jax.input_pipeline.views import without_formulas

if TYPE_CHECKING:
    from clac_jax.evaluation.own_classes import OwnClasses
    from clac_jax.inference.model import Model

_BLOCK = 1 << 24  # scores held in memory at a time


class EvaluationError(UserError, ValueError):
    """An evaluation that was requested cannot be done."""


@dataclass(frozen=True)
class DataChoice:
    """The data to evaluate on; what is None is as in the run's config.

    Attributes:
        split: "train", "validation" or "test".
        name: name of the data set.
        path: table or folder of CIF files.
        data_dir: folder of the prepared data sets.
    """

    split: str = "test"
    name: str | None = None
    path: str | None = None
    data_dir: str | None = None

    @property
    def is_other(self) -> bool:
        """Whether other data than those of the run were requested."""
        return self.name is not None or self.path is not None


@dataclass(frozen=True)
class DataFacts:
    """The identity of the data.

    Attributes:
        name: name of the data set.
        split: "train", "validation" or "test".
        fingerprint: hash of the content and order of the records, see `Splits.fingerprint`.
        is_own: whether they are the data of the training of the model; None if its
            checkpoint does not name those.
    """

    name: str
    split: str
    fingerprint: str
    is_own: bool | None


@dataclass(frozen=True, kw_only=True)
class Examples:
    """The records that a model is evaluated on.

    Attributes:
        model: the model.
        records: the records, in the order of the split.
        formulas: reduced formula of each record, elements in alphabetical order.
        data: identity of the data.
        resampling: how intervals are computed, without groups.
    """

    model: Model
    records: list[Record]
    formulas: list[str]
    data: DataFacts
    resampling: Resampling = field(default_factory=Resampling)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def split(self) -> str:
        """Name of the split."""
        return self.data.split

    @property
    def step(self) -> int:
        """Number of optimizer updates of the model."""
        return self.model.step

    @property
    def by_formula(self) -> Resampling:
        """Resampling of entire compositions, because polymorphs are not independent."""
        return Resampling(
            self.resampling.resamples, self.resampling.seed, np.asarray(self.formulas)
        )


@dataclass(frozen=True, kw_only=True)
class Pool(Examples):
    """A split embedded by a contrastive model.

    Attributes:
        crystals: (n, d) float32, the vectors of the crystals.
        texts: (n, d) float32, those of the full texts.
        texts_no_formula: (n, d) float32, those of the texts in which each formula reads "material".
        train: the records of the training split, for baselines.
        own_classes: the user's own classes, if any.
    """

    crystals: np.ndarray
    texts: np.ndarray
    texts_no_formula: np.ndarray
    train: Sequence[Record] = ()
    own_classes: OwnClasses | None = None

    def scores(self, text_vectors: np.ndarray) -> np.ndarray:
        """(m, n) float32: score of each of m text vectors with each crystal of the pool."""
        return self.model.scores(text_vectors, self.crystals)

    def score_blocks(
        self, texts: np.ndarray, queries_are_texts: bool = True
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """All scores of texts with crystals, in blocks of queries.

        Args:
            texts: (n, d) vectors of the texts.
            queries_are_texts: whether the rows are texts; otherwise crystals.

        Yields:
            The queries of a block, and their (queries, n) scores with all candidates.
        """
        step = max(1, _BLOCK // len(self))
        for start in range(0, len(self), step):
            block = slice(start, start + step)
            if queries_are_texts:
                yield block, self.scores(texts[block])
            else:
                yield block, self.model.scores(texts, self.crystals[block]).T


@dataclass(frozen=True, kw_only=True)
class PropertyPool(Examples):
    """A split with the predictions of a property model.

    Attributes:
        labels: (n,) float64 values in the unit of the data, or class numbers.
        predicted: (n,) float64 predictions of the model.
        train: the labelled records of the training split, for baselines.
    """

    labels: np.ndarray
    predicted: np.ndarray
    train: Sequence[Record]

    @property
    def property_name(self) -> str:
        """Name of the property."""
        return str(self.model.config.property.name)

    @property
    def is_regression(self) -> bool:
        """Whether the model predicts a number, not a class."""
        return bool(self.model.config.property.kind == "regression")

    @property
    def train_labels(self) -> np.ndarray:
        """(train records,) float64."""
        return np.array([label_of(record, self.property_name) for record in self.train])


def text_of(record: Record, config: ml_collections.FrozenConfigDict) -> str:
    """The full text of a record, as in the evaluation during training."""
    return record.text_of(config.dataset.text_source, None)


def open_pool(
    model: Model,
    choice: DataChoice | None = None,
    resampling: Resampling | None = None,
    trained_on: Mapping[str, str] | None = None,
) -> Pool | PropertyPool:
    """Opens a split of the run's data and embeds it, or predicts its property.

    Args:
        model: the model, from `clac_jax.load`.
        choice: the data; by default the test split of the run's data.
        resampling: how intervals are computed.
        trained_on: split -> fingerprint of the data of the training; {} if unknown.

    Raises:
        EvaluationError: the split does not exist or is empty, or the data have changed since the
            training.
        DataError: the data, or one of the records, cannot be used.
    """
    choice, resampling = choice or DataChoice(), resampling or Resampling()
    if choice.split not in SPLITS:
        raise EvaluationError(
            f"There is no split {choice.split!r}. Give --split one of {', '.join(SPLITS)}."
        )
    is_property = model.config.task == "property"
    splits = Splits(
        _dataset(model.config, choice), model.config.property.name if is_property else ""
    )
    records = list(splits[choice.split])
    if not records:
        raise EvaluationError(
            f"The {choice.split} split of the data set is empty. Choose a different --split."
        )
    data = _identified(model, choice, splits, dict(trained_on or {}))
    crystals = [_crystal_of(record) for record in records]
    formulas = [crystal.formula for crystal in crystals]
    if is_property:
        labels = np.array([label_of(record, model.config.property.name) for record in records])
        return PropertyPool(
            model=model,
            records=records,
            formulas=formulas,
            data=data,
            resampling=resampling,
            labels=labels,
            predicted=_predicted(model, crystals),
            train=splits["train"],
        )
    texts = [_text_or_error(record, model) for record in records]
    bare = [without_formulas(t, record) for t, record in zip(texts, records, strict=True)]
    return Pool(
        model=model,
        records=records,
        formulas=formulas,
        data=data,
        resampling=resampling,
        crystals=_finite(model.embed_crystals(crystals, progress=True)),
        texts=_finite(embed_distinct(model, texts)),
        texts_no_formula=_finite(embed_distinct(model, bare)),
        train=splits["train"],
    )


def embed_distinct(model: Model, texts: Sequence[str]) -> np.ndarray:
    """(n, d) float32 vectors of texts; equal texts are embedded once and get the same vector.

    The vector of a text varies in its last digits with the batch that it is in. Without this, equal
    texts would not tie.
    """
    distinct = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    return model.embed_texts(list(distinct))[[distinct[text] for text in texts]]


def _dataset(
    config: ml_collections.FrozenConfigDict, choice: DataChoice
) -> ml_collections.ConfigDict:
    """The config group `dataset` with the requested changes."""
    options = ml_collections.ConfigDict(config.dataset.to_dict())
    with options.ignore_type():
        for key in ("name", "path", "data_dir"):
            if (value := getattr(choice, key)) is not None:
                options[key] = value
        if choice.is_other:
            options.max_examples = 0  # a limit of the run's own data
    return options


def _identified(
    model: Model, choice: DataChoice, splits: Splits, trained_on: dict[str, str]
) -> DataFacts:
    """The identity of the data; refuses data that have changed since the training."""
    split, name = choice.split, choice.name or model.config.dataset.name
    fingerprint = splits.fingerprint(split)
    then = trained_on.get(split)
    is_own = None if then is None else then == fingerprint
    if is_own is False and not choice.is_other:
        raise EvaluationError(
            f"The {split} split of {name} has changed since {model.name} was trained: its "
            f"fingerprint was {then[:12] if then else ''}, and now is {fingerprint[:12]}. Restore "
            "the data, or name them with --dataset or --path to evaluate on them as other data, "
            "some of which the model may have been trained on."
        )
    if is_own is False:
        warn(
            f"these are not the data of the training of {model.name}. It may have been trained on "
            "some of these crystals."
        )
    return DataFacts(name, split, fingerprint, is_own)


def _crystal_of(record: Record) -> Crystal:
    try:
        return record.crystal()
    except UserError as error:
        raise _named(record, error) from error


def _text_or_error(record: Record, model: Model) -> str:
    try:
        return text_of(record, model.config)
    except UserError as error:
        raise _named(record, error) from error


def _named(record: Record, error: UserError) -> DataError:
    return DataError(
        f"The record {shortened(record.material_id)} cannot be used: {error} Remove or fix it in "
        "the data set and prepare the data again."
    )


def _predicted(model: Model, crystals: Sequence[Crystal]) -> np.ndarray:
    """(n,) float64 predicted values or classes."""
    predicted = np.asarray(model.predict(crystals))
    if np.issubdtype(predicted.dtype, np.integer):
        return _finite(np.where(predicted < 0, np.nan, predicted))  # -1: logits are not numbers
    return _finite(predicted.astype(np.float64))


def _finite(values: np.ndarray) -> np.ndarray:
    if np.isfinite(values).all():
        return values
    raise EvaluationError(
        "The model computes values that are not finite numbers, so nothing can be measured. Its "
        "training has diverged: evaluate an earlier checkpoint (RUN@step=N)."
    )
