"""Words that parse as formulas: which of them are meant as one.

A formula has two different elements or a counted one and is longer than two characters. Beyond
that, words that are both a formula and something else are decided so:

* One element alone is a word ("In", "He", "No", "As"), an ion ("Ca2+", "O2-", "CuII") or, with a
  count near its atomic weight, a nuclide ("U235", "C13"). A one-letter element with a count is a
  label or a symbol ("P1", "C222", "B20", "H100", "Figure S10"), except fullerenes (an even number
  of carbon atoms from 60, "C60"; "B80"). Other counts go up to 20, and to the sizes of known
  clusters ("Au55"; "Ti64" is an alloy). A few space groups look the same ("Pm3", "Pa3", "Cm11").
* A word with a lower-case letter in a symbol is a formula as soon as it parses: "InP", "CoSi",
  "NaCl". Helium and neon form no uncounted compound ("HeLa", "HeNe"). Without a count no formula
  names an element twice ("CoCo") or has three capitals behind a metal ("ReSCF"), except with groups
  such as OOH, COO and SCN ("FeOOH"). A plural "s" that happens to complete a symbol ("ICs",
  "SOCs") is treated as the capitals before it. Nanoparticles ("AuNPs"), oxidation states in Roman
  numerals ("MnIV") and X-ray lines ("CuK") are not formulas, and F, S and I do not stand in front
  of a capital that never follows them ("FeSC").
* Capitals only, without a count ("SOC", "CIF", "FCC", "UFO"), are an acronym, unless K or Y, metals
  of one oxidation state, is balanced by the common states of the rest (KCN, KOH, YOF), or for HCN,
  HCHO and HCOOH. With counts, doubled letters without hydrogen are a label ("CCP4", "FeFF9"), as
  are elements in an order in which no formula names them ("NPY2", "H3K27", "H12B", "O1W", "HV10"),
  atoms with a letter ("C11F"), and one final count above 20 ("IC50"), unless it is that of a
  boride, carbide or hydride ("YB66", "KC24"), or above 7 between non-metals ("PC12").
* An only count of 1 is a label ("KP1", "O1S"), as are more than 14 halogen or oxygen atoms, or 22
  of a metal, on one other atom ("AlF18", "CoAl45"). The variables y, z and w, and n and m, need
  other counts ("PyPI", "Wm-1K-1").
* Two capitals ("NO", "HF", "BN", "CO", "KF") are too short to be a formula.
* "OH", Roman numerals ("III", "Fe(III)") and the lattice name "HCP" are never formulas. Deuterium
  needs a count, the last place behind metals, or a metal and a counted element beside it ("D2O",
  "NaOD", "KDCO3"); tritium is not read, nor are elements beyond californium, which form no
  crystals.
* Acronyms of the field that parse otherwise ("CP2K", "PW91", "GeV") are listed.

Words of the last kind, acronyms and two capitals can still be formulas if the context says so: see
`clac_jax.text.formula`.
"""

from __future__ import annotations

import re
from enum import Enum

from rdkit import Chem

from clac_jax.text.formula_grammar import NONMETALS, Parsed, is_element


class Verdict(Enum):
    """What a word that parses is, whatever stands around it."""

    FORMULA = "a formula"
    ASK = "a formula if the context says so"
    WORD = "not a formula"


_NEVER = frozenset(
    ("OH", "HCP", "Pa3", "Pb11", "Pm3", "Pm11", "Am11", "Cm11", "C112", "C2S", "C3S")
)  # the last two: cement
# Acronyms of the field that parse as formulas although they carry a digit or a lower-case letter.
_ACRONYMS = frozenset(
    ("CP2K", "PW91", "PW92", "BP86", "VWN3", "VWN5", "B3PW91", "BC8", "Y2K", "W3C", "B2B",
     "P2P", "U2F", "NiCd", "NaN", "YBCO", "KNN", "GeV", "TeV", "SiV", "SnV",
     "PbV", "NaSICON", "LiSICON", "LiPON", "LiPo", "LiFSI", "NaFSI", "SiNW", "IUCr", "BSc", "PoS",
     "PoC", "CoPI", "CoV", "MoU", "AcOH", "PrOH", "OAc", "SINDy",
     "BaCoN", "BiSON")
)  # fmt: skip
_DEUTERATED = frozenset(("CDCl3", "DBr", "DCl", "DClO4", "DNO3"))
# Vanadium, tungsten and uranium take so many states that any letters behind them would balance.
_SALT_METALS = {"K": 1, "Y": 3}
_COMMON_STATES = {
    "H": (1,), "B": (3,), "C": (4, 2, -4), "N": (-3,), "O": (-2,), "F": (-1,), "P": (5, 3, -3),
    "S": (-2,), "I": (-1,),
}  # fmt: skip
_ROMAN = re.compile(r"[IVX]+$")
_ROMAN_STATE = re.compile(r"(?:[A-Z][a-z]?(?:I{2,3}|IV|VI{1,3})|(?:As|Sb|Bi|Np|Pu)V)$")
_DOUBLED = re.compile(r"([A-HJ-Z])\1(?![a-z])")
_PART_OF_ATOM = re.compile(r"[CHNOS][1-5]\d[A-Z]")
_NANO = re.compile(r"[A-Z][a-z]N[PCW]s?$")
_UNCOUNTED_D = re.compile(r"D(?![a-z\d₀-₉_$<~.])")
_RADICAL = re.compile("OOH|HCOO|COO|NCN|OCN|SCN|CSN|NCO|NCS|CNO|CNS|BCN|HCO")
_COUNTED_D = re.compile(r"D[\d₀-₉_$<~]")
_FINAL_COUNT = re.compile(r"(?:[A-Z][a-z]?)+?(\d+)")
_CAPITALS_AND_COUNT = re.compile(r"[A-Z]+\.?(\d+)")
_FROM_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
# How formulas order elements of one letter, by convention, or by electronegativity if there is
# no hydrogen, which is therefore at both ends; metals come first.
_ORDERS = ("BCPNHDSIOF", "HDBPWCSINOFHD")
_HYDRIDES = frozenset(("H3N", "H4C", "HN3"))
_CLUSTERS = frozenset((25, 38, 55, 102, 144, 147, 309))
_HALIDE_METALS = frozenset(("Pb", "Sn", "Ge", "Bi", "Sb", "Cu", "Ag"))
_HALOGENS = frozenset(("F", "Cl", "Br", "I"))


def judge(parsed: Parsed, core: str) -> Verdict:
    """What a parsed stretch is.

    Args:
        parsed: what `clac_jax.text.formula_grammar.parse` made of it.
        core: its text without coefficient in front and charge behind.
    """
    if _is_never(parsed, core):
        return Verdict.WORD
    if core in _ACRONYMS:
        return Verdict.ASK
    kinds = set(parsed.symbols)
    if len(kinds) == 1:
        return Verdict.FORMULA if _is_cluster(parsed, core) else Verdict.WORD
    if len(core) <= 2:
        return Verdict.ASK
    if not parsed.charged and _is_label(parsed, core):
        return Verdict.WORD
    if parsed.counts or parsed.groups or (parsed.charged and _RADICAL.fullmatch(core)):
        return Verdict.FORMULA
    return _judge_uncounted(parsed.symbols, core)


def _is_never(parsed: Parsed, core: str) -> bool:
    if core in _NEVER or not parsed.symbols or (parsed.bare_group and not parsed.charged):
        return True
    if _ROMAN.match(core) or _ROMAN_STATE.match(core) or _NANO.match(core):
        return True
    if parsed.states and not (parsed.counts or parsed.groups):  # ions side by side
        return True
    if parsed.organic and not (
        _HALOGENS & set(parsed.symbols) and _HALIDE_METALS & set(parsed.symbols)
    ):
        return True
    return not _deuterium_is_meant(parsed, core) or _variables_alone(parsed)


def _deuterium_is_meant(parsed: Parsed, core: str) -> bool:
    if "BDC" in core:  # a ligand
        return False
    if "D" not in parsed.symbols or _UNCOUNTED_D.search(core) is None or core in _DEUTERATED:
        return True
    metals = [name for name in parsed.symbols if name not in NONMETALS]
    if parsed.counts:
        return bool(metals) or _COUNTED_D.search(core) is not None
    others = set(parsed.symbols[:-1]) - {"O"}
    return parsed.symbols[-1] == "D" and bool(metals) and others <= set(metals)


def _variables_alone(parsed: Parsed) -> bool:
    """Whether y, z and w are the only counts, or n or m is one of its own."""
    if parsed.counts and all(count in ("y", "z", "w") for count in parsed.counts):
        return True
    if parsed.group_counted:
        return False
    with_n = [count for count in parsed.counts if count[0] in "nm"]
    return len(with_n) > 0 and sum("n" in c or "m" in c for c in parsed.counts) < 2


def _is_cluster(parsed: Parsed, core: str) -> bool:
    """Whether one counted element is meant as a molecule or a cluster of its atoms."""
    name = parsed.symbols[0]
    if len(core) <= 2 or len(parsed.symbols) > 1 or parsed.charged or not parsed.counts:
        return False
    digits = parsed.counts[0].translate(_FROM_SUBSCRIPTS).strip("_~${}\\()")
    if not digits.isdecimal():
        return False
    count = int(digits)
    if len(name) == 1:
        return (name == "C" and 60 <= count < 200 and count % 2 == 0) or core == "B80"
    if count < 2 or (count > 20 and count not in _CLUSTERS):
        return False
    weight = Chem.GetPeriodicTable().GetAtomicWeight(name)
    return abs(count - weight) > max(2.0, 0.06 * weight)


def _most(name: str) -> int:
    """The most atoms of an element that any compound has on one atom of another."""
    if name in ("B", "C", "H", "D"):
        return 72
    return 14 if name in _HALOGENS or name == "O" else 22


def _is_reversed(first: str, last: str) -> bool:
    """Whether two elements of one letter stand in an order that no formula has."""
    return len(last) == 1 and all(order.rfind(first) > order.find(last) for order in _ORDERS)


def _is_label(parsed: Parsed, core: str) -> bool:
    """Whether a word with two elements reads as a label: "IC50", "CCP4", "KP1", "Ge(Li)"."""
    symbols = parsed.symbols
    if len(parsed.counts) == 1 and parsed.groups == 0:
        if parsed.counts == ["1"]:
            return True
        final = _FINAL_COUNT.fullmatch(core)
        if final and len(symbols) == 2 and int(final[1]) > _most(symbols[-1]):
            return True
    if parsed.groups == 1 and len(symbols) == 2 and not parsed.counts:
        return True
    if "H" not in symbols and _DOUBLED.search(core):
        return True
    if any(len(name) > 1 for name in symbols) or parsed.organic:
        return False
    if parsed.groups:
        return not parsed.counts
    if not parsed.counts:
        return False
    final = _CAPITALS_AND_COUNT.fullmatch(core)
    if len(symbols) == 2:
        if _is_reversed(*symbols) and core not in _HYDRIDES:
            return True
    elif final is not None:  # hydrogen has its place in acids too: HNO3
        pairs = (symbols[:2], symbols[-2:])
        if any(_is_reversed(*pair) for pair in pairs if {"H", "D"}.isdisjoint(pair)):
            return True
    if _PART_OF_ATOM.fullmatch(core):  # C11F
        return True
    if symbols[0] in NONMETALS and symbols[-1] in "KY" and symbols[-2] != "O":  # not HCO2K
        return True
    if final is None:
        return False
    if "." in core:  # "SI.2"
        return symbols[0] in NONMETALS
    count = int(final[1])
    if symbols[-1] != "H" and NONMETALS.issuperset(symbols):
        return count > (14 if symbols == ["C", "S"] else 7)
    return count > (72 if len(symbols) == 2 and symbols[1] in "BCH" else 20)


def _judge_uncounted(symbols: list[str], core: str) -> Verdict:
    """Of two or more different elements without any count."""
    kinds = set(symbols)
    if core.endswith("HCF"):  # hexacyanoferrates: NaFeHCF
        return Verdict.WORD
    if kinds & {"He", "Ne"} or symbols[-1] in ("Ar", "Kr", "Xe", "Rn"):  # but ArF, KrF
        return Verdict.WORD
    plural = (
        core[-1] == "s"
        and core[:-1].isupper()
        and (len(core) > 3 or core[0] in "CFHINOPS" or all(map(is_element, core[:-1])))
    )
    capitals = core[:-1] if plural else core
    if capitals in ("HCN", "HCHO", "HCOOH", "HCOOK"):
        return Verdict.FORMULA
    repeated = len(kinds) < len(symbols) or len(set(capitals)) < len(capitals)
    if capitals.isupper():
        if repeated:  # FCC, BCC, UFF
            return Verdict.WORD
        return Verdict.FORMULA if _is_salt(capitals) else Verdict.ASK
    if len(kinds) < len(symbols) and not _RADICAL.search(core):
        return Verdict.WORD
    if symbols[-1] == "K" and symbols[0] not in ("Li", "Na", "Rb", "Cs") and "O" not in kinds:
        return Verdict.WORD  # an X-ray line
    if len(symbols) > 2 and symbols[-2] in "FSI" and _is_reversed(*symbols[-2:]):  # FeSC
        return Verdict.ASK
    if len(symbols) > 3 and all(len(name) == 1 for name in symbols[1:]):  # ReSCF
        return Verdict.FORMULA if _RADICAL.search(core) else Verdict.ASK
    return Verdict.FORMULA


def _is_salt(capitals: str) -> bool:
    """Whether capitals name a metal with anions that balance it, such as KCN."""
    sums = {_SALT_METALS[capitals[0]]} if capitals[0] in _SALT_METALS else set()
    for char in capitals[1:]:
        sums = {total + state for total in sums for state in _COMMON_STATES.get(char, ())}
    return 0 in sums
