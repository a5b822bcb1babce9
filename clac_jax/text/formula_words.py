"""Classification of words that parse as formulas.

A formula has two different elements, or one element with a count, and more than two characters.
Words that parse as a formula but may mean something else are decided as follows:

* A single element is a word ("In", "He", "No", "As"), an ion ("Ca2+", "O2-", "CuII") or, with a
  count close to its atomic weight, a nuclide ("U235", "C13"). A one-letter element with a count is
  a label or a symbol ("P1", "C222", "B20", "H100", "Figure S10"); fullerenes (an even number of
  carbon atoms from 60 on, "C60") and "B80" are exceptions. Other elements may have counts up to 20
  and those of known clusters ("Au55", whereas "Ti64" is an alloy). A few space-group symbols look
  like formulas ("Pm3", "Pa3", "Cm11").
* A word with a two-letter symbol is a formula if it parses: "InP", "CoSi", "NaCl". Helium and neon
  form no compounds that are written without counts ("HeLa", "HeNe"). A formula without counts
  neither repeats an element ("CoCo") nor has three capitals after a metal ("ReSCF"), except with
  groups such as OOH, COO and SCN ("FeOOH"). Where a plural "s" happens to complete a symbol ("ICs",
  "SOCs"), the capitals before it decide. Nanoparticles ("AuNPs"), oxidation states in Roman
  numerals ("MnIV") and X-ray lines ("CuK") are not formulas, nor are words in which F, S or I
  precedes an element that it never precedes in a formula ("FeSC").
* Capitals without a count ("SOC", "CIF", "FCC", "UFO") are an acronym, except where the common
  oxidation states of the rest balance K or Y, which have only one ("KCN", "KOH", "YOF"), and except
  HCN, HCHO and HCOOH. With counts, doubled letters without hydrogen are a label ("CCP4", "FeFF9"),
  as are elements in an order that formulas do not use ("NPY2", "H3K27", "H12B", "O1W", "HV10"),
  atoms with a letter ("C11F"), a single final count above 20 ("IC50") unless the compound is a
  boride, carbide or hydride ("YB66", "KC24"), and one above 7 between nonmetals ("PC12").
* A word whose only count is 1 is a label ("KP1", "O1S"), as is one with more than 14 halogen or
  oxygen atoms, or more than 22 metal atoms, per other atom ("AlF18", "CoAl45"). The variables y, z,
  w, n and m require further counts ("PyPI", "Wm-1K-1").
* Two capitals ("NO", "HF", "BN", "CO", "KF") are too short to be a formula without context.
* "OH", Roman numerals ("III", "Fe(III)") and the lattice name "HCP" are never formulas. Deuterium
  must have a count, be the last element after metals, or occur with a metal and an element with a
  count ("D2O", "NaOD", "KDCO3"). Tritium and the elements beyond californium are not recognized.
* Acronyms of the field that would parse as formulas ("CP2K", "PW91", "GeV") are listed.

Listed acronyms, other acronyms and pairs of capitals may still be formulas in context: see
`clac_jax.text.formula`.
"""

from __future__ import annotations

import re
from enum import Enum

from rdkit import Chem

from clac_jax.text.formula_grammar import NONMETALS, Parsed, is_element


class Verdict(Enum):
    """Classification of a word that parses as a formula, without regard to its context."""

    FORMULA = "a formula"
    NEEDS_CONTEXT = "a formula if the context says so"
    NOT_FORMULA = "not a formula"


_NEVER = frozenset(
    ("OH", "HCP", "Pa3", "Pb11", "Pm3", "Pm11", "Am11", "Cm11", "C112", "C2S", "C3S")
)  # the last two: cement
# Acronyms of the field that would be formulas by the rules above, with a digit or a lower-case
# letter.
_ACRONYMS = frozenset(
    ("CP2K", "PW91", "PW92", "BP86", "VWN3", "VWN5", "B3PW91", "BC8", "Y2K", "W3C", "B2B",
     "P2P", "U2F", "NiCd", "NaN", "YBCO", "KNN", "GeV", "TeV", "SiV", "SnV",
     "PbV", "NaSICON", "LiSICON", "LiPON", "LiPo", "LiFSI", "NaFSI", "SiNW", "IUCr", "BSc", "PoS",
     "PoC", "CoPI", "CoV", "MoU", "AcOH", "PrOH", "OAc", "SINDy",
     "BaCoN", "BiSON")
)  # fmt: skip
_DEUTERATED = frozenset(("CDCl3", "DBr", "DCl", "DClO4", "DNO3"))
# Not V, W and U: they have enough oxidation states to balance any letters that follow.
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
# The order of one-letter elements in formulas, after the metals: by convention, and by
# electronegativity without hydrogen, which is therefore at both ends.
_ORDERS = ("BCPNHDSIOF", "HDBPWCSINOFHD")
_HYDRIDES = frozenset(("H3N", "H4C", "HN3"))
_CLUSTERS = frozenset((25, 38, 55, 102, 144, 147, 309))
_HALIDE_METALS = frozenset(("Pb", "Sn", "Ge", "Bi", "Sb", "Cu", "Ag"))
_HALOGENS = frozenset(("F", "Cl", "Br", "I"))


def classify(parsed: Parsed, core: str) -> Verdict:
    """Classifies a parsed candidate.

    Args:
        parsed: the result of `clac_jax.text.formula_grammar.parse`.
        core: its text without a leading coefficient or a trailing charge.
    """
    if _is_never(parsed, core):
        return Verdict.NOT_FORMULA
    if core in _ACRONYMS:
        return Verdict.NEEDS_CONTEXT
    kinds = set(parsed.symbols)
    if len(kinds) == 1:
        return Verdict.FORMULA if _is_cluster(parsed, core) else Verdict.NOT_FORMULA
    if len(core) <= 2:
        return Verdict.NEEDS_CONTEXT
    if not parsed.charged and _is_label(parsed, core):
        return Verdict.NOT_FORMULA
    if parsed.counts or parsed.groups or (parsed.charged and _RADICAL.fullmatch(core)):
        return Verdict.FORMULA
    return _classify_without_counts(parsed.symbols, core)


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
    return not _deuterium_is_meant(parsed, core) or _has_variables_only(parsed)


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


def _has_variables_only(parsed: Parsed) -> bool:
    """Whether y, z and w are the only counts, or n or m is a separate count."""
    if parsed.counts and all(count in ("y", "z", "w") for count in parsed.counts):
        return True
    if parsed.group_counted:
        return False
    with_n = [count for count in parsed.counts if count[0] in "nm"]
    return len(with_n) > 0 and sum("n" in c or "m" in c for c in parsed.counts) < 2


def _is_cluster(parsed: Parsed, core: str) -> bool:
    """Whether an element with a count is a molecule or a cluster."""
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


def _max_count(name: str) -> int:
    """The largest number of atoms of an element per other atom in any compound."""
    if name in ("B", "C", "H", "D"):
        return 72
    return 14 if name in _HALOGENS or name == "O" else 22


def _is_reversed(first: str, last: str) -> bool:
    """Whether two one-letter elements are in an order that formulas do not use."""
    return len(last) == 1 and all(order.rfind(first) > order.find(last) for order in _ORDERS)


def _is_label(parsed: Parsed, core: str) -> bool:
    """Whether a word with two elements is a label: "IC50", "CCP4", "KP1", "Ge(Li)"."""
    symbols = parsed.symbols
    if len(parsed.counts) == 1 and parsed.groups == 0:
        if parsed.counts == ["1"]:
            return True
        final = _FINAL_COUNT.fullmatch(core)
        if final and len(symbols) == 2 and int(final[1]) > _max_count(symbols[-1]):
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
    elif final is not None:  # hydrogen also comes first, in acids: HNO3
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


def _classify_without_counts(symbols: list[str], core: str) -> Verdict:
    """Classifies two or more different elements without counts."""
    kinds = set(symbols)
    if core.endswith("HCF"):  # hexacyanoferrates: NaFeHCF
        return Verdict.NOT_FORMULA
    if kinds & {"He", "Ne"} or symbols[-1] in ("Ar", "Kr", "Xe", "Rn"):  # but ArF, KrF
        return Verdict.NOT_FORMULA
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
            return Verdict.NOT_FORMULA
        return Verdict.FORMULA if _is_salt(capitals) else Verdict.NEEDS_CONTEXT
    if len(kinds) < len(symbols) and not _RADICAL.search(core):
        return Verdict.NOT_FORMULA
    if symbols[-1] == "K" and symbols[0] not in ("Li", "Na", "Rb", "Cs") and "O" not in kinds:
        return Verdict.NOT_FORMULA  # an X-ray line
    if len(symbols) > 2 and symbols[-2] in "FSI" and _is_reversed(*symbols[-2:]):  # FeSC
        return Verdict.NEEDS_CONTEXT
    if len(symbols) > 3 and all(len(name) == 1 for name in symbols[1:]):  # ReSCF
        return Verdict.FORMULA if _RADICAL.search(core) else Verdict.NEEDS_CONTEXT
    return Verdict.FORMULA


def _is_salt(capitals: str) -> bool:
    """Whether capitals are a metal and anions that balance its charge, such as KCN."""
    sums = {_SALT_METALS[capitals[0]]} if capitals[0] in _SALT_METALS else set()
    for char in capitals[1:]:
        sums = {total + state for total in sums for state in _COMMON_STATES.get(char, ())}
    return 0 in sums
