"""The grammar of chemical formulas.

A formula is a sequence of elements and groups in (), [] or {}, each with an optional
count; further parts may follow a middle dot (hydrates). A count is a number, a fraction in lowest
terms, a variable (x, y, z, w, n, m, δ ...) or a sum with one (1-x, 7-δ, n+1), written plainly, as
Unicode subscripts, or as LaTeX or HTML subscripts. A leading coefficient and a trailing charge
belong to the formula. Inside a group, alternatives are separated by commas: (Mg,Fe)2SiO4.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass, field

from clac_jax.elements import atomic_number, is_symbol

_HEAVIEST = 103
_DEEPEST = 8  # nested brackets; also keeps hostile text from exhausting the stack

_VARIABLE = r"(?:[xyzwnmδεη](?![a-zα-ω]))"
_NUMBER = r"(?:(?:0\.\d+|[1-9]\d{0,2}(?:\.\d+)?)(?!\d))"
_MINUS = r"[-−–]"
_TERM = rf"(?:{_NUMBER}?{_VARIABLE}(?:/\d)?)"
_SUM = rf"(?:(?:{_MINUS}|[+±]){_TERM})"
_EXPRESSION = (
    rf"(?:{_TERM}(?:(?:{_MINUS}|\+)\d(?![\d+]))?{_SUM}*"
    rf"|{_NUMBER}(?:(?P<slash>/)(?P<denominator>[1-9]\d?)(?!\d))?{_SUM}*)"
)
_UNICODE_COUNT = r"(?:[₀-₉ₓₙₘ]+(?:[.][₀-₉]+)?(?:[-−–+₋₊][0-9]*[xyzδₓₙ₀-₉]+)*)"


def _unnamed(pattern: str) -> str:
    return re.sub(r"\?P<\w+>", "?:", pattern)


_PLAIN = _unnamed(_EXPRESSION)
_COUNT = re.compile(
    rf"(?P<plain>{_EXPRESSION})|(?P<unicode>{_UNICODE_COUNT})"
    rf"|\$?_\{{(?:{_PLAIN})\}}\$?|\$?_(?:{_PLAIN})\$?|<sub>(?:{_PLAIN})</sub>"
    rf"|\((?:\d(?:\.\d+)?{_MINUS})?{_VARIABLE}\)"
)
_SYMBOL = re.compile(r"[A-Z][a-z]?")
_OXIDATION_STATE = re.compile(r"\((?:I{1,3}|I?V|VI{1,3})\)")
_COEFFICIENT = re.compile(r"(?:\d+(?:\.\d+)?|\d+/\d+|[nxm](?=H))")
_DOT = re.compile(r"[·•⋅∙‧*](?=[0-9nxA-Z(\[])|\.(?=\d*[.]?\d*H2O)")
_CHARGE = re.compile(
    r"(?:\^?\{?\d*(?:[+−-])\}?|\$?\^\{?\d*[+−-]\}?\$?|[²³⁴⁵⁶]?[⁺⁻]|<sup>\d*[+−-]</sup>)"
    r"(?![\w+−-])"
)
# MXenes write their unknown surface groups as T: Ti3C2Tx.
_TERMINATION = re.compile(r"T(?:x|z|ₓ|_x|_\{x\})(?!\w)")
CLOSING = {"(": ")", "[": "]", "{": "}"}


@functools.cache
def is_element(text: str) -> bool:
    """Whether the text is the symbol of an element that a formula may hold."""
    # Tritium and the elements beyond lawrencium would only make formulas of acronyms.
    return text != "T" and is_symbol(text) and atomic_number(text) <= _HEAVIEST


@dataclass
class Parsed:
    """What stands in one formula-like stretch of text."""

    end: int
    symbols: list[str] = field(default_factory=list)
    counts: list[str] = field(default_factory=list)
    groups: int = 0
    bare_group: bool = False  # nothing but one uncounted group
    charged: bool = False

    def absorb(self, other: Parsed) -> None:
        """Adds a part that starts where this one ends."""
        self.end = other.end
        self.symbols += other.symbols
        self.counts += other.counts
        self.groups += other.groups


def _parse_count(text: str, at: int) -> int:
    """The position behind the count that starts at `at`; `at` itself if there is none."""
    match = _COUNT.match(text, at)
    if match is None:
        return at
    if match["slash"]:
        whole = text[at : match.start("slash")]
        bottom = int(match["denominator"])
        proper = whole.isdigit() and bottom > 1 and math.gcd(int(whole), bottom) == 1
        if not proper:  # "SiO2/4H-SiC": a separator, not a fraction
            return match.start("slash")
    return match.end()


def _parse_sequence(text: str, at: int, closing: str, depth: int = 0) -> Parsed | None:
    """Elements and groups from `at` on, up to `closing` (if given) or as far as they go."""
    result = Parsed(end=at)
    items = 0
    counted = False
    while result.end < len(text):
        char = text[result.end]
        if char in CLOSING and depth < _DEEPEST:
            group = _parse_sequence(text, result.end + 1, CLOSING[char], depth + 1)
            if group is None or text[group.end : group.end + 1] != CLOSING[char]:
                break
            group.end += 1
            group.groups += 1
            result.absorb(group)
        else:
            match = _SYMBOL.match(text, result.end)
            if match is None:
                break
            name = match[0] if is_element(match[0]) else match[0][0]
            if not is_element(name):
                break
            result.symbols.append(name)
            result.end += len(name)
            state = _OXIDATION_STATE.match(text, result.end)
            if state is not None:
                result.end = state.end()
        items += 1
        end = _parse_count(text, result.end)
        counted = end > result.end
        if counted:
            result.counts.append(text[result.end : end])
            result.end = end
        if closing and text[result.end : result.end + 1] == ",":
            # Alternatives on one site: (Mg,Fe); the separator belongs to the group only.
            result.end += 1
            while text[result.end : result.end + 1] == " ":
                result.end += 1
    if not items:
        return None
    result.bare_group = items == 1 and result.groups > 0 and not counted and text[at] in CLOSING
    return result


def parse(text: str, at: int) -> Parsed | None:
    """The longest formula-like stretch that starts at `at`, with its parts after middle dots."""
    result = _parse_sequence(text, at, "")
    if result is None:
        return None
    while (dot := _DOT.match(text, result.end)) is not None:
        start = dot.end()
        coefficient = _COEFFICIENT.match(text, start)
        part = _parse_sequence(text, coefficient.end() if coefficient else start, "")
        if part is None:
            break
        result.absorb(part)
        result.bare_group = False
    if len(result.counts) > 0:
        termination = _TERMINATION.match(text, result.end)
        if termination is not None:
            result.end = termination.end()
    charge = _CHARGE.match(text, result.end)
    if charge is not None:
        result.end = charge.end()
        result.charged = True
    return result
