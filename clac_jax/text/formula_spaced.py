"""Formulas with spaces between the elements, as in CIF files: "Al2 O3", "Ca5 (P O4)3 F".

English text has runs of element symbols, too ("In As I see"). A run of words is a formula only if

* every word is one element with an optional count ("Al2", "O", "Ti0.7"), possibly in brackets, or a
  group with a count ("(OH)2"), and the words are separated by exactly one space or no-break space;
* there are at least two words, two different elements and one count: "Na1 Cl1" is a formula, "Na
  Cl" and "Fe K" are not;
* no element occurs twice, as it does in site labels ("Si1 O1 Si2"), unless the run has brackets or
  a word without a count; no word about sites or bonds follows ("the Fe1 O2 bond"); and the words
  are not all labels of one letter and one digit ("P1 C2", "S1 P2").

A word at either end of a run is dropped if it reads as English or as a unit: In, As, At, Be, He, I,
No and Am without a count at the start of a sentence ("In Al2 O3 the") or at the end of the run
before a capital ("Al2 O3 In Air"); a unit after a number ("300 K Fe2 O3"); the K of an absorption
edge; a Roman numeral after "phase" or "type". At the start of a text such a word is part of the
formula if the run is followed by the end of the text or by "crystallizes".
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from clac_jax.text.formula_grammar import parse

_MOST_WORDS = 30
_SPACE = " \u00a0\u2009\u202f"
_COUNT = (
    r"(?:(?:[1-9]/[2-9]|(?:\d{0,3}\.\d{1,6}|[1-9]\d{0,2})(?:[-−–+][xyδ])?|[xy]"
    r"|\((?:\d{0,2}[-−–+])?[xyδ]\)|[₀-₉]{1,3}(?:\.[₀-₉]{1,3})?"
    r"|(?:~|_\{|<sub>)[\d.xyδ+−–-]{1,8}(?:~|\}|</sub>))(?![\d.]\d))"
)
_ELEMENT = rf"(?:[A-Z][a-z]?(?:\((?:I{{1,3}}|I?V|VI{{1,3}})\))?{_COUNT}?)"
_WORD = (
    rf"(?:[(\[]{{0,2}}{_ELEMENT}(?:[(\[]{_ELEMENT})?"
    rf"(?:[)\]]{{1,2}}{_COUNT}?{_ELEMENT}{{0,8}}){{0,2}}"
    rf"|[(\[]{_ELEMENT}{{2,8}}[)\]]{_COUNT}?)"
)
_RUN = re.compile(rf"{_WORD}(?:[{_SPACE}]{_WORD}(?![^\s.,;:!?'\"”’)\]/–-])){{1,{_MOST_WORDS}}}")
# May precede the first word: a quotation mark, or a separator from another formula.
_LEAD = r"[\"'“‘/:+=–—-]?"
_ONE = re.compile(rf"{_LEAD}({_WORD})")
_ONE_AT_END = re.compile(rf"{_LEAD}{_WORD}(?![^\s.,;:!?'\"”’)\]/–-])")
_NOT_SPACE = re.compile(rf"[^{_SPACE}]+")
_SYMBOL = re.compile(r"[A-Z][a-z]?")

ENGLISH_SYMBOLS = frozenset(("Am", "As", "At", "Be", "He", "I", "In", "No"))
"""Element symbols that are also English words."""
UNIT_SYMBOLS = frozenset(("C", "F", "H", "K", "N", "Pa", "S", "V", "W"))
"""Element symbols that are units after a number."""
_SENTENCE_STARTS = re.compile(r"(?:^|[.!?:;][\"'”’)\]]?\s+|[\n\"“]\s*)$")
_AFTER_NUMBER = re.compile(r"\d\s?$")
_AFTER_KIND = re.compile(
    r"\b(?:phase|type|class|form|group|table|part|section)s?\s$", re.IGNORECASE
)
_BEFORE_WORD = re.compile(r"\s(?:[A-Z][a-z]|(?:the|an?|this|that|these|those|its?)\b)")
_BEFORE_VERB = re.compile(
    r"\s(?:saw|see|show|find|found|have|had|am|was|will|would|use|used|did|do|can|could|think|know|"
    r"measured|observed|report|believe)\b"
)
_EDGE = re.compile(r"[\s-](?:pre-?)?(?:edge|α|alpha|radiation|shell|line|absorption)")
_SITES = re.compile(
    r"\s+(?:(?:inter)?atomic\s+)?(?:site|atom|position|bond|distance|angle|label)s?\b"
)
_DISTANCE = re.compile(r"\s\d\.\d")  # a table of bonds: "Fe1 O2 2.05(3)"
_SITE = re.compile(r"[A-Z][a-z]?\d+")
_ONLY_FORMULA = re.compile(r"\s*$|\s+crystalli[sz]e[sd]?\b")
_LABEL = re.compile(r"[PCFIRBS]\d")


def starts_spaced(chunk: str) -> bool:
    """Whether a text without spaces may be the first word of a formula with spaces."""
    return _ONE_AT_END.match(chunk) is not None


def find_spaced(text: str, chunk: int, after: int) -> tuple[tuple[int, int] | None, int]:
    """The formula with spaces that a word is part of.

    Args:
        text: any text.
        chunk: offset of the word, which follows a space or starts the text.
        after: offset before which no word is considered.

    Returns:
        The (start, end) span of the formula or None, and the end of the run that was examined.
    """
    first = _ONE.match(text, chunk)
    if first is None:
        return None, chunk
    start = first.start(1)
    if start == chunk:
        start = _leftmost(text, start, after)
    run = _RUN.match(text, start)
    if run is None:
        return None, chunk
    words = _trimmed(text, [match.span() for match in _NOT_SPACE.finditer(text, start, run.end())])
    return (None if len(words) < 2 else _checked(text, words)), run.end()


def _leftmost(text: str, start: int, after: int) -> int:
    """Start of the run of words that extends to the left of `start`."""
    for _ in range(_MOST_WORDS):
        if start <= after or text[start - 1] not in _SPACE:
            break
        left = start - 1
        while left > after and start - left < 32 and not text[left - 1].isspace():
            left -= 1
        match = _ONE.fullmatch(text, left, start - 1)
        if match is None:
            break
        start = match.start(1)
        if start > left:  # after a quotation mark
            break
    return start


def _trimmed(text: str, words: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The run without words at its ends that read as English, units or absorption edges."""
    start, end = words[0]
    name, before = text[start:end], text[max(0, start - 12) : start]
    starts = (start <= 12 and not before.strip()) or _SENTENCE_STARTS.search(before)
    is_only_formula = not text[:start].strip() and _ONLY_FORMULA.match(text, words[-1][1])
    if (
        (name in ENGLISH_SYMBOLS and starts and not is_only_formula)
        or (name in UNIT_SYMBOLS and _AFTER_NUMBER.search(before))
        or (name in ("I", "V") and _AFTER_KIND.search(before))
    ):
        words = words[1:]
    if not words:
        return words
    start, end = words[-1]
    name = text[start:end]
    if (
        (name in ENGLISH_SYMBOLS and _BEFORE_WORD.match(text, end))
        or (name == "I" and _BEFORE_VERB.match(text, end))
        or (name == "K" and _EDGE.match(text, end))
    ):
        words = words[:-1]
    return words


def _checked(text: str, words: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """The span of the words if together they are one formula."""
    start, end = _without_outer_brackets(text, words[0][0], words[-1][1])
    if not _is_formula(text[start:end]) or _SITES.match(text, end):
        return None
    if _DISTANCE.match(text, end) and all(map(_SITE.fullmatch, text[start:end].split())):
        return None
    return start, end


@functools.lru_cache(maxsize=1 << 14)
def _is_formula(stretch: str) -> bool:
    """Whether a run of element-like words is a formula, judged without context."""
    pieces = stretch.split()
    joined = "".join(pieces)
    parsed = parse(joined, 0)
    if parsed is None or parsed.end != len(joined) or not parsed.counts or parsed.bare_group:
        return False
    kinds = set(parsed.symbols)
    if len(kinds) < 2:
        return False
    uncounted = any(_SYMBOL.fullmatch(piece) for piece in pieces)
    if len(kinds) < len(parsed.symbols) and not (parsed.groups or uncounted):
        return False
    return not all(_LABEL.fullmatch(piece) for piece in pieces)


def _without_outer_brackets(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without brackets that enclose all of it or are unbalanced."""
    depth = 0
    for at in range(start, end):
        depth += (text[at] in "([") - (text[at] in ")]")
        if depth < 0:
            return start, end - 1
        if depth == 0 and at < end - 1 and text[start] in "([":
            return start, end
    if text[start] in "([" and (depth > 0 or text[end - 1] in ")]"):
        start, end = start + 1, end - (depth == 0)
    return start, end
