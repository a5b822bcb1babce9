"""A crystal with its chemistry, and the words for it in a sentence."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property

from pymatgen.core import Element

from tools.materials_project_mini.chemistry import compound_class, is_metal, name, oxidation_states
from tools.materials_project_mini.facts import Facts
from tools.materials_project_mini.prototypes import prototype


@dataclass(frozen=True)
class Compound:
    """The facts of a crystal and their chemical interpretation."""

    facts: Facts

    @cached_property
    def kind(self) -> str:
        """The class of the compound, such as "phosphate"."""
        return compound_class(self.facts)

    @cached_property
    def states(self) -> dict[str, int] | None:
        """Oxidation states by symbol; None if uncertain."""
        return oxidation_states(self.facts)

    @cached_property
    def structure_type(self) -> str | None:
        """The structure prototype; None if uncertain."""
        return prototype(self.facts)

    @cached_property
    def elements(self) -> list[str]:
        """Element symbols, the least electronegative first."""
        return sorted(self.facts.counts, key=_electronegativity)

    @property
    def is_element(self) -> bool:
        """Whether there is only one element."""
        return len(self.facts.counts) == 1

    @property
    def is_metallic_bonded(self) -> bool:
        """Whether all elements are metals: then atoms have neighbors rather than bonds."""
        return all(map(is_metal, self.facts.counts))

    def it(self, rng: random.Random) -> str:
        """A word for the compound: its formula in nearly half the cases."""
        if self.is_element:
            element = name(self.elements[0])
            return rng.choice([f"elemental {element}", f"this form of {element}", "the crystal"])
        named = f"this {self.kind}"
        return rng.choice([*[self.facts.formula] * 4, named, named, "the compound", "the crystal"])


def _electronegativity(symbol: str) -> tuple[float, str]:
    value = Element(symbol).X
    return (value if value == value else 9.0, symbol)
