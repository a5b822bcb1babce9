"""Elements of the sites of a CIF, from type symbols, labels and the formula sum."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from clac_jax.crystals import elements
from clac_jax.crystals.numbers import CrystalError

_LETTERS = re.compile(r"[A-Za-z]+")
_SEVERAL = re.compile(r"[A-Za-z][0-9+-]*\)?[/,]\s*[A-Z]")
# "MgFe1", "Li+Na", "Fe0.5Ni0.5"; in a label such as "OSi1", the second may be a neighbour.
_TWO = re.compile(r"\(?([A-Z][a-z]?)([0-9.+-]*)[;|:]?([A-Z][a-z])(?![a-z])")
_GROUP = re.compile(r"(?:H[23]O|[BCNP]H[2-4]|[BCNPS]O[34])[0-9+-]*")
_HYBRIDIZED = re.compile(r"[CO]sp[23]?")  # not caesium or osmium
_WATER = ("wat", "ow", "oh", "odw")
_TOKEN = re.compile(r"\s*(?:([A-Z][a-z]?|[()\[\]])\s*(\d+\.?\d*|\.\d+)?|(,))", re.ASCII)
_MAX_READINGS = 64
# Relative tolerance of numbers without decimals.
_EXACT = 1e-6


@dataclass(frozen=True)
class FormulaSum:
    """The content of `_chemical_formula_sum`: symbol -> number of atoms, rounding error."""

    text: str
    numbers: Mapping[str, tuple[float, float]]

    @classmethod
    def parse(cls, text: str | None) -> FormulaSum | None:
        """Parses a formula sum; None if there is none or it cannot be parsed."""
        if not text or not text.strip() or len(text) > 1000:
            return None
        text = " ".join(text.split())
        stack: list[dict[str, tuple[float, float]]] = [{}]
        place = 0
        while place < len(text):
            match = _TOKEN.match(text, place)
            if match is None:
                return None
            place = match.end()
            name, number, _ = match.groups()
            count = float(number) if number else 1.0
            half = 0.5 * 10.0 ** -len(number.partition(".")[2]) if "." in (number or "") else 0.0
            if name is None:
                continue
            if name in "([":
                if number:
                    return None
                stack.append({})
            elif name in ")]":
                if len(stack) == 1:
                    return None
                for symbol, (inner, spread) in stack.pop().items():
                    _add(stack[-1], symbol, inner * count, spread * count + half * inner)
            else:
                symbol = "H" if name in ("D", "T") else name
                if not elements.is_symbol(symbol):
                    return None
                _add(stack[-1], symbol, count, half)
        numbers = {symbol: value for symbol, value in stack[0].items() if value[0] > 0}
        return cls(text, numbers) if len(stack) == 1 and numbers else None

    def has(self, symbol: str) -> bool:
        """Whether the formula contains an element."""
        return symbol in self.numbers

    def without_hydrogen(self) -> FormulaSum:
        """The formula without hydrogen."""
        rest = {symbol: value for symbol, value in self.numbers.items() if symbol != "H"}
        return FormulaSum(self.text, rest)

    def formula_units(self, counts: Mapping[str, int]) -> float | None:
        """Number of formula units of the atoms in a cell; None if they do not match the formula."""
        if set(counts) != set(self.numbers):
            return None
        least, most = 0.0, math.inf
        for symbol, count in counts.items():
            number, half = self.numbers[symbol]
            half = max(half, _EXACT * number)
            least = max(least, count / (number + half))
            most = min(most, count / (number - half) if number > half else math.inf)
        return math.sqrt(least * most) if least <= most < math.inf else None

    def mismatch(self, counts: Mapping[str, int]) -> str:
        """A sentence on how the atoms of a cell differ from the formula; "" if they match."""
        if self.formula_units(counts) is not None:
            return ""
        divisor = math.gcd(*counts.values())
        sites = " ".join(
            f"{symbol}{count // divisor if count > divisor else ''}"
            for symbol, count in sorted(counts.items())
        )
        absent = sorted(set(self.numbers) - set(counts))
        surplus = sorted(set(counts) - set(self.numbers))
        details = [f"{', '.join(absent)} without a site"] if absent else []
        details += [f"{', '.join(surplus)} not in the formula"] if surplus else []
        return (
            f"The formula sum of the CIF is {self.text[:80]!r}, but its sites add up to {sites!r}"
            + (f" ({'; '.join(details)})" if details else "")
            + "."
        )


def _add(numbers: dict[str, tuple[float, float]], symbol: str, count: float, half: float) -> None:
    known, spread = numbers.get(symbol, (0.0, 0.0))
    numbers[symbol] = known + count, spread + half


@dataclass(frozen=True)
class ElementCandidates:
    """The elements that a type symbol or label can mean.

    Attributes:
        symbols: element symbols, the most likely first.
        is_certain: whether to use the first symbol if nothing favours a different one.
        needs_fit: whether a symbol other than the first requires that all counts match the formula;
            otherwise it suffices that the formula contains that element and lacks the first.
    """

    symbols: tuple[str, ...]
    is_certain: bool = True
    needs_fit: bool = False


def element_candidates(type_symbol: str | None, label: str | None) -> ElementCandidates:
    """The elements that a site can be; its type symbol takes precedence over its label.

    Raises:
        CrystalError: neither starts with an element symbol, or the site has several elements.
    """
    for name, is_type in ((type_symbol, True), (label, False)):
        if name is None or name.strip() in ("", "?", "."):
            continue
        if _SEVERAL.search(name) or _has_two_elements(name, is_type):
            raise CrystalError(
                f"The site {name[:20]!a} of the CIF has several elements. Only ordered crystals "
                "are supported: use an ordered cell."
            )
        is_group = is_type and _GROUP.fullmatch(name.strip()) is not None  # of atoms, "NH4"
        found = None if is_group else _candidates_of_name(name.strip(), is_type)
        if found is None:
            raise CrystalError(
                f"{name[:20]!a} is not an element. Add an _atom_site_type_symbol such as Fe for "
                "the site."
            )
        return found
    raise CrystalError("A site of the CIF has neither a label nor a type symbol. Add one.")


def _has_two_elements(name: str, is_type: bool) -> bool:
    match = _TWO.match(name)
    if match is None or not (elements.is_symbol(match[1]) and elements.is_symbol(match[3])):
        return False
    return is_type or len(match[1]) == 2


def _candidates_of_name(name: str, is_type: bool) -> ElementCandidates | None:
    match = _LETTERS.match(name.lstrip("0123456789") if is_type else name)  # "2H", an isotope
    if match is None:
        return None
    letters = match[0]
    if letters in ("T", "t"):
        raise CrystalError(
            f"{name[:20]!a} is not an element: T can be a tetrahedral site or tritium. Add the "
            "_atom_site_type_symbol of its element, which is H for tritium."
        )
    is_mixed_case = len(letters) > 1 and letters[1].islower()
    if letters.lower().startswith(_WATER):
        return ElementCandidates(("O", "W") if letters[0] in "Ww" else ("O",))
    if (
        is_type
        and elements.is_symbol(letters.capitalize())
        and (is_mixed_case or len(letters) == 1)
    ):
        return ElementCandidates((letters.capitalize(),))
    symbols = tuple(
        symbol
        for symbol in dict.fromkeys((letters[:2].capitalize(), letters[0].upper()))
        # Not the heaviest elements (Nh is the N of NH4), and not T, a tetrahedral site.
        if elements.is_symbol(symbol) and elements.atomic_number(symbol) <= 100 and symbol != "T"
    )
    if not symbols:
        return None
    if symbols == ("W",):
        return ElementCandidates(("W", "O"))  # tungsten or water
    if len(symbols) == 1:
        return ElementCandidates(symbols)
    if is_type and _HYBRIDIZED.fullmatch(name):
        symbols = symbols[::-1]
    if is_mixed_case or (is_type and len(letters) == 2):
        return ElementCandidates(symbols, needs_fit=True)
    return ElementCandidates(symbols, is_certain=False)  # "CA1": calcium or an alpha carbon


def assign_elements(
    sites: Sequence[ElementCandidates], multiplicities: Sequence[int], formula: FormulaSum | None
) -> list[str]:
    """Assigns an element to each site: one that matches the formula, or else the most likely.

    Args:
        sites: candidates for each site.
        multiplicities: number of atoms in the cell for each site.
        formula: formula sum of the CIF, if it has one.

    Returns:
        The element symbol of each site.

    Raises:
        CrystalError: a label is ambiguous, and the formula does not decide.
    """
    kinds = list(dict.fromkeys(sites))
    options = [_allowed(kind, formula) for kind in kinds]
    best = dict(zip(kinds, (option[0] for option in options), strict=True))
    if all(len(option) == 1 for option in options):
        return [best[site] for site in sites]
    fitting: list[dict[ElementCandidates, str]] = []
    if formula is not None and math.prod(map(len, options)) <= _MAX_READINGS:
        for with_hydrogen in (True, False):  # hydrogen sites are often missing
            fitting = [
                choice
                for choice in _choices(kinds, options)
                if _fits([choice[site] for site in sites], multiplicities, formula, with_hydrogen)
            ]
            if fitting:
                break
    if len(fitting) == 1:
        return [fitting[0][site] for site in sites]
    for kind, option in zip(kinds, options, strict=True):
        if len(option) > 1 and not kind.is_certain:
            raise CrystalError(
                f"A label of the CIF can mean {' or '.join(option)}. Add an "
                "_atom_site_type_symbol for its site."
            )
    return [best[site] for site in sites]


def _fits(
    symbols: Sequence[str],
    multiplicities: Sequence[int],
    formula: FormulaSum,
    with_hydrogen: bool,
) -> bool:
    counts = count_atoms(symbols, multiplicities)
    if not with_hydrogen:
        counts.pop("H", None)
        formula = formula.without_hydrogen()
    return bool(counts) and formula.formula_units(counts) is not None


def count_atoms(symbols: Sequence[str], multiplicities: Sequence[int]) -> Counter[str]:
    """Number of atoms by symbol; deuterium and tritium count as hydrogen."""
    counts: Counter[str] = Counter()
    for symbol, multiplicity in zip(symbols, multiplicities, strict=True):
        counts["H" if symbol in ("D", "T") else symbol] += multiplicity
    return counts


def _allowed(kind: ElementCandidates, formula: FormulaSum | None) -> tuple[str, ...]:
    """The symbols to try, starting with the fallback."""
    if formula is None:
        return kind.symbols[:1] if kind.is_certain else kind.symbols
    known = tuple(
        symbol for symbol in kind.symbols if formula.has("H" if symbol == "D" else symbol)
    )
    if kind.needs_fit:
        return tuple(dict.fromkeys((kind.symbols[0], *known)))
    return known or (kind.symbols[:1] if kind.is_certain else kind.symbols)


def _choices(
    kinds: Sequence[ElementCandidates], options: Sequence[tuple[str, ...]]
) -> Iterator[dict[ElementCandidates, str]]:
    for choice in itertools.product(*options):
        yield dict(zip(kinds, choice, strict=True))
