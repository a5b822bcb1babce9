"""One example of a data set: a crystal with texts, questions and properties."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clac_jax.crystals.crystal import Crystal
from clac_jax.errors import UserError

PROPERTIES = (
    "formation energy per atom",
    "band gap",
    "energy above hull",
    "density",
    "total magnetization",
    "bulk modulus",
    "shear modulus",
    "poisson ratio",
    "elastic anisotropy",
    "refractive index",
    "dielectric constant",
    "electronic dielectric constant",
    "piezoelectric modulus",
)
"""Property columns of the public data set, which are always read."""

QUESTIONS = ("structure_question_list", "composition_question_list", "oxide_question_list")


class DataError(UserError, ValueError):
    """A data set, one of its files, or a row cannot be used."""


def shortened(text: str, limit: int = 80) -> str:
    """The first `limit` characters of a text, escaped to be printable, for use in a message."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:limit])
    return shown + ("..." if len(text) > limit else "")


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded as UTF-8, that is, has no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class Record:
    """One example.

    Attributes:
        material_id: unique id in the data set.
        lattice: (3, 3) float64, angstrom; the rows are the cell vectors.
        atomic_numbers: (N,) int32.
        positions: (N, 3) float64, Cartesian, angstrom.
        formula: the formula as written in the data set and its texts.
        gpt_text: first part of the narrative; may be empty.
        gpt_explanation: second part of the narrative; may be empty.
        text: the "papers" source: entries, each a tuple of paragraphs.
        questions: name of a question list -> its statements, the correct one first.
        properties: name -> value, for the properties that are known.
    """

    material_id: str
    lattice: np.ndarray
    atomic_numbers: np.ndarray
    positions: np.ndarray
    formula: str
    gpt_text: str = ""
    gpt_explanation: str = ""
    text: tuple[tuple[str, ...], ...] = ()
    questions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    properties: dict[str, float] = field(default_factory=dict)

    def crystal(self) -> Crystal:
        """The crystal, checked.

        Raises:
            CrystalError: the arrays do not describe a crystal.
        """
        return Crystal(self.lattice, self.atomic_numbers, self.positions)

    def text_of(self, source: str, rng: np.random.Generator | None) -> str:
        """The text of a source.

        Args:
            source: "narratives" joins `gpt_text` and `gpt_explanation`; "papers" selects a random
                entry of `text`.
            rng: source of randomness for "papers"; None joins all entries, as in evaluation.

        Raises:
            DataError: the record has no text of this source.
        """
        if source == "narratives":
            words = " ".join(part for part in (self.gpt_text, self.gpt_explanation) if part)
        else:
            entries = self.text
            if rng is not None and entries:
                entries = (entries[int(rng.integers(len(entries)))],)
            words = " ".join(paragraph for entry in entries for paragraph in entry)
        if not words.strip():
            raise DataError(f"it has no text of the source {source!r}.")
        return words

    def true_statements(self) -> tuple[str, ...]:
        """The correct statement of each question list, in the order of their names."""
        return tuple(self.questions[name][0] for name in sorted(self.questions))

    def to_example(self) -> dict[str, Any]:
        """The record as a TFDS example: three arrays, and the rest as JSON, which is fast to read.

        The coordinates have been rounded to float32 when the table was read.
        """
        return {
            "material_id": self.material_id,
            "lattice": np.asarray(self.lattice, np.float64),
            "atomic_numbers": np.asarray(self.atomic_numbers, np.int32),
            "positions": np.asarray(self.positions, np.float64),
            "rest": json.dumps(self._rest(), ensure_ascii=False),
        }

    def digest(self) -> int:
        """A 64-bit hash of the content."""
        digest = hashlib.blake2b(digest_size=8)
        rest = json.dumps(self._rest(), sort_keys=True)
        for content in (
            self.material_id.encode(),
            np.asarray(self.lattice, "<f4").tobytes(),
            np.asarray(self.atomic_numbers, "<i4").tobytes(),
            np.asarray(self.positions, "<f4").tobytes(),
            rest.encode(),
        ):
            digest.update(len(content).to_bytes(8, "little"))
            digest.update(content)
        return int.from_bytes(digest.digest(), "little")

    def _rest(self) -> dict[str, Any]:
        arrays = ("material_id", "lattice", "atomic_numbers", "positions")
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in arrays
        }

    @classmethod
    def from_example(cls, example: dict[str, Any]) -> Record:
        """The inverse of `to_example`."""
        rest = json.loads(example["rest"])
        rest["text"] = tuple(tuple(entry) for entry in rest["text"])
        rest["questions"] = {name: tuple(texts) for name, texts in rest["questions"].items()}
        name = example["material_id"]
        return cls(
            material_id=name.decode() if isinstance(name, bytes) else str(name),
            lattice=example["lattice"],
            atomic_numbers=example["atomic_numbers"],
            positions=example["positions"],
            **rest,
        )
