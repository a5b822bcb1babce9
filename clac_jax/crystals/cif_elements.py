"""Elements of a CIF's sites: what labels and type symbols may mean, and what its formula says."""

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
# "MgFe1", "Li+Na", "Fe0.5Ni0.5"; of "OSi1" the second may be a neighbour, unless it is a type.
_TWO = re.compile(r"\(?([A-Z][a-z]?)([0-9.+-]*)[;|:]?([A-Z][a-z])(?![a-z])")
_GROUP = re.compile(r"(?:H[23]O|[BCNP]H[2-4]|[BCNPS]O[34])[0-9+-]*")
_WATER = ("wat", "ow", "oh", "odw")
_TOKEN = re.compile(r"\s*(?:([A-Z][a-z]?|[()\[\]])\s*(\d+\.?\d*|\.\d+)?|(,))", re.ASCII)
_MAX_READINGS = 64
# Of formula numbers written without decimals.
_EXACT = 1e-6


@dataclass(frozen=True)
class FormulaSum:
    """What `_chemical_formula_sum` says: numbers of atoms by symbol, with half a last digit."""

    text: str
    numbers: Mapping[str, tuple[float, float]]

    @classmethod
    def parse(cls, text: str | None) -> FormulaSum | None:
        """The formula; None without one, or where the text is not one that can be compared."""
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
        """Whether the element is part of it."""
        return symbol in self.numbers

    def without_hydrogen(self) -> FormulaSum:
        """The rest."""
        rest = {symbol: value for symbol, value in self.numbers.items() if symbol != "H"}
        return FormulaSum(self.text, rest)

    def units(self, counts: Mapping[str, int]) -> float | None:
        """How many of this formula the atoms of a cell are; None if they are not that compound."""
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
        """One sentence on how a cell's atoms differ from the formula, "" if they do not."""
        if self.units(counts) is not None:
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
            f"The formula sum of the CIF is {self.text[:80]!r} and its sites add up to {sites!r}"
            + (f" ({'; '.join(details)})" if details else "")
            + "."
        )


def _add(numbers: dict[str, tuple[float, float]], symbol: str, count: float, half: float) -> None:
    known, spread = numbers.get(symbol, (0.0, 0.0))
    numbers[symbol] = known + count, spread + half


@dataclass(frozen=True)
class Readings:
    """What one name can mean.

    Attributes:
        symbols: the likeliest first.
        is_certain: whether the first is taken where nothing speaks for another.
        needs_fit: whether another is taken only if all counts then agree with the formula, not
            already where the formula has the other and lacks the first.
    """

    symbols: tuple[str, ...]
    is_certain: bool = True
    needs_fit: bool = False


def readings(type_symbol: str | None, label: str | None) -> Readings:
    """The elements that a site can be; its type symbol counts before its label.

    Raises:
        CrystalError: neither begins with the symbol of an element.
    """
    for name, is_type in ((type_symbol, True), (label, False)):
        if name is None or name.strip() in ("", "?", "."):
            continue
        if _SEVERAL.search(name) or _is_of_two(name, is_type):
            raise CrystalError(
                f"The site {name[:20]!a} of the CIF is of several elements. Only ordered crystals "
                "can be used: replace it with an ordered cell."
            )
        is_group = is_type and _GROUP.fullmatch(name.strip()) is not None  # of atoms, "NH4"
        found = None if is_group else _of_name(name.strip(), is_type)
        if found is None:
            raise CrystalError(
                f"{name[:20]!a} is not an element. Give the site an _atom_site_type_symbol such as "
                "Fe."
            )
        return found
    raise CrystalError("A site of the CIF has neither a label nor a type symbol. Add one.")


def _is_of_two(name: str, is_type: bool) -> bool:
    match = _TWO.match(name)
    if match is None or not (elements.is_symbol(match[1]) and elements.is_symbol(match[3])):
        return False
    return is_type or len(match[1]) == 2


def _of_name(name: str, is_type: bool) -> Readings | None:
    match = _LETTERS.match(name.lstrip("0123456789") if is_type else name)  # "2H", an isotope
    if match is None:
        return None
    letters = match[0]
    is_mixed_case = len(letters) > 1 and letters[1].islower()
    if letters.lower().startswith(_WATER):
        return Readings(("O", "W") if letters[0] in "Ww" else ("O",))
    if (
        is_type
        and elements.is_symbol(letters.capitalize())
        and (is_mixed_case or len(letters) == 1)
    ):
        return Readings((letters.capitalize(),))
    symbols = tuple(
        symbol
        for symbol in dict.fromkeys((letters[:2].capitalize(), letters[0].upper()))
        # No compound of the heaviest is known (Nh is N of NH4), and T is a tetrahedral site.
        if elements.is_symbol(symbol) and elements.atomic_number(symbol) <= 100 and symbol != "T"
    )
    if not symbols:
        return None
    if symbols == ("W",):
        return Readings(("W", "O"))  # tungsten or water
    if len(symbols) == 1:
        return Readings(symbols)
    if is_mixed_case or (is_type and len(letters) == 2):
        return Readings(symbols, needs_fit=True)
    return Readings(symbols, is_certain=False)  # "CA1": calcium, or an alpha carbon


def chosen(
    sites: Sequence[Readings], multiplicities: Sequence[int], formula: FormulaSum | None
) -> list[str]:
    """One element for each site: those that agree with the formula, else the likeliest ones.

    Args:
        sites: of each.
        multiplicities: how many atoms of the cell each site is.
        formula: of the CIF, if it has one.

    Raises:
        CrystalError: a name has two meanings, and nothing decides between them.
    """
    kinds = list(dict.fromkeys(sites))
    options = [_allowed(kind, formula) for kind in kinds]
    best = dict(zip(kinds, (option[0] for option in options), strict=True))
    if all(len(option) == 1 for option in options):
        return [best[site] for site in sites]
    fitting: list[dict[Readings, str]] = []
    if formula is not None and math.prod(map(len, options)) <= _MAX_READINGS:
        for with_hydrogen in (True, False):  # whose sites are often missing
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
                f"A label of the CIF can mean {' or '.join(option)}. Give its site an "
                "_atom_site_type_symbol."
            )
    return [best[site] for site in sites]


def _fits(
    symbols: Sequence[str],
    multiplicities: Sequence[int],
    formula: FormulaSum,
    with_hydrogen: bool,
) -> bool:
    counts = counted(symbols, multiplicities)
    if not with_hydrogen:
        counts.pop("H", None)
        formula = formula.without_hydrogen()
    return bool(counts) and formula.units(counts) is not None


def counted(symbols: Sequence[str], multiplicities: Sequence[int]) -> Counter[str]:
    """Atoms by symbol; deuterium and tritium count as hydrogen."""
    counts: Counter[str] = Counter()
    for symbol, multiplicity in zip(symbols, multiplicities, strict=True):
        counts["H" if symbol in ("D", "T") else symbol] += multiplicity
    return counts


def _allowed(kind: Readings, formula: FormulaSum | None) -> tuple[str, ...]:
    """The symbols to try, the one to fall back on first."""
    if formula is None:
        return kind.symbols[:1] if kind.is_certain else kind.symbols
    known = tuple(
        symbol for symbol in kind.symbols if formula.has("H" if symbol == "D" else symbol)
    )
    if kind.needs_fit:
        return tuple(dict.fromkeys((kind.symbols[0], *known)))
    return known or (kind.symbols[:1] if kind.is_certain else kind.symbols)


def _choices(
    kinds: Sequence[Readings], options: Sequence[tuple[str, ...]]
) -> Iterator[dict[Readings, str]]:
    for choice in itertools.product(*options):
        yield dict(zip(kinds, choice, strict=True))
