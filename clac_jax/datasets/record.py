"""One example of a data set: a crystal with its texts, questions and properties."""

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
"""Property columns that are kept, as the public data names them."""

QUESTIONS = ("structure_question_list", "composition_question_list", "oxide_question_list")


class DataError(UserError, ValueError):
    """A data set, one of its files or one of its rows cannot be used."""


def shortened(text: str, limit: int = 80) -> str:
    """A text from a file as a message shows it: its beginning, in one line of printable letters."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:limit])
    return shown + ("..." if len(text) > limit else "")


def is_unicode(text: str) -> bool:
    """Whether a text can be stored: not what was decoded from other bytes, nor half an emoji."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class Record:
    """One example.

    Attributes:
        material_id: its name in the data set.
        lattice: (3, 3) float64, rows are cell vectors, angstrom.
        atomic_numbers: (N,) int32.
        positions: (N, 3) float64, Cartesian, angstrom.
        formula: as the data set and its texts write it.
        gpt_text: first part of the narrative, may be empty.
        gpt_explanation: second part, may be empty.
        text: the "papers" source, a list of entries, each a list of paragraphs.
        questions: list name -> statements, the right one first.
        properties: name -> value, those that are known.
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
        """The crystal.

        Raises:
            CrystalError: the arrays do not describe one.
        """
        return Crystal(self.lattice, self.atomic_numbers, self.positions)

    def text_of(self, source: str, rng: np.random.Generator | None) -> str:
        """The text of one source.

        Args:
            source: "narratives" joins gpt_text and gpt_explanation; "papers" is one random entry
                of `text`.
            rng: draws the entry; None joins all of them, as an evaluation does.

        Raises:
            DataError: the record has no such text.
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

    def to_example(self) -> dict[str, Any]:
        """The record as TFDS stores it: three arrays and one JSON text, which is quick to read.

        The numbers of the crystal are stored with single precision.
        """
        return {
            "material_id": self.material_id,
            "lattice": np.asarray(self.lattice, np.float64),
            "atomic_numbers": np.asarray(self.atomic_numbers, np.int32),
            "positions": np.asarray(self.positions, np.float64),
            "rest": json.dumps(self._rest(), ensure_ascii=False),
        }

    def digest(self) -> int:
        """An unsigned 64-bit number that is another one for other content."""
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
