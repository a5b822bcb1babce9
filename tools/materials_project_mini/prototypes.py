"""Well-known structure types, named only where symmetry and occupied positions leave no doubt."""

from __future__ import annotations

from typing import Any

# (space group, ((atoms of this element per formula unit, its Wyckoff letters), ...)) -> name.
# Letters that an origin shift swaps are listed in each of their forms.
_TYPES: dict[tuple[int, tuple[tuple[int, str], ...]], str] = {}


def _add(name: str, number: int, *forms: str) -> None:
    for form in forms:
        parts = tuple(
            sorted((int(part.split(":")[0]), part.split(":")[1]) for part in form.split())
        )
        _TYPES[number, parts] = name


_add("face-centered cubic (copper)", 225, "1:a", "1:b")
_add("body-centered cubic (tungsten)", 229, "1:a")
_add("hexagonal close-packed (magnesium)", 194, "1:c", "1:d")
_add("diamond", 227, "1:a", "1:b")
_add("rock salt", 225, "1:a 1:b")
_add("cesium chloride", 221, "1:a 1:b")
_add("zincblende", 216, "1:a 1:c", "1:a 1:d", "1:b 1:c", "1:b 1:d")
_add("wurtzite", 186, "1:b 1:b")
_add("nickel arsenide", 194, "1:a 1:c", "1:a 1:d")
_add("iron silicide (B20)", 198, "1:a 1:a")
_add("tungsten carbide", 187, "1:a 1:d", "1:a 1:f", "1:b 1:c", "1:c 1:b")
_add("fluorite", 225, "1:a 2:c", "1:b 2:c")
_add("rutile", 136, "1:a 2:f", "1:b 2:f")
_add("pyrite", 205, "1:a 2:c", "1:b 2:c")
_add("cadmium iodide", 164, "1:a 2:d", "1:b 2:d")
_add("cubic Laves (C15)", 227, "1:a 2:d", "1:b 2:c")
_add("hexagonal Laves (C14)", 194, "1:f 2:ah")
_add("aluminium diboride", 191, "1:a 2:d", "1:b 2:c")
_add("molybdenum disilicide", 139, "1:a 2:e", "1:b 2:e")
_add("CuAl2-type", 140, "1:a 2:h")
_add("Cu3Au", 221, "1:a 3:c", "1:b 3:d")
_add("rhenium trioxide", 221, "1:a 3:d", "1:b 3:c")
_add("A15 (Cr3Si)", 223, "1:a 3:c", "1:a 3:d")
_add("D0_3 (BiF3)", 225, "1:a 3:bc", "1:b 3:ac")
_add("D0_22 (Al3Ti)", 139, "1:a 3:bd", "1:b 3:ad")
_add("D0_19 (Ni3Sn)", 194, "1:c 3:h", "1:d 3:h")
_add("cubic perovskite", 221, "1:a 1:b 3:c", "1:a 1:b 3:d")
_add("half-Heusler", 216, "1:a 1:b 1:c", "1:a 1:b 1:d", "1:a 1:c 1:d", "1:b 1:c 1:d")
_add("full-Heusler", 225, "1:a 1:b 2:c")
_add("spinel", 227, "1:a 2:d 4:e", "1:b 2:c 4:e")
_add("corundum", 167, "2:c 3:e")
_add("bixbyite", 206, "2:bd 3:e", "2:ad 3:e")
_add("K2PtCl6 (antifluorite-derived)", 225, "1:a 2:c 6:e", "1:b 2:c 6:e")
_add("elpasolite (ordered double perovskite)", 225, "1:a 1:b 2:c 6:e")
_add("chalcopyrite", 122, "1:a 1:b 2:d")
_add("calcium hexaboride", 221, "1:a 6:f", "1:a 6:e", "1:b 6:e", "1:b 6:f")
_add("CaCu5", 191, "1:a 5:cg")
_add("ThCr2Si2", 139, "1:a 2:d 2:e", "1:b 2:d 2:e")
_add("K2NiF4 (layered perovskite)", 139, "1:a 2:e 4:ce", "1:b 2:e 4:ce")


def prototype(counts: dict[str, int], symmetry: Any) -> str | None:
    """The structure type, or None where none is certain.

    Args:
        counts: element symbol -> atoms per formula unit.
        symmetry: the spglib data set of the crystal.
    """
    letters: dict[int, set[str]] = {}
    for kind, letter in zip(symmetry.std_types, _standard_letters(symmetry), strict=True):
        letters.setdefault(int(kind), set()).add(letter)
    atoms = {kind: int((symmetry.std_types == kind).sum()) for kind in letters}
    units = sum(atoms.values()) / sum(counts.values())
    parts = tuple(
        sorted((round(atoms[kind] / units), "".join(sorted(letters[kind]))) for kind in letters)
    )
    name = _TYPES.get((symmetry.number, parts))
    if (
        name == "wurtzite"
        and not 1.5 < symmetry.std_lattice[2][2] / symmetry.std_lattice[0][0] < 1.8
    ):
        return None
    return name


def _standard_letters(symmetry: Any) -> list[str]:
    """Wyckoff letters of the atoms of the standard cell."""
    by_primitive = dict(zip(symmetry.mapping_to_primitive, symmetry.wyckoffs, strict=True))
    return [by_primitive[k] for k in symmetry.std_mapping_to_primitive]
