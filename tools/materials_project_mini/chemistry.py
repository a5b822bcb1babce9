"""Element names and the class of a compound."""

from __future__ import annotations

from pymatgen.core import Element

from tools.materials_project_mini.facts import Facts

_ANION_CLASSES = (
    ("F", "fluoride"),
    ("O", "oxide"),
    ("Cl", "chloride"),
    ("Br", "bromide"),
    ("I", "iodide"),
    ("S", "sulfide"),
    ("Se", "selenide"),
    ("N", "nitride"),
    ("Te", "telluride"),
    ("P", "phosphide"),
    ("As", "arsenide"),
    ("H", "hydride"),
    ("C", "carbide"),
    ("Sb", "antimonide"),
    ("B", "boride"),
    ("Si", "silicide"),
    ("Ge", "germanide"),
)
NONMETALS = frozenset(
    ("H", "He", "B", "C", "N", "O", "F", "Ne", "Si", "P", "S", "Cl", "Ar", "Ge", "As", "Se", "Br",
     "Kr", "Sb", "Te", "I", "Xe", "At", "Rn")
)  # fmt: skip
_HARD_ANIONS = frozenset(("F", "O", "Cl", "Br", "I", "S", "Se", "N", "Te"))


def name(symbol: str) -> str:
    """The element's English name, lower case ("iron")."""
    spelling = {"Al": "aluminum", "Cs": "cesium", "S": "sulfur"}
    return spelling.get(symbol, Element(symbol).long_name.lower())


# (central nonmetal, its oxygen atoms) -> the oxyanion it forms.
_OXYANIONS = {
    ("B", 3): "borate",
    ("B", 4): "borate",
    ("C", 3): "carbonate",
    ("N", 3): "nitrate",
    ("Si", 4): "silicate",
    ("Ge", 4): "germanate",
    ("P", 4): "phosphate",
    ("As", 4): "arsenate",
    ("S", 4): "sulfate",
    ("Se", 4): "selenate",
    ("I", 3): "iodate",
}


def compound_class(facts: Facts) -> str:
    """What kind of compound it is: "oxide", "phosphate", "intermetallic compound", ...

    A compound with one kind of anion is named for it, an oxysalt for its anion where every central
    atom has the right number of oxygen neighbors. Whatever is not certain is a "compound".
    """
    counts = facts.counts
    if len(counts) == 1:
        return "element"
    metals = [symbol for symbol in counts if symbol not in NONMETALS]
    if len(metals) == len(counts):
        return "intermetallic compound"
    if "O" in counts:
        return _oxygen_class(facts, metals)
    anions = [symbol for symbol, _ in _ANION_CLASSES if symbol in counts]
    if len(anions) != 1:
        return "compound"
    return dict(_ANION_CLASSES)[anions[0]]


def _oxygen_class(facts: Facts, metals: list[str]) -> str:
    others = [symbol for symbol in facts.counts if symbol in NONMETALS and symbol != "O"]
    if not others:
        return "oxide"
    if not metals:
        return "oxide" if len(facts.counts) == 2 else "oxygen compound"
    if len(others) > 1 or others[0] == "H":
        return "oxygen compound"
    (center,) = others
    around = [site.neighbours for site in facts.sites if site.element == center]
    if all("O" not in neighbours for neighbours in around):
        prefix = dict(_ANION_CLASSES).get(center)
        return f"oxy{prefix}" if prefix in _OXY else "oxygen compound"
    kinds = {
        _OXYANIONS.get((center, neighbours["O"])) if set(neighbours) == {"O"} else None
        for neighbours in around
    }
    (kind,) = kinds if len(kinds) == 1 else (None,)
    return kind or "oxygen compound"


_OXY = frozenset(("fluoride", "chloride", "bromide", "iodide", "sulfide", "selenide", "nitride"))


def describe_type(facts: Facts) -> str | None:
    """The structure type, where its name is also chemically right.

    "Half-Heusler" and the like are words of intermetallics; a perovskite has its anion on the
    threefold site, an antiperovskite its metal.
    """
    kind = facts.prototype
    counts = facts.counts
    anions = set(counts) & _HARD_ANIONS
    if kind in ("half-Heusler", "full-Heusler", "cubic Laves (C15)", "hexagonal Laves (C14)"):
        return None if anions or "H" in counts else kind
    if kind == "cubic perovskite":
        threefold = max(counts, key=lambda symbol: counts[symbol])
        if threefold in anions or threefold == "H":
            return kind if len(anions) <= 1 else None
        center = set(counts) & {"N", "C", "O", "B"}
        return "cubic antiperovskite" if len(center) == 1 else None
    if kind in ("spinel", "corundum", "bixbyite", "wurtzite", "chalcopyrite") and not anions:
        return kind if set(counts) & NONMETALS else None
    return kind
