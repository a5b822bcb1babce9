"""Detection and replacement of chemical formulas in running text.

`formula_grammar` parses candidates, `formula_words` classifies each one without its context, and
`formula_spaced` handles formulas written with spaces. This module locates the candidates and
applies the context rules:

* Acronyms and pairs of capitals are formulas in contexts such as "NO crystallizes ..." and "the
  compound KF". For pairs that name a well-known compound, "BN nanosheets", "CO molecules", "HF
  solution", "h-BN", "hBN" and "cubic BN" are sufficient, too.
* An element with a number before "site" or "atom", or next to another label, is a site label ("the
  Fe2 site", "atoms Na1 and Cl2", "Fe1–O1–Fe2").
* Only the formula is replaced, and the surrounding grammar is preserved: "SiO2-based" becomes
  "material-based", "4H-SiC" "4H-material", "SiC-3C" "material-3C", "Y2O3:Eu3+" "material:Eu3+",
  "VO2(B)" "material(B)", and "SrO- and TiO2-terminated" "material- and material-terminated".
* A formula cannot start or end inside a word or a number, or at a combining character ("Pm3̅m").
"""

from __future__ import annotations

import dataclasses
import functools
import re
import unicodedata
from collections.abc import Iterable

from clac_jax.crystals.elements import is_symbol
from clac_jax.text.formula_grammar import CLOSING, NONMETALS, Parsed, parse
from clac_jax.text.formula_spaced import ENGLISH_SYMBOLS, UNIT_SYMBOLS, find_spaced, starts_spaced
from clac_jax.text.formula_words import Verdict, classify

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
_BOND = r"(?:[–—-]|···|⋯|…|\.\.\.)"
_LABEL_AFTER = re.compile(
    r"(?:,? and|,| or)?(?: [A-Z][a-z]?\d{1,2}(?:,? and|,| or)?){0,9}"
    r"\s+(?:site|atom|position|sublattice)s?\b|\s[A-Z][a-z]?\d{1,2}(?![\w.])"
    rf"|{_BOND}[A-Z][a-z]?\d{{0,2}}(?![\w.])"
)
_FULLERENE = re.compile(r"C\d\d")
_LABEL_BEFORE = re.compile(
    rf"(?:^|[^\w])[A-Z][a-z]?\d{{1,2}}\s$|(?:^|[^\w])[A-Z][a-z]?\d{{0,2}}{_BOND}$"
    r"|\b(?:[Ss]ite|[Aa]tom|[Pp]osition|[Ll]abel)s?\s(?:[A-Z][a-z]?\d{1,2}(?:,? and|,| or)\s){0,9}$"
)


def _context_decides(text: str, start: int, end: int) -> bool:
    before = text[max(0, start - 30) : start]
    if _SURE_AFTER.match(text, end) or _SURE_BEFORE.search(before):
        return True
    if text[start:end] not in _TWO_LETTER_COMPOUNDS:
        return False
    return bool(_LIKELY_AFTER.match(text, end) or _LIKELY_BEFORE.search(before))


def _is_site_label(text: str, start: int, end: int) -> bool:
    """Whether an element with a number labels a site of a structure; fullerenes do not."""
    if _FULLERENE.match(text, start):
        return False
    return bool(
        _LABEL_AFTER.match(text, end) or _LABEL_BEFORE.search(text, max(0, start - 60), start)
    )


_ENGLISH_USE = (
    r"(?!\.?\s+(?:\d|[A-Z][A-Za-z]*\d|(?:the|an?|this|that|th[eo]se|its?|their|all|each|every|one|"
    r"both|two|three|four|which|addition|contrast|general|particular|terms|well|such|comparison|"
    r"order)\b))"
)
# In every formula some symbol is followed directly by a symbol, a count or a bracket. This cheap
# test rejects nearly all words before they are parsed.
_HINT = re.compile(
    r"[A-Z][a-z]?[)\]}]{0,3}(?:[A-Z0-9(\[{_$<~\\₀-₉ₓₙδ²-⁹]|\.\d|[xyznm𝑥𝑦](?![a-z])|[·⋅•])"
)
# Also "La2 − xSrxCuO4" and "YBa2Cu3O7 − δ", with spaces around the minus sign.
_CHUNK = re.compile(
    r"\S*(?: (?:(?<=\\rm )|[-−–] (?<=[A-Za-z]\d...)"
    r"(?=[δ𝛿](?!\w)|([xyz])[A-Z]\w{0,9}\1|(?<=[NOFS]\d...)[xyz](?![\w-])))\S*)*"
)
_SITE_LIST = re.compile(r"[(\[](?:[A-Z][a-z]?[\d.]*,\s)+$")
_ISOTOPE = r"[⁰¹²³⁴-⁹]{1,3}|\$?\^\{?\d{1,3}\}?\$?|\^\d{1,3}\^|<sup>\d{1,3}</sup>"
_SHARE = r"\((?:\d(?:\.\d{1,6})?[-−–])?(?:[xyz][-−–])?[xyz]\)(?=[A-Z(])|[xyz](?=[A-Z][a-z]|\()"
# In (1-x)BiFeO3-xPbTiO3 the "-x" is the fraction of the second compound, not part of a count.
_MIXTURE = re.compile(r"\(1(?:[-−–][xyz]){1,2}\)(?=[A-Z(])")
_BEFORE_SHARE = re.compile(r"(?<!1)[-−–](?=[xyz][A-Z(])")
_BORON_NITRIDE = r"[hcw](?=BN(?![A-Za-z\d]))"
_COEFFICIENT = r"0?\.\d{1,6}|[1-9]\d{0,2}(?:[./]\d{1,6})?"
_START = re.compile(
    rf"(?<![^\W_])(?<!\d\.)(?:{_COEFFICIENT}|{_ISOTOPE}|{_SHARE}|{_BORON_NITRIDE})?"
    r"(?=[A-Z(\[{]|\\(?:mathrm|mathsf|mathbf|mathit|textrm|text|rm|ce)\{)"
)
_BETWEEN_PARTS = re.compile(r"\s?(?:[·⋅•∙‧・･]|\$?\\cdot\$?)\s?(?:(?:\d{1,2}|\d?\.\d)\s)?$")
_IS_CUT = re.compile(r"\([A-Za-z]")
_JOINED = re.compile(r"_(?:[a-z]{2}|[^\w{~$\\]|$)")
# "SrO- and TiO2-terminated"
_SUSPENDED = re.compile(r"(?:,\s\S+-)*,?\s(?:and|or|versus)\s[^\s-]+-[a-z]")
# Follows the digit of a space-group symbol: Pm2(1)n.
_SCREW_AXIS = re.compile(r"\([1-5]\)[a-z]|<sub>|~\d")


@dataclasses.dataclass(frozen=True, slots=True)
class _Chunk:
    """The formula candidates of a text without spaces, found without regard to its context."""

    spans: tuple[tuple[int, int, int, Verdict, bool], ...]
    """(start, start of the core, end, verdict, single element) of each candidate."""
    may_be_spaced: bool
    """Whether the chunk may be part of a formula with spaces."""


@functools.lru_cache(maxsize=1 << 16)
def _read_chunk(chunk: str) -> _Chunk:
    if "://" in chunk:  # an address
        return _Chunk((), may_be_spaced=False)
    if _MIXTURE.search(chunk):
        chunk = _BEFORE_SHARE.sub("\0", chunk)
    spans = []
    # A symbol that was parsed as part of a rejected candidate is not parsed again, which keeps the
    # time linear in the length.
    settled: set[int] = set()
    failed: set[int] = set()
    at = 0
    while (match := _START.search(chunk, at)) is not None:
        start, core = match.start(), match.end()
        in_word = start > 0 and unicodedata.category(chunk[start - 1])[0] == "M"
        # The fraction in a mixture only precedes a formula with counts: (1-x)BiScO3, not xRD.
        has_share = core > start and chunk[start] in "xyz("
        parsed = None if in_word or core in settled else parse(chunk, core, failed)
        if parsed is None:
            at = max(core, start + 1)
            continue
        verdict = Verdict.NOT_FORMULA
        if _ends_well(chunk, parsed.end) and (parsed.counts or not has_share):
            verdict = classify(parsed, _core(chunk[core : parsed.end], parsed))
        if core > start and chunk[start] in "hcw":
            verdict = Verdict.FORMULA
        if parsed.symbols[1:] == ["I"] and f"{parsed.symbols[0]}II" in chunk:  # CuI/CuII
            verdict = Verdict.NOT_FORMULA
        if (
            chunk[start : start + 2].isdigit()
            and core > start
            and NONMETALS.isdisjoint({*parsed.symbols} - {"Si"})
        ):
            verdict = Verdict.NOT_FORMULA  # a steel: 42CrMo4
        if verdict is Verdict.NOT_FORMULA:
            settled.update(parsed.items)
            # Continue inside a group ("(NaCl)"), otherwise after the candidate.
            inside = chunk[core] in CLOSING or chunk[core] == "\\"
            at = core + 1 if inside or parsed.end == core else parsed.end
            continue
        at = parsed.end
        single = len(set(parsed.symbols)) == 1
        if single and (chunk[start - 1 : start] in tuple(")]}") or _IS_CUT.match(chunk, at)):
            continue  # part of a complex: [Co(en)3]Cl3, Cu3(BTC)2
        spans.append((start, core, parsed.end, verdict, single))
    return _Chunk(tuple(spans), may_be_spaced=starts_spaced(chunk))


def _core(stretch: str, parsed: Parsed) -> str:
    if not parsed.charged:
        return stretch
    return stretch.rstrip("+-−–}⁺⁻²³⁴⁵⁶^{$") if not stretch.endswith(">") else stretch


def _ends_well(text: str, end: int) -> bool:
    """Whether a formula may end at this position, which must not be inside a word or a number."""
    following = text[end : end + 2]
    if not following:
        return True
    first = following[0]
    if first == "_":  # Bi2Se3_film, _NaCl_
        return _JOINED.match(text, end) is not None
    if first.isalnum() or first == "^" or unicodedata.category(first)[0] == "M":
        return False
    if first == "." and following[1:].isdigit():
        return False
    return _SCREW_AXIS.match(text, end) is None


def find_formulas(text: str) -> list[tuple[int, int]]:
    """The spans of all chemical formulas in a text.

    Returns:
        (start, end) character offsets, sorted and without overlap.
    """
    found: list[tuple[int, int]] = []
    done = run_end = 0
    for hint in _HINT.finditer(text):
        if hint.start() < done:  # inside the chunk just read
            continue
        start = hint.start()
        while start > done and (
            not text[start - 1].isspace() or text[max(done, start - 4) : start] == "\\rm "
        ):
            start -= 1
        end = _CHUNK.match(text, hint.start()).end()  # type: ignore[union-attr]
        if text[start - 2 : start - 1] == ",":
            sites = _SITE_LIST.search(text, max(0, start - 40), start)
            start = start if sites is None else sites.start()
        chunk = text[start:end]
        read = _read_chunk(chunk) if len(chunk) <= 200 else _read_chunk.__wrapped__(chunk)
        if read.may_be_spaced and start >= run_end:
            spaced, run_end = find_spaced(text, start, done)
            if spaced is not None:
                _add_span(text, found, spaced)
                done = spaced[1]
                continue
        done = end
        for first, core, last, verdict, single in read.spans:
            span = (start + first, start + last)
            if verdict is Verdict.NEEDS_CONTEXT and not _context_decides(
                text, start + core, span[1]
            ):
                continue
            if single and _is_site_label(text, *span):
                continue
            if text[span[1] - 1] == "-" and _SUSPENDED.match(text, span[1]):
                span = (span[0], span[1] - 1)
            _add_span(text, found, span)
    return found


def _add_span(text: str, found: list[tuple[int, int]], span: tuple[int, int]) -> None:
    """Adds a formula to `found`, or extends the last one, as in CaSO4 · 2H2O."""
    start = span[0]
    if found and start - found[-1][1] < 12 and _BETWEEN_PARTS.match(text[found[-1][1] : start]):
        start = found.pop()[0]
    found.append((start, span[1]))


def is_formula(token: str) -> bool:
    """Whether the entire token is one chemical formula, judged without context."""
    return find_formulas(token) == [(0, len(token))]


def replace_formulas(text: str, word: str = "material", also: Iterable[str] = ()) -> str:
    """Replaces every chemical formula in a text by a word.

    Args:
        text: any text.
        word: the replacement.
        also: formulas to replace in any case, such as that of the crystal described. They are
            replaced even if ambiguous ("KF", "In"), where they form a separate word; an element
            symbol is kept where it reads as an English word, as a unit after a number ("25 °C"), as
            a quantity ("V = 45 Å³"), or as part of a longer symbol ("C 2/m", "F-centered"). Spaces
            between the elements ("Pb S") are allowed.
    """
    spans = find_formulas(text)
    for known in also:
        spans += [match.span() for match in _known_pattern(known).finditer(text)] if known else []
    pieces: list[str] = []
    at = 0
    for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        if start >= at:
            pieces += (text[at:start], word)
            at = end
    return "".join([*pieces, text[at:]])


_NOT_AFTER_NUMBER = (
    r"(?<![\d°º˚⁰¹²³⁴-⁹])(?<![\d°º˚⁰¹²³⁴-⁹]\s)(?<!\\circ)(?<!\\circ[\s}$])(?<!\\circ\}\$)"
)
_NOT_A_SYMBOL = (
    r"(?!\s?[=≈]\s?[-−–]?\d)"  # a quantity
    # A space group: C 2/m, P -1, P m -3 m, C c.
    r"(?!\s(?:[-−–]?[1-6][1-5]?(?:_|\b)(?!\.\d)|[cmn]\b|[abd]\s-?[\dabcdmn]\b))"
    # A lattice, a plane, a point in reciprocal space, an absorption edge, or a shape.
    r"(?![-‐‑–\s](?:(?:face|body|base|side)[-‐‑–\s])?cent(?:er|red|ring))"
    r"(?![-‐‑–](?:axis|axes|edge|face|glide|mesh|path|points?|shaped)\b)"
)
_KNOWN_PARTS = re.compile(r"[(\[{]*[A-Z][a-z]?[^A-Z(\[{]*|.", re.DOTALL)


@functools.lru_cache(maxsize=1 << 12)
def _known_pattern(known: str) -> re.Pattern[str]:
    escaped = "[ \u00a0]?".join(re.escape(part) for part in _KNOWN_PARTS.findall(known))
    if not is_symbol(known):
        return re.compile(rf"(?<!\w){escaped}(?!\w)")
    unit = _NOT_AFTER_NUMBER if known in UNIT_SYMBOLS else ""
    word = _ENGLISH_USE if known in ENGLISH_SYMBOLS else ""
    word += _NOT_A_SYMBOL if len(known) == 1 else ""
    return re.compile(rf"(?<!\w)(?<!\d[/-]){unit}{escaped}(?![\w(]|[-–]\d|/[a-z\d]){word}")
