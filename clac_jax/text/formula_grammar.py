r"""The grammar of chemical formulas.

A formula is a sequence of elements and groups in (), [] or {}, each with an optional count; more
parts may follow after a middle dot (hydrates). A count is a number (".35" included), a fraction in
lowest terms, a variable (x, y, z, w, n, m, δ ...) or a sum with a variable (1-x, 7-δ, n+1). Counts
are plain, Unicode subscripts, or marked up as LaTeX (`_2`, `_{2}`, `$_2$`, `\(_2\)`), HTML
(`<sub>2</sub>`), Markdown and CIF (`~2~`) or plain text (`_2_`). LaTeX font commands around symbols
are skipped (`{\mathrm{SrTiO}}_{3}`).

A formula includes a trailing charge. Metals may carry oxidation states (Fe2+Fe3+2O4,
Fe(II)Fe(III)2O4), and □ is a vacancy. Commas separate the species that share a site: (Mg,Fe)2SiO4.
MA, FA, PEA, BA and GA are the organic cations of halide perovskites, and Tx the unspecified surface
terminations of MXenes.

The parser reads from left to right and never retries a failed group, so its time is linear in the
length of any text.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass, field

from clac_jax.crystals.elements import atomic_number, is_symbol

_HEAVIEST = 98  # californium: of heavier elements no crystal could be made
_DEEPEST = 8  # nested brackets; also protects the stack from hostile text

NONMETALS = frozenset(
    ("H", "D", "He", "B", "C", "N", "O", "F", "Ne", "Si", "P", "S", "Cl", "Ar", "Ge", "As", "Se",
     "Br", "Kr", "Te", "I", "Xe", "At", "Rn")
)  # fmt: skip
"""Nonmetals and metalloids, including deuterium (D)."""

MINUS = r"(?:[-−–]|&minus;|\\ensuremath\{-\})"
_VARIABLE = r"(?:(?:[xyzwnmδεη𝑥𝑦𝑧𝛿]|\\delta|\\epsilon)(?![a-zα-ω])|<i>[a-zδ]</i>)"
_NUMBER = r"(?:(?:0?\.\d{1,6}|[1-9]\d{0,2}(?:\.\d{1,6})?)(?!\d))"
_TERM = rf"(?:{_NUMBER}?{_VARIABLE}(?:/\d)?)"
_SUM = rf"(?:(?:{MINUS}| [-−–] |[+±])(?:{_TERM}|(?:d|delta)(?![a-zα-ω])))"
_EXPRESSION = (
    rf"(?:{_TERM}(?:(?:{MINUS}|\+)[1-4](?![\d+]))?{_SUM}{{0,4}}"
    rf"|{_NUMBER}(?:(?P<slash>/)(?P<denominator>[1-9]\d?)(?!\d))?{_SUM}{{0,4}})"
)
_UNICODE_COUNT = (
    r"(?:[₀-₉ₓₙₘᵧ]{1,6}(?:[.][₀-₉]{1,6})?(?:[-−–+₋₊][0-9]{0,3}[xyzδ𝑥𝑦𝛿ₓₙᵧᵟ₀-₉]{1,6}){0,4}"
    r"(?![₀-₉ₓₙₘᵧ]))"
)


def _unnamed(pattern: str) -> str:
    return re.sub(r"\?P<\w+>", "?:", pattern)


_INNER = _unnamed(_EXPRESSION)
_PLAIN = rf"(?:{_INNER}|\\(?:mathrm|text|rm)\{{{_INNER}\}}|\\rm {_INNER})"
# A "$" that closes after a later part is handled by parse().
_MARKUP = "|".join(
    opening + _PLAIN + closing
    for opening, closing in (
        (r"\$(?:\{\})?_\{", r"\}\$?"),
        (r"\$(?:\{\})?_", r"\$?"),
        # The second part of $Cu_3$Au is outside the mathematics.
        (r"_\{", r"\}\$(?=[A-Z])"),
        (r"_", r"\$(?=[A-Z])"),
        (r"(?:\{\})?_\{", r"\}"),
        (r"\\\(_\{", r"\}\\\)"),
        (r"\\\(_", r"\\\)"),
        (r"_", r"_(?!\{)"),
        (r"_", r""),
        (r"~", r"~"),
        (r"<(?i:sub|inf)>", r"</(?i:sub|inf)>"),
        (r"\\textsubscript\{", r"\}"),
    )
)
_COUNT = re.compile(
    rf"\d\(\d{MINUS}[xyz]\)|(?:{_EXPRESSION})|(?:{_UNICODE_COUNT})|{_MARKUP}"
    rf"|\((?:(?:\d(?:\.\d{{1,6}})?(?:{MINUS}|\+))?(?:{_VARIABLE}|d|delta)|\d?\.\d{{1,6}})\)"
)
_SYMBOL = re.compile(r"[A-Z][a-z]?|□")
_FONT = re.compile(r"\\(?:mathrm|mathsf|mathbf|mathit|textrm|text|rm|ce)(?=\{)|\\rm ")
ROMAN_STATE = re.compile(r"\((?:0|I{1,3}|I?V|VI{1,3})\)")
"""An oxidation state, where it follows a symbol."""
_METAL_STATE = re.compile(
    r"(?:[1-8]\+|[²³⁴-⁸]⁺|\^\{[1-8]\+\}|\^[1-8]\+\^?|\$\^\{[1-8]\+\}\$|<sup>[1-8]\+</sup>)"
    r"(?=[A-Z(\[)\],~<_$₀-₉]|\d{1,2}(?:\.\d{1,6})?[A-Z(\[])"
)
FRACTIONS = "½⅓⅔¼¾⅕⅙⅛"
_ORGANIC_CATION = re.compile(r"(?:MA|FA|PEA|BA|GA)(?![a-z])")
_COEFFICIENT = re.compile(
    rf"(?:\d{{1,3}}/\d{{1,3}}|\d?[{FRACTIONS}]|\d{{0,4}}\.?\d{{1,4}}|[nxmyz](?=[(\[]?[A-Z]))"
)
_WATER = r"\(?[HD](?:2|₂|_2_?|_\{2\}|\$_2\$|\$_\{2\}\$|~2~|<sub>2</sub>)O"
MIDDLE_DOT = r"(?:[·•⋅∙‧・･*×]|\$?\\cdot\$?|&middot;)"
"""Pattern of what separates the parts of a hydrate."""
_DOT = re.compile(
    rf"{MIDDLE_DOT}(?=[0-9nxmyzA-Z(\[½⅓⅔¼¾⅕⅙⅛])"
    rf"|\.(?=(?:[nxmyz]|\d?[½⅓⅔¼¾⅕⅙⅛]|\d{{0,3}}[./]?\d{{0,3}}){_WATER})"
)
# In CuSO4.5H2O the count is 4: where water ends the formula, the full stop before its number is the
# middle dot. A count is not 0, as it would be in K0.5H2O.
_BEFORE_WATER = re.compile(
    rf"(_?[1-9]\d{{0,2}})?(?=\.\d{{1,3}}(?:[./]\d{{1,3}})?{_WATER}(?:\)|\}}|\$)*(?![\w₀-₉(\[{{<~^·•⋅]))"
)
CHARGE = re.compile(
    r"(?:\$?\^\{\d*[+−–-]\}\$?|\^\d*[+−–-]\^|[¹²³⁴-⁸]?[⁺⁻]|<sup>\d*[+−–-]</sup>)(?![\w+−-])"
    r"|\^?\d*\+(?![\w+−]|-\d)|\^?\d*[−–-](?![\w+−([-])"
)
"""The charge of an ion, after its symbols."""
# The surface terminations of MXenes: Ti3C2Tx.
_TERMINATION = re.compile(
    r"T(?:[xz]|ₓ|_x_?|_\{x\}|\$_x\$|\$_\{x\}\$|~x~|<sub>x</sub>)(?!\w)"
)  # fmt: skip
# The name of a polymorph: VO2(B).
_POLYMORPH = re.compile(r"(?<=[\d₂₃}>$])\([BCHNOS]\)(?![\w₀-₉({\[<~$^])")
CLOSING = {"(": ")", "[": "]", "{": "}"}


@functools.cache
def is_element(text: str) -> bool:
    """Whether the text is the symbol of an element that may occur in a formula."""
    # Tritium and the heaviest elements would only turn acronyms into formulas.
    return text != "T" and is_symbol(text) and atomic_number(text) <= _HEAVIEST


@dataclass
class Parsed:
    """The parts of one formula-like substring."""

    end: int
    symbols: list[str] = field(default_factory=list)
    counts: list[str] = field(default_factory=list)
    items: list[int] = field(default_factory=list)
    """Offsets of the elements and groups at the top level."""
    groups: int = 0
    bare_group: bool = False  # a single group without a count
    charged: bool = False
    states: bool = False  # has oxidation states
    organic: bool = False  # MA, FA ...
    terminated: bool = False  # Tx
    group_counted: bool = False

    def absorb(self, other: Parsed) -> None:
        """Appends a part that starts at the end of this one."""
        self.end = other.end
        self.symbols += other.symbols
        self.counts += other.counts
        self.groups += other.groups
        self.states |= other.states
        self.organic |= other.organic
        self.group_counted |= other.group_counted


def _parse_count(text: str, at: int) -> int:
    """The end of the count that starts at `at`, or `at` if there is no count."""
    match = _BEFORE_WATER.match(text, at)
    if match is not None:
        return match.end()
    match = _COUNT.match(text, at)
    if match is None:
        return at
    if match["slash"]:
        numerator = text[at : match.start("slash")]
        denominator = int(match["denominator"])
        coprime = numerator.isdigit() and math.gcd(int(numerator), denominator) == 1
        proper = coprime and denominator > 1
        if not proper:  # "SiO2/4H-SiC": a separator, not a fraction
            return match.start("slash")
    return match.end()


def _read_symbol(text: str, result: Parsed) -> bool:
    """Reads an element with its oxidation state, or an organic cation; False if there is none."""
    cation = _ORGANIC_CATION.match(text, result.end)
    if cation is not None:
        result.organic = True
        result.end = cation.end()
        return True
    match = _SYMBOL.match(text, result.end)
    if match is None:
        return False
    name = match[0]
    if name == "□":
        result.end += 1
        return True
    if not is_element(name):
        name = name[0]
        if not is_element(name):
            return False
    result.symbols.append(name)
    result.end += len(name)
    state = ROMAN_STATE.match(text, result.end)
    if state is None and name not in NONMETALS:
        state = _METAL_STATE.match(text, result.end)
        result.states |= state is not None
    if state is not None:
        result.end = state.end()
    return True


def _parse_sequence(
    text: str, at: int, closing: str, failed: set[int], depth: int = 0
) -> Parsed | None:
    """Parses elements and groups from `at` to the `closing` bracket, or as far as possible."""
    result = Parsed(end=at)
    counted = False
    while result.end < len(text):
        start = result.end
        char = text[start]
        if char == "\\":
            font = _FONT.match(text, start)
            if font is None:
                break
            result.end = font.end()
            if text[result.end - 1] == " ":  # {\rm Al}
                continue
            char = "{"
        if char == "(" and depth == 0 and _POLYMORPH.match(text, start):
            break
        is_group = char in CLOSING
        if is_group:
            group = None
            if depth < _DEEPEST and start not in failed:
                group = _parse_sequence(text, result.end + 1, CLOSING[char], failed, depth + 1)
            if group is None or text[group.end : group.end + 1] != CLOSING[char]:
                failed.add(start)
                result.end = start
                break
            group.end += 1
            group.groups += 1
            result.absorb(group)
        elif not _read_symbol(text, result):
            break
        result.items.append(start)
        end = _parse_count(text, result.end)
        counted = end > result.end
        if counted:
            result.counts.append(text[result.end : end])
            result.group_counted |= is_group
            result.end = end
        if closing and text[result.end : result.end + 1] == ",":
            # Species that share a site: (Mg,Fe). The comma is only valid inside a group.
            result.end += 1
            while text[result.end : result.end + 1] == " ":
                result.end += 1
    if not result.items:
        return None
    result.bare_group = (
        len(result.items) == 1 and result.groups > 0 and not counted and text[at] in "([{\\"
    )
    return result


def parse(text: str, at: int, failed: set[int] | None = None) -> Parsed | None:
    """Parses the longest formula-like substring that starts at `at`, hydrate parts included.

    Args:
        text: any text without spaces.
        at: offset in it.
        failed: offsets of brackets that do not open a group; updated in place. Sharing one set
            among all calls for a text avoids parsing a bracket twice.

    Returns:
        The parts, or None if neither an element nor a group starts at `at`.
    """
    failed = set() if failed is None else failed
    result = _parse_sequence(text, at, "", failed)
    if result is None:
        return None
    while (dot := _DOT.match(text, result.end)) is not None:
        start = dot.end()
        coefficient = _COEFFICIENT.match(text, start)
        part = _parse_sequence(text, coefficient.end() if coefficient else start, "", failed)
        if part is None:
            break
        result.items += part.items
        result.absorb(part)
        result.bare_group = False
    if len(result.counts) > 0:
        termination = _TERMINATION.match(text, result.end)
        if termination is not None:
            result.end = termination.end()
            result.terminated = True
    charge = CHARGE.match(text, result.end)
    if charge is not None:
        result.end = charge.end()
        result.charged = True
    if text.count("$", at, result.end) % 2 and text[result.end : result.end + 1] == "$":
        result.end += 1
    return result
