"""The aspects of a crystal that questions are about, with answers worded as statements.

The statements use other words than the narratives ("halides" for "chloride", "a cube" for "cubic",
picometers for angstroms), so that the right choice cannot be found by word overlap. Each aspect has
few answers, and each answer is shared by hundreds of crystals.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

from pymatgen.core import Element

from tools.materials_project_mini.chemistry import is_metal
from tools.materials_project_mini.compound import Compound
from tools.materials_project_mini.english import join

Answer = str | int | tuple[str, ...] | tuple[str, int]


@dataclass(frozen=True)
class Aspect:
    """An aspect of a crystal that questions can be about.

    Attributes:
        name: name for messages.
        answer: computes the answer for a compound; None where it does not apply or is debatable.
        statement: words an answer as a sentence.
        is_false: whether the answer of a different compound is certainly false for this one.
        weight: relative frequency of the aspect within its list.
    """

    name: str
    answer: Callable[[Compound], Answer | None]
    statement: Callable[[Answer], str]
    is_false: Callable[[Compound, Answer], bool]
    weight: float


# --- structure ---

_CELLS = {
    "cubic": "a box as wide and tall as it is deep",
    "tetragonal": "a tall or flat box on a square base",
    "orthorhombic": "a box of unequal width, depth and height",
    "hexagonal": "a column on a 120° diamond",
    "monoclinic": "a box that leans sideways",
    "triclinic": "a fully skewed box",
}
_LENGTH_MARGIN, _ANGLE_MARGIN = 0.02, 2.0  # relative; degrees. Smaller differences are ignored.


def _cell(compound: Compound) -> str | None:
    """The crystal family, unless the conventional cell resembles that of a different family."""
    a, b, c, *angles = compound.facts.lattice
    system = compound.facts.crystal_system
    oblique = [abs(angle - 90) > _ANGLE_MARGIN for angle in angles]
    differ = [
        abs(p - q) > _LENGTH_MARGIN * max(p, q) for p, q in itertools.combinations((a, b, c), 2)
    ]
    seen = {
        "tetragonal": differ[1],
        "orthorhombic": all(differ),
        "monoclinic": oblique[1],
        "triclinic": all(oblique),
    }.get(system, True)
    if not seen:
        return None
    return "hexagonal" if system == "trigonal" else system


def _cell_is_false(compound: Compound, answer: Answer) -> bool:
    own = _cell(compound)
    return own != answer and {own, answer} != {"monoclinic", "triclinic"}


def _centering(compound: Compound) -> str | None:
    """The centring of the Bravais lattice; None if it depends on the choice of axes."""
    letter, system = compound.facts.space_group[0], compound.facts.crystal_system
    if letter == "R" or (letter in "AC" and system == "monoclinic"):
        return None
    return {"P": "primitive", "I": "body-centered", "F": "face-centered"}.get(
        letter, "base-centered"
    )


# Last space group number of a run -> order of the highest rotation axis.
_AXES = (
    (2, 1), (5, 2), (9, 1), (74, 2), (80, 4), (82, 2), (110, 4), (122, 2), (142, 4), (167, 3),
    (173, 6), (174, 3), (186, 6), (190, 3), (194, 6), (206, 3), (214, 4), (220, 3), (230, 4),
)  # fmt: skip


def _rotation(compound: Compound) -> int | None:
    """The smallest angle of a rotation in the point group, degrees."""
    number = compound.facts.space_group_number
    order = next(order for last, order in _AXES if number <= last)
    return 360 // order if order > 1 else None


def _nearest(value: float, step: int) -> int:
    return step * math.floor(value / step + 0.5)


_DISTANCE_STEP = 20  # pm


def _shortest(compound: Compound) -> float | None:
    """The shortest distance between two atoms, pm."""
    contacts = compound.facts.contacts
    return 100 * min(contacts.values()) if contacts else None


def _distance(compound: Compound) -> int | None:
    value = _shortest(compound)
    return None if value is None else _nearest(value, _DISTANCE_STEP)


def _distance_is_false(compound: Compound, answer: Answer) -> bool:
    value = _shortest(compound)
    return value is not None and abs(value - answer) >= 1.5 * _DISTANCE_STEP


STRUCTURE = (
    Aspect(
        "centering",
        _centering,
        lambda answer: f"The Bravais lattice is {answer}.",
        lambda compound, answer: _centering(compound) != answer,
        0.2,
    ),
    Aspect(
        "smallest rotation",
        _rotation,
        lambda answer: f"Counting screw axes, its smallest symmetry rotation is by {answer}°.",
        lambda compound, answer: _rotation(compound) != answer,
        0.2,
    ),
    Aspect(
        "shape of the cell",
        _cell,
        lambda answer: f"The conventional unit cell has the shape of {_CELLS[answer]}.",
        _cell_is_false,
        0.45,
    ),
    Aspect(
        "shortest distance",
        _distance,
        lambda answer: f"The shortest distance between two atoms is about {answer} pm.",
        _distance_is_false,
        0.15,
    ),
)


# --- composition ---

_FAMILY_ORDER = (
    "alkali", "alkaline-earth", "f-block", "d-block", "triel", "tetrel", "pnictogen",
    "chalcogen", "halogen",
)  # fmt: skip


def family(symbol: str) -> str | None:
    """The family of an element in the periodic table.

    None for hydrogen and the noble gases, whose family would reveal them, and for elements that
    tables assign to either the d or the f block.
    """
    element = Element(symbol)
    if symbol in ("H", "La", "Lu", "Ac", "Lr") or element.group == 18:
        return None
    if 57 <= element.Z <= 71 or 89 <= element.Z <= 103:
        return "f-block"
    if 3 <= element.group <= 12:
        return "d-block"
    return {1: "alkali", 2: "alkaline-earth", 13: "triel", 14: "tetrel", 15: "pnictogen",
            16: "chalcogen", 17: "halogen"}[element.group]  # fmt: skip


def _families(compound: Compound) -> tuple[str, ...] | None:
    found = {family(symbol) for symbol in compound.elements}
    if compound.is_element or None in found:
        return None
    return tuple(name for name in _FAMILY_ORDER if name in found)


def _families_are_false(compound: Compound, answer: Answer) -> bool:
    """Whether the answer has a family that the compound lacks, which is false in any reading."""
    return not set(answer) <= {family(symbol) for symbol in compound.elements}


def _families_statement(answer: Answer) -> str:
    noun = "family" if len(answer) == 1 else "families"
    return f"Its elements belong to the {join(answer)} {noun} of the periodic table."


_ARITY = {2: "binary", 3: "ternary", 4: "quaternary", 5: "quinary"}
_SHARE_MARGIN = 5  # percent of the atoms


def _percent(part: int, total: int) -> int:
    return math.floor(100 * part / total + 0.5)


def _majority(compound: Compound) -> tuple[str, int] | None:
    """Number of elements, and the percentage of atoms of the most abundant element."""
    counts = compound.facts.counts.values()
    arity = _ARITY.get(len(counts))
    return None if arity is None else (arity, _percent(max(counts), sum(counts)))


def _majority_is_false(compound: Compound, answer: Answer) -> bool:
    own = _majority(compound)
    if own is None:
        return False
    return own[0] != answer[0] or abs(own[1] - answer[1]) >= _SHARE_MARGIN


_MASSES = (13, 16, 19, 24, 30, 37, 46, 58, 72, 90, 110, 140, 170, 210, 250)


def _mean_mass(compound: Compound) -> float:
    """Mean atomic mass, u."""
    counts = compound.facts.counts
    total = sum(n * float(Element(symbol).atomic_mass) for symbol, n in counts.items())
    return total / sum(counts.values())


def _mass(compound: Compound) -> int:
    """The nearest of the masses; the first one includes everything lighter."""
    mean = _mean_mass(compound)
    return min(_MASSES, key=lambda mass: abs(math.log(mass / mean)))


def _mass_is_false(compound: Compound, answer: Answer) -> bool:
    ratio = _mean_mass(compound) / answer
    return ratio >= 1.3 or (ratio <= 1 / 1.3 and answer != _MASSES[0])


def _mass_statement(answer: Answer) -> str:
    amount = "less than 15" if answer == _MASSES[0] else f"about {answer}"
    return f"Its mean atomic mass is {amount} u."


COMPOSITION = (
    Aspect("families of elements", _families, _families_statement, _families_are_false, 0.4),
    Aspect(
        "most abundant element",
        _majority,
        lambda answer: (
            f"It is a {answer[0]} phase in which the most abundant element makes up {answer[1]}% "
            "of the atoms."
        ),
        _majority_is_false,
        0.35,
    ),
    Aspect(
        "mean atomic mass",
        _mass,
        _mass_statement,
        _mass_is_false,
        0.25,
    ),
)


# --- oxides and other classes ---

_CLASSES = {
    "oxide": "oxo materials",
    "oxysalt": "oxoacid salts",
    "halide": "halides",
    "chalcogenide": "materials of heavy chalcogens",
    "pnictide": "pnictides",
    "tetrelide": "tetrelides",
    "alloy": "alloys",
    "heteroanionic": "heteroanionic materials",
    "element": "unary materials",
}
_OXYSALTS = frozenset({
    "carbonate", "nitrate", "nitrite", "sulfate", "sulfite", "selenate", "selenite", "tellurate",
    "tellurite", "phosphate", "arsenate", "arsenite", "silicate", "germanate", "borate",
    "perchlorate", "chlorate", "chlorite", "perbromate", "bromate", "iodate", "periodate",
})  # fmt: skip
_SINGLE = {
    "oxide": "oxide", "fluoride": "halide", "chloride": "halide", "bromide": "halide",
    "iodide": "halide", "sulfide": "chalcogenide", "selenide": "chalcogenide",
    "telluride": "chalcogenide", "nitride": "pnictide", "phosphide": "pnictide",
    "arsenide": "pnictide", "antimonide": "pnictide", "carbide": "tetrelide",
    "silicide": "tetrelide", "germanide": "tetrelide", "intermetallic compound": "alloy",
    "elemental metal": "element", "elemental solid": "element", "noble-gas solid": "element",
}  # fmt: skip
# A compound with none of these elements is certainly not of the class.
_REQUIRED = {
    "oxide": frozenset({"O"}),
    "oxysalt": frozenset({"O"}),
    "halide": frozenset({"F", "Cl", "Br", "I"}),
    "chalcogenide": frozenset({"S", "Se", "Te", "Po"}),
    "pnictide": frozenset({"N", "P", "As", "Sb", "Bi"}),
    "tetrelide": frozenset({"C", "Si", "Ge", "Sn", "Pb"}),
}
# A compound with any of these is certainly not an alloy.
_NOT_IN_ALLOYS = frozenset({"F", "O", "Cl", "N", "Br", "S", "I", "Se", "H", "P"})
_NONMETALS = frozenset(
    symbol for symbols in _REQUIRED.values() for symbol in symbols if not is_metal(symbol)
) | {"H", "B"}


def _class(compound: Compound) -> str | None:
    kind = compound.kind
    if kind in _SINGLE:
        return _SINGLE[kind]
    if kind in _OXYSALTS:
        return "oxysalt"
    words = kind.split()
    mixed = kind.startswith("oxy") and kind.endswith("ide")
    if mixed or (len(words) == 2 and set(words) <= _SINGLE.keys()):
        return "heteroanionic"
    return None


def _class_is_false(compound: Compound, answer: Answer) -> bool:
    """Decided by the elements only, so the statement is false in any nomenclature."""
    present = set(compound.facts.counts)
    if answer == "element":
        return len(present) > 1
    if answer == "alloy":
        return bool(present & _NOT_IN_ALLOYS)
    if answer == "heteroanionic":
        return len(present & _NONMETALS) < 2
    return not present & _REQUIRED[answer]


_ROMAN = ("0", "I", "II", "III", "IV", "V", "VI", "VII", "VIII")


def _valence(compound: Compound) -> int | None:
    """The highest oxidation state, if all states are certain."""
    return None if compound.states is None else max(compound.states.values())


def _oxygen_share(compound: Compound) -> int | None:
    counts = compound.facts.counts
    return (
        _percent(counts["O"], sum(counts.values())) if "O" in counts and len(counts) > 1 else None
    )


def _oxygen_share_is_false(compound: Compound, answer: Answer) -> bool:
    own = _oxygen_share(compound)
    return own is not None and abs(own - answer) >= _SHARE_MARGIN


_NEARLY = 0.1  # smaller differences in electronegativity are not ranked


def _electropositive(compound: Compound) -> str | None:
    """The family of the most electropositive element, if that is certain."""
    values = {symbol: Element(symbol).X for symbol in compound.elements}
    if len(values) < 2 or any(math.isnan(value) for value in values.values()):
        return None
    lowest = min(values.values())
    found = {family(symbol) for symbol, value in values.items() if value < lowest + _NEARLY}
    return found.pop() if len(found) == 1 else None


_IONICITY_STEP = 10  # percent


def _ionic_character(compound: Compound) -> float | None:
    """Percent, 100 (1 - exp(-d^2/4)), of the largest difference d in electronegativity."""
    values = [Element(symbol).X for symbol in compound.elements]
    if len(values) < 2 or any(math.isnan(value) for value in values):
        return None
    return 100 * (1 - math.exp(-((max(values) - min(values)) ** 2) / 4))


def _ionicity(compound: Compound) -> int | None:
    value = _ionic_character(compound)
    return None if value is None else _nearest(value, _IONICITY_STEP)


def _ionicity_is_false(compound: Compound, answer: Answer) -> bool:
    value = _ionic_character(compound)
    return value is not None and abs(value - answer) >= 1.5 * _IONICITY_STEP


OXIDE = (
    Aspect(
        "class",
        _class,
        lambda answer: f"Chemically, this crystal is classed among {_CLASSES[answer]}.",
        _class_is_false,
        0.45,
    ),
    Aspect(
        "highest oxidation state",
        _valence,
        lambda answer: f"The highest formal oxidation state in it is {_ROMAN[answer]}.",
        lambda compound, answer: _valence(compound) not in (None, answer),
        0.15,
    ),
    Aspect(
        "share of oxygen",
        _oxygen_share,
        lambda answer: f"Oxygen accounts for {answer}% of its atoms.",
        _oxygen_share_is_false,
        0.15,
    ),
    Aspect(
        "most electropositive element",
        _electropositive,
        lambda answer: f"Its most electropositive element belongs to the {answer} family.",
        lambda compound, answer: _electropositive(compound) not in (None, answer),
        0.2,
    ),
    Aspect(
        "ionic character",
        _ionicity,
        lambda answer: (
            "By Pauling's formula, its largest electronegativity difference stands for about "
            f"{answer}% ionic character."
        ),
        _ionicity_is_false,
        0.1,
    ),
)
