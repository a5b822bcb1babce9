"""Zero-shot classes: sentences against labels that the data know.

The score of a crystal for a class is its mean similarity to the sentences that are true for members
minus that to the sentences that are true for others.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from clac_jax.evaluation.class_list import MIN_MEMBERS, ZeroShotClass, classes_of
from clac_jax.evaluation.estimates import estimate, for_rows, plain
from clac_jax.evaluation.intervals import Estimate
from clac_jax.evaluation.measures import average_precision, fair_credit, roc_auc
from clac_jax.evaluation.own_classes import OwnClasses
from clac_jax.evaluation.pool import EvaluationError, Examples, Pool, text_of
from clac_jax.evaluation.section import Drawing, Section, Table, decimal, percent
from clac_jax.evaluation.text_vectors import vectors_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ONE_OF_GROUP = "crystal system"
"""The group of which each crystal is in exactly one class, so that an accuracy can be stated."""


def class_scores(zero_shot: ZeroShotClass, row_of: dict[str, int], scores: np.ndarray) -> Any:
    """Scores of all crystals for a class.

    Args:
        zero_shot: the class.
        row_of: sentence -> its row of `scores`.
        scores: (sentences, n) similarities.

    Returns:
        (n,) the score; and (wordings, n) the scores with each positive wording on its own.
    """
    positive = scores[[row_of[text] for text in zero_shot.positive]]
    against = (
        scores[[row_of[text] for text in zero_shot.negative]].mean(axis=0)
        if zero_shot.negative
        else 0.0
    )
    return positive.mean(axis=0) - against, positive - against


def measure_class(
    pool: Pool, zero_shot: ZeroShotClass, row_of: dict[str, int], scores: np.ndarray
) -> dict[str, Any]:
    """Area under the ROC curve and average precision of a class, as named in eval.json."""
    known = zero_shot.known
    labels = zero_shot.labels[known]
    how = for_rows(pool.by_formula, known)
    score, wordings = class_scores(zero_shot, row_of, scores)
    rows = np.stack([labels, score[known]], axis=1)
    by_wording = [roc_auc(labels, wording[known]) for wording in wordings]
    return {
        "crystals": len(known),
        "members": int(labels.sum()),
        "base_rate": float(labels.mean()),
        "roc_auc": estimate(rows, how, lambda drawn: roc_auc(drawn[:, 0], drawn[:, 1])),
        "average_precision": estimate(
            rows, how, lambda drawn: average_precision(drawn[:, 0], drawn[:, 1])
        ),
        "roc_auc_of_wordings": by_wording,
        "positive": list(zero_shot.positive),
        "negative": list(zero_shot.negative),
    }


def accuracy_in_group(
    pool: Pool, group: list[ZeroShotClass], row_of: dict[str, int], scores: np.ndarray
) -> dict[str, Any]:
    """Accuracy of choosing the class of a group whose sentences have the highest score."""
    labels = np.stack([zero_shot.labels for zero_shot in group])  # (classes, n)
    positive = np.stack([scores[[row_of[text] for text in c.positive]].mean(axis=0) for c in group])
    credit = np.array(
        [
            fair_credit(column, int(right))
            for column, right in zip(positive.T, labels.argmax(axis=0), strict=True)
        ]
    )
    frequencies = labels.mean(axis=1)
    return {
        "classes": len(group),
        "accuracy": estimate(credit, pool.by_formula),
        "most_frequent": {
            "class": group[int(frequencies.argmax())].name,
            "accuracy": float(frequencies.max()),
        },
        "chance": 1 / len(group),
    }


def with_own_classes(pool: Examples, own: OwnClasses) -> Pool:
    """The pool with the user's own classes, which `classify` then measures as well.

    Raises:
        ClassesError: none of the crystals of the pool has a label.
        EvaluationError: it is the pool of a property model, which has no texts.
    """
    if not isinstance(pool, Pool):
        raise EvaluationError(
            f"{pool.model.name} is a property model, which has no texts, so {own.path} has no use. "
            "Leave out --classes, or name a contrastive run."
        )
    own.classes([record.material_id for record in pool.records])
    return dataclasses.replace(pool, own_classes=own)


def classify(pool: Pool) -> Section:
    """The task: zero-shot classification by sentences, for all classes that the data know."""
    texts = [text_of(record, pool.model.config) for record in pool.records]
    everything = classes_of(pool.records, texts)
    if pool.own_classes is not None:
        everything += pool.own_classes.classes([record.material_id for record in pool.records])
    kept = [zero_shot for zero_shot in everything if zero_shot.is_large_enough]
    small = [zero_shot for zero_shot in everything if not zero_shot.is_large_enough]
    place = {"split": pool.split, "crystals": len(pool.records)}
    if not kept:
        return Section(
            "classes",
            "Zero-shot classes",
            f"No class has {MIN_MEMBERS} of the {len(pool.records)} crystals of the {pool.split} "
            f"split in it and {MIN_MEMBERS} outside, so there is nothing to measure.",
            tables=[],
            values={"pool": place, "classes": {}},
        )
    sentences = sorted({text for c in kept for text in (*c.positive, *c.negative)})
    row_of = {text: row for row, text in enumerate(sentences)}
    vectors = vectors_of(pool.model, sentences)
    scores = pool.scores(vectors)
    results = {(c.group, c.name): measure_class(pool, c, row_of, scores) for c in kept}
    if pool.model.is_dot_product:
        by_text = np.asarray(vectors @ pool.texts.T)
        for c in kept:
            own = class_scores(c, row_of, by_text)[0][c.known]
            results[c.group, c.name]["roc_auc_of_own_texts"] = roc_auc(c.labels[c.known], own)
    group = [c for c in kept if c.group == ONE_OF_GROUP]
    by_system = (
        accuracy_in_group(pool, group, row_of, scores)
        if group and np.stack([c.labels for c in group]).sum(axis=0).min() == 1
        else None
    )
    return Section(
        "classes",
        "Zero-shot classes",
        _intro(pool),
        tables=_tables(results, by_system, small),
        figures=[_drawing(results)],
        values={
            "pool": place,
            "classes": plain({f"{group}: {name}": r for (group, name), r in results.items()}),
            "crystal_system": plain(by_system),
            "not_measured": {
                f"{c.group}: {c.name}": {
                    "crystals": len(c.known),
                    "members": int(np.nansum(c.labels)),
                }
                for c in small
            },
        },
    )


def _intro(pool: Pool) -> str:
    return (
        f"Each class is described by sentences; the {len(pool.records)} crystals of the "
        f"{pool.split} split are ranked by their mean similarity to the sentences that are true "
        "for members minus that to the sentences that are true for others, and compared with "
        "labels from the properties, the symmetry and the composition. Whether a crystal is "
        "layered and which structure type it has is known from its text only: a crystal is a "
        "member if the text says so, so crystals of which the text says nothing count as others. "
        "ROC-AUC: the probability that a member ranks before another crystal (chance 0.5). "
        "Average precision: chance is the base rate. Intervals (95 %) from a bootstrap over "
        "compositions."
    )


def _tables(
    results: dict[tuple[str, str], dict[str, Any]],
    by_system: dict[str, Any] | None,
    small: list[ZeroShotClass],
) -> list[Table]:
    rows = []
    for (group, name), values in results.items():
        own = values.get("roc_auc_of_own_texts")
        lowest, highest = min(values["roc_auc_of_wordings"]), max(values["roc_auc_of_wordings"])
        rows.append(
            (
                f"{group}: {name}",
                f"{values['members']}/{values['crystals']}",
                decimal(values["roc_auc"]),
                f"{decimal(lowest)} to {decimal(highest)}",
                "-" if own is None else decimal(own),
                percent(values["average_precision"]),
                percent(values["base_rate"]),
            )
        )
    left_out = ", ".join(f"{c.group}: {c.name} ({int(np.nansum(c.labels))})" for c in small)
    tables = [
        Table(
            "Classes",
            (
                "class", "members", "ROC-AUC", "of single wordings", "by own text",
                "average precision (%)", "base rate (%)",
            ),
            rows,
            note="By own text: the same sentences compared with the text of each crystal instead "
            "of the crystal; this shows how well the sentences ask."
            + (f" Fewer than {MIN_MEMBERS} members: {left_out}." if left_out else ""),
        )
    ]  # fmt: skip
    if by_system is not None:
        most = by_system["most_frequent"]
        tables.append(Table(
            "The right crystal system is that with the highest similarity, percent",
            ("", "accuracy", f"always {most['class']}", "chance"),
            [(
                f"{by_system['classes']} crystal systems", percent(by_system["accuracy"]),
                percent(most["accuracy"]), percent(by_system["chance"]),
            )],
        ))  # fmt: skip
    return tables


def _drawing(results: dict[tuple[str, str], dict[str, Any]]) -> Drawing:
    areas: dict[str, Estimate] = {
        f"{group}: {name}": values["roc_auc"] for (group, name), values in results.items()
    }
    ordered = sorted(areas.items(), key=lambda item: item[1].value)
    return Drawing(
        "areas",
        "Area under the ROC curve of each class, with 95 % intervals. Dotted: chance.",
        "One bar per class, sorted. "
        + "; ".join(f"{name}: {decimal(area.value)}" for name, area in reversed(ordered)),
        functools.partial(_draw, areas=dict(ordered)),
        size=(6.4, 1.0 + 0.2 * len(areas)),
    )


def _draw(figure: Figure, areas: dict[str, Estimate]) -> None:
    axis = figure.subplots()
    places = np.arange(len(areas))
    middle = np.array([area.value for area in areas.values()])
    low = middle - [area.low for area in areas.values()]
    high = [area.high for area in areas.values()] - middle
    axis.errorbar(
        middle, places, xerr=np.maximum([low, high], 0), fmt="o", ms=4, capsize=2, color="#3b7dd8"
    )
    axis.axvline(0.5, color="#8a8f98", ls=":")
    axis.set_yticks(places, list(areas), fontsize=8)
    lowest = float(np.nanmin(middle - low))
    axis.set(xlabel="area under the ROC curve", xlim=(min(0.4, lowest - 0.02), 1.01))
    axis.set_ylim(-0.7, len(areas) - 0.3)
