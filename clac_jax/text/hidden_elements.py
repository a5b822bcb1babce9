"""Texts that do not say which elements a crystal has."""

from __future__ import annotations

import functools
import re

from clac_jax.crystals.elements import OTHER_NAMES, name, symbol

ELEMENT_WORD = "element"
"""Stands for the name of any element."""
COMPOUND_WORD = "compound"
"""Stands for a class of compounds that is named for its elements."""

_NUMBERS = range(1, 119)
_SERIES = ("lanthanide", "actinide")
_ANIONS = (
    # -ide
    "amide antimonide arsenide aurate azide bismuthide boride bromide carbide chloride cyanamide "
    "cyanide diimide fluoride germanide halide hydride hydroxide iodide nitride oxide phosphide "
    "plumbide selenide silicide stannide sulfide sulphide telluride chalcogenide pnictide "
    # -ate, -ite
    "aluminate antimonate arsenate bismuthate borate bromate carbonate chlorate chromate cyanate "
    "ferrate gallate germanate iodate manganate molybdate niobate nitrate phosphate platinate "
    "selenate silicate stannate sulfate sulphate tantalate tellurate titanate tungstate vanadate "
    "zirconate antimonite arsenite nitrite phosphite selenite sulfite sulphite tellurite "
    # others
    "ammine ammonium carbonyl hydrate hydrated oxyacid"
)
_SYMBOL = re.compile("[A-Z][a-z]?")


def without_elements(words: str) -> str:
    """The text with "element" for each element that it names, and "compound" for each oxide.

    Formulas are left to `formula.replace_formulas`, which is to be applied first. Single symbols
    are replaced only in bonds ("Fe–O", "Fe–O–Fe"): elsewhere they can be words (In, As), or letters
    of a space group.
    """
    words = _bonds().sub(lambda found: _SYMBOL.sub(ELEMENT_WORD, found[0]), words)
    words = _names().sub(lambda found: _like(found[0], ELEMENT_WORD), words)
    return _classes().sub(lambda found: _like(found[0], COMPOUND_WORD) + (found[1] or ""), words)


def _like(found: str, word: str) -> str:
    """The word, with a capital letter where the found one has it."""
    return word.capitalize() if found[0].isupper() else word


@functools.cache
def _names() -> re.Pattern[str]:
    names = [*(name(number) for number in _NUMBERS), *OTHER_NAMES, *_SERIES]
    return re.compile(rf"\b(?:di)?(?:{'|'.join(names)})\b", re.IGNORECASE)


@functools.cache
def _classes() -> re.Pattern[str]:
    # Also oxyfluorides, dioxides, superoxides and metaphosphates.
    return re.compile(rf"\b[a-z]*(?:{'|'.join(_ANIONS.split())})(s?)\b", re.IGNORECASE)


@functools.cache
def _bonds() -> re.Pattern[str]:
    symbols = "|".join(symbol(number) for number in _NUMBERS)
    return re.compile(rf"(?<![\w-])(?:{symbols})(?:[–-](?:{symbols}))+(?![\w-])")
