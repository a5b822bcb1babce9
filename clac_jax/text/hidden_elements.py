"""Texts that do not say which elements a crystal has."""

from __future__ import annotations

import functools
import re

from clac_jax.crystals.elements import OTHER_NAMES, name, symbol
from clac_jax.text.compositions import NOT_THE_VERB
from clac_jax.text.formula_grammar import CHARGE, ROMAN_STATE, is_element
from clac_jax.text.formula_spaced import ENGLISH_SYMBOLS

ELEMENT_WORD = "element"
"""Stands for the name of any element."""
COMPOUND_WORD = "compound"
"""Stands for a class of compounds that is named for its elements."""

_NUMBERS = range(1, 119)
_SERIES = ("lanthanide", "actinide")
_ANIONS = (
    # -ide
    "aluminide amide antimonide arsenide astatide auride aurate azide beryllide bismuthide boride "
    "bromide carbide chloride cupride cyanamide cyanide diimide fluoride gallide germanide halide "
    "hydride hydroxide indide iodide iridide magneside mercuride nickelide nitride oxide "
    "palladide phosphide platinide plumbide polonide rhodide selenide silicide stannide sulfide "
    "sulphide telluride thallide zincide chalcogenide pnictide "
    # -ate, -ite
    "aluminate antimonate argentate arsenate beryllate bismuthate borate bromate cadmate carbonate "
    "chlorate chromate cobaltate cuprate cyanate ferrate gallate germanate hafnate indate iodate "
    "iridate manganate mercurate molybdate neptunate nickelate niobate nitrate osmate palladate "
    "phosphate platinate plumbate plutonate rhenate rhodate ruthenate scandate selenate silicate "
    "stannate sulfate sulphate tantalate technetate tellurate thallate thorate titanate tungstate "
    "uranate vanadate wolframate yttrate zincate zirconate antimonite arsenite chromite cobaltite "
    "ferrite manganite nitrite phosphite selenite sulfite sulphite tellurite "
    # others
    "ammine ammonium carbonyl hydrate hydrated hydroxyl neptunyl nitrosyl oxyacid phosphonium "
    "plutonyl titanyl uranyl vanadyl zirconyl"
)
_ENGLISH = r"[a-z]*laborates?\b|corroborates?\b|monochromates?\b"
# Not after other letters: macerate, glyceric.
_CLASSES = "cerate chromyl"
_ADJECTIVES = (
    "antimonic antimonous argentic arsenous auric aurous ceric cerous chromic chromous cobaltic "
    "cobaltous cupric cuprous ferric ferrous manganic manganous mercuric mercurous nickelous "
    "plumbic plumbous stannic stannous thallic thallous titanous uranic uranous vanadous"
)
_UNIT = re.compile(rf"[A-Z][a-z]?(?:\(?\d{{1,2}}[a-z]?\)?|{ROMAN_STATE.pattern})?")
_NOT_WORDS = ENGLISH_SYMBOLS | {"Cf", "Cm", "Fm", "Pa", "Pm"}  # also units and space groups
_DASH = "[–—‐‑−-]"
# Fe2.67+, V+4.50+, Mn^{3.5+}
_FRACTION = r"(?:[+−–-]?\d\.\d{1,3}[+−–-]|[+−–-]\d\.\d{1,3})"
_FRACTIONAL_CHARGE = (
    rf"(?:\$?\^\{{{_FRACTION}\}}\$?|\^{_FRACTION}\^|<sup>{_FRACTION}</sup>|\^?{_FRACTION})"
    r"(?!\w|[+−–-]?\d)"
)
_PARTICLE = r"(?:atom|ion|anion|cation|ligand|vacanc(?:y|ie))s?\b"
_OF_AN_ELEMENT = (
    r"(?:based|bearing|bonded|centered|containing|coordinated|deficient|doped|free|ligand|only|"
    r"poor|rich|substituted|terminated)\b"
)
_WHICH = r"(?:inequivalent|[Tt]he\s(?:[a-z]+-)?(?:first|second|third|[a-z]+th))"
_HOW_MANY = "each|every|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"


def without_elements(words: str) -> str:
    """The text with "element" for each element that it names, and "compound" for each oxide.

    Formulas are left to `formula.replace_formulas`, which is to be applied first. Symbols go with
    their charges and labels ("O2-", "Ni(1)", "Fe1–O1"). One that can be a word (In, As), or a
    letter of a space group or a site (C, B), goes only in ions and bonds, with a label in brackets,
    and where the words around it say that it is an element ("six O atoms", "As-rich", "the first O
    site").
    """
    for pattern in (_ions(), _bonds(), _symbols(), _counted(), _sites()):
        words = pattern.sub(_without_symbols, words)
    words = _names().sub(lambda found: _like(found[0], ELEMENT_WORD), words)
    return _classes().sub(lambda found: _like(found[0], COMPOUND_WORD) + (found[1] or ""), words)


def _without_symbols(found: re.Match[str]) -> str:
    """The match, with "element" for its last group, if it has one, or for all its symbols."""
    if found.re.groups:
        return found[0][: found.start(1) - found.start()] + ELEMENT_WORD
    return _UNIT.sub(ELEMENT_WORD, found[0])


def _like(found: str, word: str) -> str:
    """The word, with a capital letter where the found one has it."""
    return word.capitalize() if found[0].isupper() else word


@functools.cache
def _names() -> re.Pattern[str]:
    names = "|".join([*(name(number) for number in _NUMBERS), *OTHER_NAMES, *_SERIES])
    adjectives = "|".join(_ADJECTIVES.split())
    return re.compile(rf"\b(?:(?:di)?(?:{names})|{adjectives})\b{NOT_THE_VERB}", re.IGNORECASE)


@functools.cache
def _classes() -> re.Pattern[str]:
    # Also oxyfluorides, dioxides, superoxides and metaphosphates.
    any_prefix = "|".join(_ANIONS.split())
    without_prefix = "|".join(_CLASSES.split())
    # The endings come first, because most words have none of them.
    ends = r"(?=[a-z]*(?:ide|[ai]te|hydrated|ammine|acid|ium|yl)s?\b)"
    return re.compile(
        rf"\b{ends}(?!{_ENGLISH})(?:[a-z]*(?:{any_prefix})|(?:{without_prefix}))(s?)\b",
        re.IGNORECASE,
    )


def _any_of(symbols: list[str]) -> str:
    return f"(?:{'|'.join(sorted(symbols, key=len, reverse=True))})"


@functools.cache
def _alternatives() -> tuple[str, str, str]:
    """Patterns of any symbol; of those that mean nothing else; and of the rest."""
    symbols = [symbol(number) for number in _NUMBERS]
    clear = [each for each in symbols if len(each) == 2 and is_element(each)]
    clear = [each for each in clear if each not in _NOT_WORDS]
    unclear = [each for each in symbols if is_element(each) and each not in clear]
    return _any_of(symbols), _any_of(clear), _any_of(unclear)


@functools.cache
def _ions() -> re.Pattern[str]:
    # Li1+, O2-, Ni²⁺, V+4.50+, Fe(III), Ni(1); but not "C- and F-centered".
    lattices = r"(?![A-Z]-\s(?:and|or)\s[A-Z]-cent)"
    charges = rf"{_FRACTIONAL_CHARGE}|{CHARGE.pattern}"
    marks = rf"(?:{charges}|{ROMAN_STATE.pattern}|\(\d{{1,2}}[a-z]?\)(?!\w))"
    return re.compile(rf"(?<![\w\\])(?=[A-Z]){lattices}({_alternatives()[0]}{marks})")


@functools.cache
def _bonds() -> re.Pattern[str]:
    one = rf"(?:{_alternatives()[0]}\d{{0,2}}|{ELEMENT_WORD})"
    return re.compile(rf"(?<![\w-]){one}(?:{_DASH}{one})+(?![\w-])")


@functools.cache
def _symbols() -> re.Pattern[str]:
    every, clear, unclear = _alternatives()
    prefixes = rf"(?!(?:Co|Re)-(?!{_OF_AN_ELEMENT}))"  # "Co-planar", "Re-entrant"
    groups = r"(?!(?:Cs|Th)\s(?:point|site|symmetry))"
    author = r"(?!,?\set\sal\b)"  # "Li et al."
    listed = rf"(?:,\s{every}){{0,5}}(?:,?\s(?:and|or)\s{every})?"
    labels = rf"(?:(?:,?\s(?:and|or)|,)?\s{every}\d{{1,2}}){{0,5}}"
    return re.compile(
        rf"(?<![\w\\])(?=[A-Z])(?:{prefixes}{groups}{clear}\d{{0,2}}(?![\w\u0304\u0305]){author}"
        rf"|{unclear}(?={listed}(?:\s{_PARTICLE}|\sis\s(?:bonded|coordinated)\b)"
        rf"|{_DASH}{_OF_AN_ELEMENT}(?<!\b[A-Z]-centered))"
        rf"|{unclear}\d{{1,2}}(?={labels}\s(?:atom|ion|position|site)s?\b(?!\ssymmetr)))"
    )


@functools.cache
def _counted() -> re.Pattern[str]:
    # Not "I", which is more often a word.
    return re.compile(
        rf"\b(?:equivalent|{_HOW_MANY}|(?:bonded|coordinated)\s(?:to|by|with))\s"
        r"((?:[BCFHKNOPSUVWY]))(?![\w'’-]|\s?[=/])"
    )


@functools.cache
def _sites() -> re.Pattern[str]:
    return re.compile(rf"\b{_WHICH}\s({_alternatives()[0]})(?=\ssites?\b(?!\ssymmetr))")
