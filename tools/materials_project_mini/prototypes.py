"""Well-known structure types, named only if symmetry, sites and neighbors agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tools.materials_project_mini.chemistry import HALOGENS, anions, is_metal, paired
from tools.materials_project_mini.facts import Facts


@dataclass(frozen=True)
class _Sites:
    """A crystal matched to a table entry: elements in the order of the parts of the entry."""

    facts: Facts
    elements: tuple[str, ...]

    def around(self, part: int, number: int, shape: str | None = None) -> bool:
        """Whether all atoms of a part have this many neighbors (in this arrangement)."""
        return all(
            site.coordination == number and (shape is None or (site.shape or "").endswith(shape))
            for site in self.facts.of(self.elements[part])
        )

    def cage(self, part: int) -> bool:
        """Whether a part is a large cation: a metal with seven neighbors or more."""
        element = self.elements[part]
        return is_metal(element) and all(s.coordination >= 7 for s in self.facts.of(element))

    def joined(self, part: int) -> set[str]:
        """The connections of the polyhedra around a part."""
        return {kind for site in self.facts.of(self.elements[part]) for kind in site.sharing}

    def anion(self, part: int) -> bool:
        """Whether a part is the only anion."""
        return anions(self.facts) == [self.elements[part]]

    @property
    def metallic(self) -> bool:
        """Whether there are only metals, metalloids, pnictogens and tellurium."""
        return not set(self.elements) & ({"O", "N", "S", "Se", "H", "B", "C"} | HALOGENS)

    @property
    def unpaired(self) -> bool:
        """Whether no nonmetal is bonded to itself."""
        return not any(paired(self.facts, element) for element in self.elements)


_Check = Callable[[_Sites], bool]
# (space group, ((atoms per formula unit, Wyckoff letters), ...)) -> (order of parts, name, check)
_TYPES: dict[
    tuple[int, tuple[tuple[int, str], ...]], list[tuple[tuple[tuple[int, str], ...], str, _Check]]
] = {}


def _add(name: str, number: int, *forms: str, check: _Check = lambda _: True) -> None:
    """Registers a type; Wyckoff letters that an origin shift swaps are listed in all forms."""
    for form in forms:
        parts = tuple((int(p.split(":")[0]), p.split(":")[1]) for p in form.split())
        _TYPES.setdefault((number, tuple(sorted(parts))), []).append((parts, name, check))


_add("face-centered cubic", 225, "1:a", "1:b", check=lambda s: s.around(0, 12))
_add("body-centered cubic", 229, "1:a")
_add("hexagonal close-packed", 194, "1:c", "1:d", check=lambda s: s.around(0, 12))
_add("diamond", 227, "1:a", "1:b", check=lambda s: s.around(0, 4))
_add("rock salt", 225, "1:a 1:b", check=lambda s: s.around(0, 6) and s.around(1, 6))
_add("cesium chloride", 221, "1:a 1:b")
_add(
    "zincblende",
    216,
    "1:a 1:c",
    "1:a 1:d",
    "1:b 1:c",
    "1:b 1:d",
    check=lambda s: s.around(0, 4) and s.around(1, 4),
)
_add("wurtzite", 186, "1:b 1:b", check=lambda s: s.around(0, 4, "tetrahedral"))
_add(
    "nickel arsenide",
    194,
    "1:a 1:c",
    "1:a 1:d",
    check=lambda s: s.elements[1] in anions(s.facts) and s.around(1, 6, "trigonal prismatic"),
)
_add(
    "tungsten carbide",
    187,
    "1:a 1:d",
    "1:d 1:a",
    "1:a 1:f",
    "1:f 1:a",
    "1:b 1:c",
    "1:c 1:b",
    check=lambda s: s.anion(1) and s.around(0, 6, "trigonal prismatic"),
)
_add("fluorite", 225, "1:a 2:c", "1:b 2:c", check=lambda s: s.anion(1) and s.around(1, 4))
_add("antifluorite", 225, "1:a 2:c", "1:b 2:c", check=lambda s: s.anion(0) and s.around(1, 4))
_add(
    "rutile",
    136,
    "1:a 2:f",
    "1:b 2:f",
    check=lambda s: s.anion(1) and s.unpaired and s.around(0, 6, "octahedral"),
)
_add(
    "anatase",
    141,
    "1:a 2:e",
    "1:b 2:e",
    check=lambda s: s.anion(1) and s.elements[1] == "O" and s.around(0, 6),
)
_add(
    "pyrite",
    205,
    "1:a 2:c",
    "1:b 2:c",
    check=lambda s: (
        paired(s.facts, s.elements[1])
        and is_metal(s.elements[0])
        and s.elements[1] in ("S", "Se", "Te", "P", "As", "Sb")
    ),
)
_add(
    "cadmium iodide",
    164,
    "1:a 2:d",
    "1:b 2:d",
    check=lambda s: s.anion(1) and s.unpaired and s.around(0, 6, "octahedral"),
)
_add(
    "cadmium chloride",
    166,
    "1:a 2:c",
    "1:b 2:c",
    check=lambda s: s.anion(1) and s.around(0, 6, "octahedral") and set(s.facts.pieces) == {2},
)
_add(
    "2H molybdenite",
    194,
    "1:c 2:f",
    "1:d 2:f",
    "1:b 2:f",
    check=lambda s: (
        s.anion(1)
        and s.around(0, 6, "trigonal prismatic")
        and s.unpaired
        and set(s.facts.pieces) == {2}
    ),
)
_add(
    "bismuth triiodide",
    148,
    "1:c 3:f",
    check=lambda s: s.anion(1) and s.around(0, 6, "octahedral") and set(s.facts.pieces) == {2},
)
_add("cubic Laves (C15)", 227, "1:a 2:d", "1:b 2:c", check=lambda s: s.metallic)
_add("hexagonal Laves (C14)", 194, "1:f 2:ah", check=lambda s: s.metallic)
_add("aluminum diboride", 191, "1:a 2:d", "1:b 2:c", check=lambda s: s.elements[1] == "B")
_add(
    "molybdenum disilicide",
    139,
    "1:a 2:e",
    "1:b 2:e",
    check=lambda s: s.elements[1] in ("Si", "Ge") and is_metal(s.elements[0]),
)
_add("A15 (Cr3Si)", 223, "1:a 3:c", "1:a 3:d", check=lambda s: s.metallic)
_add("Cu3Au (L1_2)", 221, "1:a 3:c", "1:b 3:d", check=lambda s: s.metallic and s.around(0, 12))
_add("CuAu (L1_0)", 123, "1:a 1:d", "1:d 1:a", check=lambda s: s.metallic)
_add("D0_3", 225, "1:a 3:bc", "1:b 3:ac", check=lambda s: s.metallic)
_add("D0_22", 139, "1:a 3:bd", "1:b 3:ad", check=lambda s: s.metallic)
_add("D0_19", 194, "1:c 3:h", "1:d 3:h", check=lambda s: s.metallic)
_add("CaCu5", 191, "1:a 5:cg", check=lambda s: s.metallic)
_add("NaTl", 227, "1:a 1:b", check=lambda s: s.metallic)
_add("Mn5Si3", 193, "3:g 5:dg", check=lambda s: s.metallic)
_add("skutterudite", 204, "1:c 3:g", check=lambda s: s.around(0, 6) and s.elements[1] in "P As Sb")
_add(
    "calcium hexaboride",
    221,
    "1:a 6:f",
    "1:a 6:e",
    "1:b 6:e",
    "1:b 6:f",
    check=lambda s: s.elements[1] == "B",
)
_add(
    "rhenium trioxide",
    221,
    "1:a 3:d",
    "1:b 3:c",
    check=lambda s: s.anion(1) and s.around(0, 6, "octahedral"),
)
_add("corundum", 167, "2:c 3:e", check=lambda s: s.anion(1) and s.around(0, 6))
_add("bixbyite", 206, "2:bd 3:e", "2:ad 3:e", check=lambda s: s.anion(1) and s.around(0, 6))
_add("cuprite", 224, "1:a 2:b", "1:a 2:c", check=lambda s: s.anion(0) and s.around(1, 2))
_PEROVSKITE = tuple(
    f"1:{a} 1:{b} 3:{x}"
    for a, b, x in ("abc", "bad", "abd", "bac")
    if (a, x) in {("a", "c"), ("b", "d"), ("a", "d"), ("b", "c")}
)
_OCTAHEDRA = {"corner"}
_add(
    "cubic perovskite",
    221,
    *_PEROVSKITE,
    check=lambda s: (
        s.anion(2) and s.cage(0) and s.around(1, 6, "octahedral") and s.joined(1) == _OCTAHEDRA
    ),
)
_add(
    "cubic antiperovskite",
    221,
    *_PEROVSKITE,
    check=lambda s: s.elements[1] in ("N", "C", "O", "B") and s.around(1, 6, "octahedral"),
)
_add(
    "orthorhombic perovskite (GdFeO3)",
    62,
    "1:c 1:a 3:cd",
    "1:c 1:b 3:cd",
    check=lambda s: (
        s.anion(2) and s.cage(0) and s.around(1, 6, "octahedral") and s.joined(1) == _OCTAHEDRA
    ),
)
_add(
    "2H hexagonal perovskite (BaNiO3)",
    194,
    "1:d 1:a 3:h",
    "1:c 1:a 3:h",
    check=lambda s: s.anion(2) and s.around(1, 6) and s.joined(1) == {"face"},
)
_add(
    "half-Heusler",
    216,
    *(f"1:{x} 1:{y} 1:{z}" for x, y, z in ("abc", "abd", "acd", "bcd")),
    check=lambda s: s.metallic,
)
_add("full-Heusler", 225, "1:a 1:b 2:c", check=lambda s: s.metallic)
_add(
    "spinel",
    227,
    "1:a 2:d 4:e",
    "1:b 2:c 4:e",
    check=lambda s: s.anion(2) and s.around(0, 4) and s.around(1, 6),
)
_add(
    "potassium hexachloroplatinate",
    225,
    "1:a 2:c 6:e",
    "1:b 2:c 6:e",
    check=lambda s: s.anion(2) and s.around(0, 6, "octahedral"),
)
_add(
    "elpasolite (rock-salt-ordered double perovskite)",
    225,
    "1:a 1:b 2:c 6:e",
    check=lambda s: s.anion(3) and s.around(0, 6, "octahedral"),
)
_add(
    "chalcopyrite",
    122,
    "1:a 1:b 2:d",
    check=lambda s: s.anion(2) and s.around(0, 4) and s.around(1, 4) and s.around(2, 4),
)
_add("ThCr2Si2", 139, "1:a 2:d 2:e", "1:b 2:d 2:e", check=lambda s: s.metallic or s.anion(2))
_add(
    "K2NiF4 (layered perovskite)",
    139,
    "1:a 2:e 4:ce",
    "1:b 2:e 4:ce",
    check=lambda s: s.anion(2) and s.around(0, 6),
)
_add(
    "alpha-NaFeO2 (layered rock salt)",
    166,
    "1:a 1:b 2:c",
    "1:b 1:a 2:c",
    check=lambda s: s.anion(2) and s.around(0, 6) and s.around(1, 6),
)
_add(
    "delafossite",
    166,
    "1:a 1:b 2:c",
    "1:b 1:a 2:c",
    check=lambda s: (
        s.anion(2) and is_metal(s.elements[0]) and s.around(0, 2, "linear") and s.around(1, 6)
    ),
)
_add(
    "ilmenite", 148, "1:c 1:c 3:f", check=lambda s: s.anion(2) and s.around(0, 6) and s.around(1, 6)
)
_add(
    "calcite",
    167,
    "1:b 1:a 3:e",
    "1:a 1:b 3:e",
    check=lambda s: s.anion(2) and s.around(1, 3, "trigonal planar") and s.around(0, 6),
)
_add(
    "zircon",
    141,
    "1:a 1:b 4:h",
    "1:b 1:a 4:h",
    check=lambda s: s.anion(2) and s.around(1, 4) and s.around(0, 8),
)
_add(
    "scheelite",
    88,
    "1:a 1:b 4:f",
    "1:b 1:a 4:f",
    check=lambda s: s.anion(2) and s.around(1, 4) and s.around(0, 8),
)
_OLIVINE = ("1:c 2:ac 4:cd", "1:c 1:a 1:c 4:cd", "1:c 1:b 1:c 4:cd", "1:c 2:bc 4:cd")
_add(
    "olivine",
    62,
    _OLIVINE[0],
    _OLIVINE[3],
    check=lambda s: s.anion(2) and s.around(0, 4) and s.around(1, 6),
)
_add(
    "olivine",
    62,
    *_OLIVINE[1:3],
    check=lambda s: s.anion(3) and s.around(0, 4) and s.around(1, 6) and s.around(2, 6),
)
_add("garnet", 230, "2:a 3:c 3:d 12:h", check=lambda s: s.anion(3) and s.around(0, 6))
_add(
    "pyrochlore",
    227,
    "2:c 2:d 7:af",
    "2:d 2:c 7:bf",
    "2:c 2:d 7:bf",
    "2:d 2:c 7:af",
    check=lambda s: s.anion(2) and s.around(0, 6),
)
_add(
    "PbFCl (matlockite)",
    129,
    "1:a 1:c 1:c",
    "1:b 1:c 1:c",
    check=lambda s: len(anions(s.facts)) == 2,
)
_add("ZrCuSiAs", 129, "1:a 1:b 1:c 1:c", check=lambda s: len(anions(s.facts)) == 2)
_add(
    "Cr2AlC (MAX phase)",
    194,
    "1:a 1:c 2:f",
    "1:a 1:d 2:f",
    check=lambda s: (
        s.elements[0] in ("C", "N") and is_metal(s.elements[2]) and s.around(0, 6, "octahedral")
    ),
)


def prototype(facts: Facts) -> str | None:
    """The structure type; None if uncertain."""
    letters = {
        symbol: (count, "".join(sorted({site.wyckoff for site in facts.of(symbol)})))
        for symbol, count in facts.counts.items()
    }
    key = (facts.space_group_number, tuple(sorted(letters.values())))
    found = []
    for parts, name, check in _TYPES.get(key, ()):
        found += [name for elements in _orders(parts, letters) if check(_Sites(facts, elements))]
    return found[0] if found and len(set(found)) == 1 else None


def _orders(
    parts: tuple[tuple[int, str], ...], letters: dict[str, tuple[int, str]]
) -> list[tuple[str, ...]]:
    """All assignments of the elements to the parts of an entry."""
    if not parts:
        return [()]
    return [
        (symbol, *rest)
        for symbol, part in letters.items()
        if part == parts[0]
        for rest in _orders(parts[1:], {s: p for s, p in letters.items() if s != symbol})
    ]
