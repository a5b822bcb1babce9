"""Element names, and compound classes and oxidation states from bonds and distances."""

from __future__ import annotations

import itertools

from pymatgen.core import Element

from tools.materials_project_mini.facts import Facts

NOBLE_GASES = frozenset({"He", "Ne", "Ar", "Kr", "Xe", "Rn"})
# What a compound can be named for, the most electronegative first; "X-ide" of each.
_IDES = {
    "F": "fluoride", "O": "oxide", "Cl": "chloride", "N": "nitride", "Br": "bromide",
    "S": "sulfide", "I": "iodide", "Se": "selenide", "C": "carbide", "H": "hydride",
    "Te": "telluride", "P": "phosphide", "As": "arsenide", "B": "boride", "Sb": "antimonide",
    "Ge": "germanide", "Si": "silicide",
}  # fmt: skip
_RANK = {symbol: rank for rank, symbol in enumerate(_IDES)}
HALOGENS = frozenset({"F", "Cl", "Br", "I"})
CHALCOGENS = frozenset({"S", "Se", "Te"})

# Under these distances (angstrom) two atoms of one element are bonded to each other.
_PAIRED = {
    "O": 1.7, "F": 1.8, "S": 2.4, "Se": 2.65, "Te": 3.05, "Cl": 2.3, "Br": 2.6, "I": 3.15, "N": 1.7,
    "C": 1.7, "P": 2.55, "As": 2.75, "Sb": 3.15, "H": 1.0, "Si": 2.7, "Ge": 2.8, "B": 2.1,
}  # fmt: skip
# Center -> longest bond to oxygen (angstrom), number of oxygen atoms -> name of the salt.
_OXYSALTS: dict[str, tuple[float, dict[int, str]]] = {
    "C": (1.45, {3: "carbonate"}),
    "N": (1.45, {3: "nitrate", 2: "nitrite"}),
    "S": (1.75, {4: "sulfate", 3: "sulfite"}),
    "Se": (1.95, {4: "selenate", 3: "selenite"}),
    "Te": (2.1, {6: "tellurate", 3: "tellurite"}),
    "P": (1.8, {4: "phosphate"}),
    "As": (1.95, {4: "arsenate", 3: "arsenite"}),
    "Si": (2.0, {4: "silicate", 6: "silicate"}),
    "Ge": (2.1, {4: "germanate", 6: "germanate"}),
    "B": (1.75, {3: "borate", 4: "borate"}),
    "Cl": (1.75, {4: "perchlorate", 3: "chlorate", 2: "chlorite"}),
    "Br": (1.95, {4: "perbromate", 3: "bromate"}),
    "I": (2.15, {3: "iodate", 4: "periodate", 6: "periodate"}),
}


def name(symbol: str) -> str:
    """The element's American English name, lower case ("iron")."""
    spelling = {"Al": "aluminum", "Cs": "cesium", "S": "sulfur"}
    return spelling.get(symbol) or Element(symbol).long_name.lower()


def is_metal(symbol: str) -> bool:
    """Whether the element counts as a metal here (metalloids of the p block do not)."""
    return symbol not in _IDES and symbol not in NOBLE_GASES


def closest(facts: Facts, first: str, second: str) -> float:
    """Shortest distance between two elements, angstrom; 99 where it exceeds the cutoff."""
    return facts.contacts.get(tuple(sorted((first, second))), 99.0)


def paired(facts: Facts, symbol: str) -> bool:
    """Whether atoms of this element are bonded to each other (peroxide, disulfide, ...)."""
    return symbol in facts.counts and closest(facts, symbol, symbol) < _PAIRED.get(symbol, 0.0)


def anions(facts: Facts) -> list[str]:
    """The elements that the compound is named after, the most electronegative first.

    An element counts if one of its atoms is bonded to a less electronegative element: the sulfur of
    a sulfide does, but not that of a sulfate, which is only bonded to oxygen.
    """
    found = []
    for symbol in _IDES:
        others = {other for site in facts.of(symbol) for other in site.neighbors} - {symbol}
        if any(_RANK.get(other, 99) > _RANK[symbol] for other in others):
            found.append(symbol)
    if not found and any(map(is_metal, facts.counts)):
        # CrystalNN finds no bonds for a nonmetal inside a metal (Ce3SnC) or a cage (YB6).
        found = [symbol for symbol in _IDES if symbol in facts.counts][:1]
    return found


def oxysalts(facts: Facts) -> list[tuple[str, str]]:
    """(center, name) of each complex oxygen anion, such as ("P", "phosphate")."""
    if not any(map(is_metal, facts.counts)):
        return []
    found = []
    for center, (reach, names) in _OXYSALTS.items():
        sites = facts.of(center)
        if not sites or "O" not in facts.counts or paired(facts, center):
            continue
        kinds = {
            names.get(site.neighbors.get("O", 0))
            if "O" in site.neighbors
            and site.lengths["O"][0] < reach
            and all(other == "O" or is_metal(other) for other in site.neighbors)
            else None
            for site in sites
        }
        if len(kinds) == 1 and None not in kinds:
            found.append((center, kinds.pop()))
    return found


def compound_class(facts: Facts) -> str:
    """The class of the compound: "phosphate", "oxyfluoride", "intermetallic compound", ..."""
    counts = facts.counts
    if len(counts) == 1:
        (symbol,) = counts
        if symbol in NOBLE_GASES:
            return "noble-gas solid"
        return "elemental metal" if is_metal(symbol) else "elemental solid"
    special = _molecular_anion(facts)
    if special is not None:
        return special
    if len(counts) > 2 and not any(map(is_metal, counts)) and set(facts.pieces) == {0}:
        return "molecular compound"
    named = anions(facts)
    if not named:
        metals = all(map(is_metal, counts))
        return "intermetallic compound" if metals else "nonmetal compound"
    if "O" in named:
        return _oxygen_class(facts, named)
    if len(named) == 1:
        return _IDES[named[0]]
    if len(named) == 2:
        return " ".join(sorted(_IDES[symbol] for symbol in named))
    return "mixed-anion compound"


def _molecular_anion(facts: Facts) -> str | None:
    """The class of a compound with short bonds between nonmetals, or None."""
    counts = facts.counts
    metals = any(map(is_metal, counts))
    if {"C", "H"} <= counts.keys() and closest(facts, "C", "H") < 1.25:
        return "organic-inorganic compound" if metals else "molecular compound"
    if {"C", "O"} <= counts.keys() and closest(facts, "C", "O") < 1.2:
        bonded = {other for site in facts.of("C") for other in site.neighbors}
        return "carbonyl compound" if any(map(is_metal, bonded)) else "oxide"
    if {"C", "N"} <= counts.keys() and closest(facts, "C", "N") < 1.45:
        return _carbon_nitrogen_class(facts, metals)
    if {"N", "H"} <= counts.keys() and closest(facts, "N", "H") < 1.2:
        hydrogens = {site.neighbors.get("H", 0) for site in facts.of("N")}
        names = {4: "ammonium salt", 3: "ammine compound", 2: "amide", 1: "imide"}
        if len(hydrogens) == 1:
            return (
                names.get(hydrogens.pop(), "nitrogen-hydrogen compound")
                if metals or len(counts) > 2
                else "molecular compound"
            )
        return "nitrogen-hydrogen compound"
    if "N" in counts and closest(facts, "N", "N") < 1.26 and metals:
        return "azide" if facts.counts["N"] % 3 == 0 else "compound with dinitrogen units"
    if {"B", "H"} <= counts.keys() and closest(facts, "B", "H") < 1.35:
        return "borohydride" if metals else "hydride"
    for center, reach, prefix in (("P", 2.35, "phosphate"), ("As", 2.45, "arsenate")):
        for ligand, word in (("S", "thio"), ("Se", "seleno")):
            sees = [site.neighbors for site in facts.of(center)]
            if (
                ligand in counts
                and metals
                and closest(facts, center, ligand) < reach + 0.15 * (ligand == "Se")
                and all(set(n) <= {ligand, center} and n.get(ligand, 0) >= 3 for n in sees)
            ):
                few = center == "As" and all(n[ligand] == 3 for n in sees)
                return word + ("arsenite" if few else prefix)
    return None


def _carbon_nitrogen_class(facts: Facts, metals: bool) -> str:
    bonds_hydrogen = closest(facts, "N", "H") < 1.2
    if closest(facts, "C", "N") < 1.22:
        if bonds_hydrogen:
            return "organic-inorganic compound" if metals else "organic compound"
        for chalcogen, reach, word in (("S", 1.8, "thiocyanate"), ("Se", 2.0, "selenocyanate")):
            if closest(facts, "C", chalcogen) < reach:
                return word
        if closest(facts, "N", "O") < 1.35:
            return "fulminate"
        if closest(facts, "C", "O") < 1.35:
            return "cyanate"
        if any(site.neighbors.get("C", 0) >= 2 for site in facts.of("N")):
            return "dicyanamide"
        if all(site.neighbors == {"N": 2} for site in facts.of("C")):
            return "cyanamide" if metals else "carbodiimide"
        return "cyanide"
    only_nitrogen = all(set(site.neighbors) <= {"N"} for site in facts.of("C"))
    if metals and only_nitrogen:
        return "cyanamide"
    if not bonds_hydrogen:
        return "carbide nitride" if metals else "molecular compound"
    return "organic-inorganic compound" if metals else "organic compound"


def _oxygen_class(facts: Facts, named: list[str]) -> str:
    counts = facts.counts
    wet = any(
        site.neighbors.get("H") == 2 and site.lengths["H"][1] < 1.15 for site in facts.of("O")
    )
    hydrated = "hydrated " if wet else ""
    salts = oxysalts(facts)
    centers = {center for center, _ in salts}
    rest = [symbol for symbol in named if symbol != "O" and symbol not in centers]
    others = [symbol for symbol in counts if symbol not in ("O", "H")]
    if paired(facts, "O"):
        return _bonded_oxygen_class(facts, others)
    if salts:
        if len(salts) > 2 or len(rest) > 1 or (len(salts) > 1 and rest):
            return "mixed-anion compound"
        words = [*sorted(salt for _, salt in salts), *(_IDES[symbol] for symbol in rest)]
        return hydrated + " ".join(words)
    if wet and counts["H"] >= 2 * counts["O"] and others:  # all oxygen belongs to water
        return f"hydrated {_IDES[rest[0]]}" if len(rest) == 1 else "hydrate"
    if rest:
        return f"{hydrated}oxy{_IDES[rest[0]]}" if len(rest) == 1 else "mixed-anion compound"
    if "H" not in counts or closest(facts, "O", "H") > 1.25:
        return "oxide"
    if wet:
        return "hydrate" if others else "molecular compound"
    if not any(map(is_metal, others)):
        return "oxyacid" if others else "molecular compound"
    if not all(map(is_metal, others)):
        return "hydrogen-bearing oxide"
    return "hydroxide" if counts["O"] == counts["H"] else "oxide hydroxide"


def _bonded_oxygen_class(facts: Facts, others: list[str]) -> str:
    if len(others) == 1 and is_metal(others[0]) and "H" not in facts.counts:
        distance, oxygens = closest(facts, "O", "O"), facts.counts["O"] / facts.counts[others[0]]
        if distance > 1.41 and oxygens in (1, 2):
            return "peroxide"
        if distance <= 1.41 and oxygens in (2, 3):
            return "superoxide" if oxygens == 2 else "ozonide"
    return "peroxo compound" if closest(facts, "O", "O") > 1.41 else "dioxygen compound"


# The common oxidation states of an element in solids. A solution of the charge balance counts only
# if it is unique, so a longer list is the more cautious one.
STATES: dict[str, tuple[int, ...]] = {
    "Li": (1,), "Na": (1,), "K": (1,), "Rb": (1,), "Cs": (1,),
    "Be": (2,), "Mg": (2,), "Ca": (2,), "Sr": (2,), "Ba": (2,), "Zn": (2,), "Cd": (2,),
    "B": (3,), "Al": (3,), "Ga": (1, 3), "In": (1, 3), "Tl": (1, 3),
    "Si": (4,), "Ge": (2, 4), "Sn": (2, 4), "Pb": (2, 4),
    "As": (3, 5), "Sb": (3, 5), "Bi": (3, 5),
    "Sc": (3,), "Y": (3,), "La": (3,), "Ce": (3, 4), "Pr": (3, 4), "Nd": (3,), "Pm": (2, 3),
    "Sm": (2, 3), "Eu": (2, 3), "Gd": (3,), "Tb": (3, 4), "Dy": (3,), "Ho": (3,), "Er": (3,),
    "Tm": (2, 3), "Yb": (2, 3), "Lu": (3,),
    "Ti": (2, 3, 4), "Zr": (3, 4), "Hf": (3, 4), "V": (2, 3, 4, 5), "Nb": (3, 4, 5),
    "Ta": (3, 4, 5), "Cr": (2, 3, 4, 5, 6), "Mo": (2, 3, 4, 5, 6), "W": (2, 3, 4, 5, 6),
    "Mn": (2, 3, 4, 5, 6, 7), "Tc": (4, 5, 6, 7), "Re": (3, 4, 5, 6, 7), "Fe": (2, 3, 4, 6),
    "Ru": (2, 3, 4, 5, 6, 7, 8), "Os": (3, 4, 5, 6, 7, 8), "Co": (2, 3, 4), "Rh": (3, 4, 5, 6),
    "Ir": (3, 4, 5, 6), "Ni": (2, 3, 4), "Pd": (2, 4), "Pt": (2, 4, 5, 6), "Cu": (1, 2, 3),
    "Ag": (1, 3), "Au": (1, 3, 5), "Hg": (1, 2), "Ac": (3,), "Th": (4,), "Pa": (4, 5),
    "U": (3, 4, 5, 6), "Np": (3, 4, 5, 6, 7), "Pu": (3, 4, 5, 6),
}  # fmt: skip
# Main-group elements and silver whose states differ by two rarely have mixed valence.
_RARELY_MIXED = frozenset({"Ga", "In", "Tl", "Ge", "Sn", "Pb", "As", "Sb", "Bi", "Ag", "Hg"})
# Center -> number of ligands around it -> state, for centers of complex anions.
_CENTER_STATES = {
    "C": {3: 4}, "N": {3: 5, 2: 3}, "P": {4: 5}, "S": {4: 6, 3: 4}, "Se": {4: 6, 3: 4},
    "Te": {6: 6, 3: 4}, "Cl": {4: 7, 3: 5}, "Br": {4: 7, 3: 5}, "I": {3: 5, 6: 7, 4: 7},
}  # fmt: skip
_ANION_STATES = {
    "F": -1, "Cl": -1, "Br": -1, "I": -1, "O": -2, "S": -2, "Se": -2, "Te": -2, "N": -3, "P": -3,
    "As": -3, "H": -1,
}  # fmt: skip
_SALT_FORMERS = HALOGENS | {"O", "S", "Se"}


def oxidation_states(facts: Facts) -> dict[str, int] | None:
    """Integer oxidation states if charge balance determines them, otherwise None.

    None for elements, intermetallics, bonds between like atoms, and anions such as carbide without
    a fixed charge. Nitrides, phosphides, arsenides, tellurides and hydrides count only with
    cations of one known state (the heavier group 13 included), because they are often metallic.
    """
    counts = facts.counts
    named = anions(facts)
    if len(counts) < 2 or not named or not set(named) <= _ANION_STATES.keys():
        return None
    words = compound_class(facts).split()
    if words[0] in _NO_STATES or any(paired(facts, s) for s in counts):
        return None
    centers = {center for center, _ in oxysalts(facts)}
    named = [symbol for symbol in named if symbol not in centers]
    soft = not set(named) <= _SALT_FORMERS
    if not _one_state_likely(facts, named, centers):
        return None
    choices = []
    for symbol in counts:
        if symbol in named:
            choices.append((_ANION_STATES[symbol],))
        elif symbol == "H":
            choices.append((1,))
        elif symbol in _CENTER_STATES:
            around = {
                sum(n for other, n in site.neighbors.items() if not is_metal(other))
                for site in facts.of(symbol)
            }
            if len(around) != 1:
                return None
            state = _CENTER_STATES[symbol].get(around.pop())
            if state is None:
                return None
            choices.append((state,))
        else:
            states = STATES.get(symbol)
            if states is None or (soft and len(states) > 1 and symbol not in ("Ga", "In")):
                return None
            choices.append(states)
    # An element that is both center and anion (thiosulfate) has no single state.
    for symbol in set(named) - {named[0]}:
        higher = set(named[: named.index(symbol)])
        if any(set(site.neighbors) <= higher for site in facts.of(symbol)):
            return None
    balanced = [
        states
        for states in itertools.product(*choices)
        if sum(q * n for q, n in zip(states, counts.values(), strict=True)) == 0
    ]
    return dict(zip(counts, balanced[0], strict=True)) if len(balanced) == 1 else None


_NO_STATES = frozenset({
    "peroxide", "superoxide", "ozonide", "peroxo", "dioxygen", "nonmetal", "carbonyl", "cyanide",
    "cyanamide", "cyanate", "thiocyanate", "selenocyanate", "dicyanamide", "carbodiimide",
    "fulminate", "azide", "molecular", "organic-inorganic", "organic", "hydrate", "hydrated",
    "ammonium", "ammine", "amide", "imide", "nitrogen-hydrogen", "borohydride",
})  # fmt: skip


def _one_state_likely(facts: Facts, named: list[str], centers: set[str]) -> bool:
    """Whether charge balance can determine the states: one variable element, with like sites.

    The charge could be distributed in several ways among two elements of variable state
    (BaPrMn2O6), or among unlike sites of one element (the chromium in KCr3O8). Carbon and nitrogen
    that are neither anions nor centers of complex anions have no clear state.
    """
    if any(e in facts.counts and e not in named and e not in centers for e in ("C", "N")):
        return False
    changeable = [e for e in facts.counts if e not in named and len(STATES.get(e, ())) > 1]
    if sum(e not in _RARELY_MIXED for e in changeable) > 1:
        return False
    return all(len({site.coordination for site in facts.of(e)}) == 1 for e in changeable)
