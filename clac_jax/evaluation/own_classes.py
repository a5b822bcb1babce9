"""The user's own classes, from a CSV with a label for each crystal.

Columns: `id` (as in the data), `label` (any words), and optionally `sentence`. Each label is a
class. Its sentences are those in the column `sentence` of its rows, each listed once or more; if
there are none, three general ones.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass

import numpy as np

from clac_jax.errors import UserError, one_line
from clac_jax.evaluation.class_list import ZeroShotClass
from clac_jax.stores.copies import local_copy

GROUP = "own"
COLUMNS = ("id", "label")


class ClassesError(UserError, ValueError):
    """A CSV of classes cannot be read or used."""


@dataclass(frozen=True)
class OwnClasses:
    """The classes of a file.

    Attributes:
        path: the file, for messages.
        label_of: id -> label.
        sentences: label -> its sentences.
    """

    path: str
    label_of: dict[str, str]
    sentences: dict[str, tuple[str, ...]]

    def classes(self, ids: list[str]) -> list[ZeroShotClass]:
        """One class per label, for these crystals; those that the file does not list are unknown.

        Raises:
            ClassesError: none of the crystals is in the file.
        """
        labels = [self.label_of.get(name) for name in ids]
        if not any(labels):
            raise ClassesError(
                f"{self.path} has none of the {len(ids)} crystals of the split: its first id is "
                f"{next(iter(self.label_of))!r}, that of the split {ids[0]!r}. Use the ids of the "
                "data set, or another --split."
            )
        return [
            ZeroShotClass(
                GROUP,
                label,
                np.array([np.nan if own is None else float(own == label) for own in labels]),
                sentences,
                tuple(
                    text
                    for other, texts in self.sentences.items()
                    if other != label
                    for text in texts
                ),
            )
            for label, sentences in self.sentences.items()
        ]


def read_classes(path: str | os.PathLike[str]) -> OwnClasses:
    """Reads a CSV of classes.

    Raises:
        ClassesError: the file cannot be read, a column is missing, a row lacks its id or label, an
            id has two labels, or there is one label only; the message names the row, as counted in
            an editor (the header is row 1).
    """
    name = str(path)
    try:
        with local_copy(path, "--classes").open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            if missing := sorted(set(COLUMNS) - set(reader.fieldnames or ())):
                raise ClassesError(
                    f"{name} has no column {missing[0]!r}: its first row is "
                    f"{one_line(','.join(reader.fieldnames or ()), 80)!r}. Name the columns "
                    "id,label or id,label,sentence in the first row."
                )
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ClassesError(
            f"{name} cannot be read as CSV ({one_line(error)}). Save it as CSV in UTF-8."
        ) from error
    label_of: dict[str, str] = {}
    first_row: dict[str, int] = {}
    sentences: dict[str, dict[str, None]] = {}
    for number, row in rows:
        key, label, sentence = (
            (row.get(column) or "").strip() for column in ("id", "label", "sentence")
        )
        if not (key or label or sentence):
            continue  # a blank line at the end, as spreadsheets write it
        if not key or not label:
            raise ClassesError(
                f"Row {number} of {name} has no {'label' if key else 'id'}. Complete or delete it."
            )
        if label_of.setdefault(key, label) != label:
            raise ClassesError(
                f"Row {number} of {name} gives {key} the label {label!r}, and row "
                f"{first_row[key]} gives it {label_of[key]!r}. Keep one label for each id."
            )
        first_row.setdefault(key, number)
        sentences.setdefault(label, {})
        if sentence:
            sentences[label][sentence] = None
    if len(sentences) < 2:
        raise ClassesError(
            f"{name} has {len(sentences)} label{'s' * (len(sentences) != 1)}. Give at least two, "
            "so that there is something to distinguish."
        )
    return OwnClasses(
        name, label_of, {label: tuple(s) or general(label) for label, s in sentences.items()}
    )


def general(label: str) -> tuple[str, ...]:
    """Sentences for a label without its own."""
    return (f"This material is {label}.", f"It is {label}.", f"{label[0].upper()}{label[1:]}.")
