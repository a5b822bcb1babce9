"""Chemical formulas in running text: finding them and replacing them by a word.

The grammar is that of `clac_jax.formula_grammar`. A formula has two different elements or a
counted one and is longer than two characters. Beyond that, words that are
both a formula and something else are decided so:

* One element alone is a word ("In", "He", "No", "As"), an ion ("Ca2+", "O2-") or, with a count near
  its atomic weight, a nuclide ("U235", "C13"). A one-letter element with a count is a label or a
  symbol ("P1", "C222", "B20", "H100", "Figure S10"), except carbon and boron clusters from 60 atoms
  ("C60"). A count of one is a site label ("Fe1"), as is a count before "site" or "atom".
* A word with a lower-case letter in a symbol is a formula as soon as it parses: "InP", "CoSi",
  "NaCl". Helium and neon form no uncounted compound ("HeLa", "HeNe"). A plural "s" that happens
  to complete a symbol ("ICs", "SOCs") is treated as the capitals before it.
* Capitals only, without a count ("SOC", "CIF", "FCC", "UFO"), are an acronym, unless K or Y, metals
  of one oxidation state, is balanced by the common states of the rest (KCN, KOH, YOF), or for HCN.
* Capitals with one final count above 20 are a label ("IC50"), as are doubled letters without
  hydrogen ("CCP4"). The variables y, z and w need an x beside them ("PyPI" is no formula).
* Two capitals ("NO", "HF", "BN", "CO", "KF") are too short to be a formula.
* Context overrules the last two: "NO crystallizes ...", "the compound KF"; and, for two capitals
  that name a well-known compound, "BN nanosheets", "CO molecules", "HF solution", "h-BN",
  "cubic BN". The same holds for acronyms of the field that parse otherwise ("CP2K", "PW91").
* "OH", Roman numerals ("III", "Fe(III)") and the lattice name "HCP" are never formulas. Deuterium
  needs a count or the last place ("D2O", "NaOD"); tritium is not read, nor are elements beyond
  lawrencium, which form no crystals.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable

from rdkit import Chem

from clac_jax.elements import is_symbol
from clac_jax.formula_grammar import CLOSING, Parsed, is_element, parse

# Acronyms of the field that parse as formulas although they carry a digit or a lower-case letter.
_ACRONYMS = frozenset(
    ("CP2K", "PW91", "PW92", "BP86", "VWN3", "VWN5", "B3PW91", "BC8", "H5N1", "Y2K", "W3C", "B2B",
     "P2P", "I18N", "AuNP", "AgNP", "CuNP", "PtNP", "PdNP", "SiNW", "NiCd", "NaN", "YBCO", "KNN")
)  # fmt: skip
# Vanadium, tungsten and uranium take so many states that any letters behind them would balance.
_SALT_METALS = {"K": 1, "Y": 3}
_COMMON_STATES = {
    "H": (1,), "B": (3,), "C": (4, 2, -4), "N": (-3,), "O": (-2,), "F": (-1,), "P": (5, 3, -3),
    "S": (-2,), "I": (-1,),
}  # fmt: skip
_TWO_LETTER_COMPOUNDS = frozenset(
    ("BN", "BP", "CO", "HF", "HI", "KF", "KH", "KI", "NO", "PN", "UC", "UN", "VC", "VN", "VO", "VP",
     "VS", "WC", "WN", "YN", "YP", "YS")
)  # fmt: skip

_SURE_AFTER = re.compile(r"\s+crystalli[sz]e(?:s|d)?\b")
_SURE_BEFORE = re.compile(
    r"(?:\bcompound|\bformula|\bcomposition|\bstoichiometry)(?:\s+(?:is|of))?:?\s+$"
)
_LIKELY_AFTER = re.compile(
    r"[\s-]+(?:molecules?|gas|nano(?:sheet|tube|particle|wire|ribbon|crystal)s?|monolayers?|"
    r"powders?|coatings?|ceramics?|solution|acid|thin films?|films?|(?:single )?crystals?|"
    r"substrates?|semiconductor|adsorption|oxidation)\b"
)
_LIKELY_BEFORE = re.compile(
    r"(?:(?:\b[Cc]ubic|\b[Hh]exagonal|\b[Rr]ock-?salt|\b[Zz]inc-?blende|\b[Ww]urtzite|\b[Bb]ulk|"
    r"\b[Cc]rystalline|\b[Mm]onolayer)\s+|(?<![\w-])[hcwr]-)$"
)
_LABEL_AFTER = re.compile(r"\s+(?:site|atom|position|sublattice)s?\b")
_ROMAN = re.compile(r"[IVX]+$")


_SURE, _ASK = "formula", "ask the context"


def _judge(parsed: Parsed, core: str) -> str | None:
    """_SURE, _ASK or None (not a formula) for a parsed stretch, whatever stands around it."""
    kinds = set(parsed.symbols)
    if core in ("OH", "HCP") or parsed.bare_group or _ROMAN.match(core):
        return None
    if core in _ACRONYMS:
        return _ASK
    if _UNCOUNTED_D.search(core) or _lone_variable(parsed.counts):
        return None
    if len(kinds) == 1:
        return _judge_one_element(parsed, core)
    if len(core) <= 2:
        return _ASK
    one_letter = all(len(name) == 1 for name in parsed.symbols)
    if one_letter and not parsed.charged and _is_label(parsed, core):
        return None
    if parsed.counts or parsed.groups:
        return _SURE
    if kinds & {"He", "Ne"}:
        return None
    plural = core[-1] == "s" and core[:-1].isupper() and all(map(is_element, core[:-1]))
    capitals = core[:-1] if plural else core
    if capitals.isupper():
        if len(set(capitals)) < len(capitals):  # FCC, BCC, UFF: no formula writes an element twice
            return None
        return _SURE if _is_salt(capitals) else _ASK
    return _SURE


def _judge_one_element(parsed: Parsed, core: str) -> str | None:
    name = parsed.symbols[0]
    if len(core) <= 2 or len(parsed.symbols) > 1 or parsed.charged or not parsed.counts:
        return None
    digits = parsed.counts[0].translate(_FROM_SUBSCRIPTS).strip("_${}")
    if not digits.isdigit():
        return None
    count, weight = (
        int(digits),
        Chem.GetPeriodicTable().GetAtomicWeight("H" if name == "D" else name),
    )
    if count < 2 or abs(count - weight) <= max(2.0, 0.06 * weight):
        return None
    if len(name) == 1 and not (name in "BC" and 60 <= count < 200):
        return None
    return _SURE


_UNCOUNTED_D = re.compile(r"(?:^|(?<=[A-Z)]))D(?=[A-Z(])|^D(?![a-z\d₀-₉_$<])")
_FINAL_COUNT = re.compile(r"[A-Z]+(\d+)")
_FROM_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")


def _lone_variable(counts: list[str]) -> bool:
    """Whether y, z or w is a count of its own although there is no x."""
    return any(count in ("y", "z", "w") for count in counts) and not any(
        "x" in count or "ₓ" in count for count in counts
    )


def _is_label(parsed: Parsed, core: str) -> bool:
    """Whether one-letter symbols read as a label: "IC50", "CCP4", "O(N)"."""
    doubled = any(a == b for a, b in itertools.pairwise(core) if a.isupper())
    if doubled and "H" not in parsed.symbols:
        return True
    if parsed.groups:
        return not parsed.counts
    final = _FINAL_COUNT.fullmatch(core)
    return final is not None and int(final[1]) > 20


def _is_salt(capitals: str) -> bool:
    """Whether capitals name a metal with anions that balance it, such as KCN; HCN counts as one."""
    if capitals == "HCN":
        return True
    sums = {_SALT_METALS.get(capitals[0])} - {None}
    for char in capitals[1:]:
        sums = {total + state for total in sums for state in _COMMON_STATES.get(char, ())}
    return 0 in sums


def _context_decides(text: str, start: int, end: int) -> bool:
    before = text[max(0, start - 30) : start]
    if _SURE_AFTER.match(text, end) or _SURE_BEFORE.search(before):
        return True
    if text[start:end] not in _TWO_LETTER_COMPOUNDS:
        return False
    return bool(_LIKELY_AFTER.match(text, end) or _LIKELY_BEFORE.search(before))


# Of the elements: units behind a number, English words, and what follows such a word.
_UNIT_SYMBOLS = frozenset(["C", "F", "H", "K", "N", "Pa", "S", "V", "W"])
_WORD_SYMBOLS = frozenset(["Am", "As", "At", "Be", "He", "I", "In", "No"])
_ENGLISH_USE = (
    r"(?!\.?\s+(?:\d|[A-Z][A-Za-z]*\d|(?:the|an?|this|that|th[eo]se|its?|their|all|each|every|one|"
    r"both|two|three|four|which|addition|contrast|general|particular|terms|well|such|comparison|"
    r"order)\b))"
)
# Every formula has a symbol directly followed by a symbol, a count or a bracket. This one test
# rejects nearly all words, so that only the others are parsed.
_HINT = re.compile(r"[A-Z][a-z]?[)\]}]?(?:[A-Z0-9(\[{_$<₀-₉ₓₙδ]|[xyznm](?![a-z])|[·⋅•])")
_CHUNK = re.compile(r"\S*")
_SITE_LIST = re.compile(r"[(\[](?:[A-Z][a-z]?[\d.]*,\s)+$")
_START = re.compile(r"(?<![^\W_])(?<!\d\.)(?:0\.\d+|[1-9]\d{0,2}(?:[./]\d+)?)?(?=[A-Z(\[{])")
_BETWEEN_PARTS = re.compile(r"\s?[·⋅•∙]\s?$")


@functools.lru_cache(maxsize=1 << 16)
def _spans_of_chunk(chunk: str) -> tuple[tuple[int, int, int, str, bool], ...]:
    """(start, core start, end, verdict, one element) of what may be formulas in a text."""
    if "://" in chunk:  # an address
        return ()
    spans = []
    at = 0
    while (match := _START.search(chunk, at)) is not None:
        start, core = match.start(), match.end()
        parsed = parse(chunk, core)
        if parsed is None or not _ends_well(chunk, parsed.end):
            at = max(core, start + 1) if core > start else start + 1
            continue
        verdict = _judge(parsed, _core(chunk[core : parsed.end], parsed))
        if verdict is None:
            # Go on inside a group ("(NaCl)"), else behind what was read.
            at = core + 1 if chunk[core] in CLOSING else parsed.end
            continue
        spans.append((start, core, parsed.end, verdict, len(set(parsed.symbols)) == 1))
        at = parsed.end
    return tuple(spans)


def _core(stretch: str, parsed: Parsed) -> str:
    if not parsed.charged:
        return stretch
    return stretch.rstrip("+-−}⁺⁻²³⁴⁵⁶^{$") if not stretch.endswith(">") else stretch


def _ends_well(text: str, end: int) -> bool:
    """Whether a formula may end here: not inside a word, a number or a space-group symbol."""
    following = text[end : end + 2]
    if not following:
        return True
    if following[0].isalnum() or following[0] in "_^":
        return False
    if following[0] == "." and following[1:].isdigit():
        return False
    return not (following[0] in "-−" and following[1:].isdigit() and text[end - 1].isalpha())


def find_formulas(text: str) -> list[tuple[int, int]]:
    """The chemical formulas of a text by the rules of this module.

    Returns:
        (start, end) character positions, in order, without overlap.
    """
    found: list[tuple[int, int]] = []
    done = 0
    for hint in _HINT.finditer(text):
        if hint.start() < done:  # inside the chunk just read
            continue
        start = hint.start()
        while start > done and not text[start - 1].isspace():
            start -= 1
        done = _CHUNK.match(text, hint.start()).end()  # type: ignore[union-attr]
        sites = _SITE_LIST.search(text, max(0, start - 40), start)
        if sites is not None:
            start = sites.start()
        chunk = text[start:done]
        spans_of = _spans_of_chunk if len(chunk) <= 200 else _spans_of_chunk.__wrapped__
        for first, core, last, verdict, single in spans_of(chunk):
            span = (start + first, start + last)
            if verdict == _ASK and not _context_decides(text, start + core, span[1]):
                continue
            if single and _LABEL_AFTER.match(text, span[1]):
                continue
            if found and _BETWEEN_PARTS.match(text[found[-1][1] : span[0]]):
                span = (found.pop()[0], span[1])
            found.append(span)
    return found


def is_formula(token: str) -> bool:
    """Whether a token, without any context, is one chemical formula from end to end."""
    return find_formulas(token) == [(0, len(token))]


def replace_formulas(text: str, word: str = "material", also: Iterable[str] = ()) -> str:
    """Replaces every chemical formula of a text by a word.

    Args:
        text: any text.
        word: what stands there afterwards.
        also: formulas known to be meant, such as the compound's own. They are replaced whatever
            their shape ("KF", "In"), wherever they stand as a word of their own and, for an element
            symbol, do not read as the English word, a unit behind a number, or part of a symbol.
    """
    spans = find_formulas(text)
    for known in also:
        spans += [match.span() for match in _known_pattern(known).finditer(text)] if known else []
    pieces, at = [], 0
    for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        if start >= at:
            pieces += (text[at:start], word)
            at = end
    return "".join([*pieces, text[at:]])


@functools.lru_cache(maxsize=1 << 12)
def _known_pattern(known: str) -> re.Pattern[str]:
    escaped = re.escape(known)
    if not is_symbol(known):
        return re.compile(rf"(?<!\w){escaped}(?!\w)")
    unit = r"(?<!\d)(?<!\d\s)" if known in _UNIT_SYMBOLS else ""
    word = _ENGLISH_USE if known in _WORD_SYMBOLS else ""
    return re.compile(rf"(?<!\w)(?<!\d[/-]){unit}{escaped}(?![\w(]|[-–]\d|/[a-z\d]){word}")
