"""Conditions of `--where`, compared with an evaluation of each row in Python."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clac_jax.index.filters import MAX_CHARACTERS, FilterError, parse

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("formula", pa.string()),
        ("elements", pa.list_(pa.string())),
        ("n_atoms", pa.int32()),
        ("crystal_system", pa.string()),
        ("band_gap", pa.float64()),
        ("gap_gw", pa.float64()),
        ("is_metal", pa.bool_()),
        ("lattice", pa.list_(pa.float64())),
    ]
)
ROWS = [
    ("a", "TiO2", ["O", "Ti"], 6, "tetragonal", 1.8, 3.3, False, [1.0]),
    ("b", "NaCl", ["Cl", "Na"], 8, "cubic", 5.0, None, False, [1.0]),
    ("c", "TiPbO3", ["O", "Pb", "Ti"], 5, None, math.nan, 2.0, None, [1.0]),
    ("d", "Cu", ["Cu"], 4, "cubic", 0.0, 0.0, True, [1.0]),
    ("e", "LiTiO2", ["Li", "O", "Ti"], 16, "cubic", None, None, None, [1.0]),
]


def table_of(rows):
    columns = [list(values) for values in zip(*rows, strict=True)] or [[] for _ in SCHEMA]
    table = pa.table(columns, schema=SCHEMA)
    return pa.concat_tables([table.slice(0, 2), table.slice(2)])  # two chunks, as of two files


def matches(text, rows=ROWS):
    condition = parse(text, SCHEMA)
    mask = condition.mask(table_of(rows).select(condition.columns))
    return "".join(row[0] for row, matched in zip(rows, mask, strict=True) if matched)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("band_gap > 1", "ab"),
        ("1 < band_gap <= 5", "ab"),
        ("5 >= band_gap > 1.8", "b"),
        ("band_gap > 2 * (1 + 0.5) - 2 ** 0", "b"),
        ("not (band_gap > 1)", "d"),
        ("is_null(band_gap)", "ce"),
        ("not is_null(band_gap)", "abd"),
        ("band_gap > 1 or n_atoms == 16", "abe"),
        ("band_gap > 1 or not (band_gap > 1)", "abd"),
        ("band_gap < gap_gw", "a"),
        ("gap_gw != band_gap", "a"),
        ("has('O')", "ace"),
        ("has(O, Ti)", "ace"),
        ("has('O') and not has('Pb') and n_atoms < 10", "a"),
        ("only('O', 'Ti')", "a"),
        ("only('O', 'Ti', 'Li', 'Cu')", "ade"),
        ("formula == 'TiO2'", "a"),
        ("formula in ['NaCl', 'PbTiO3']", "bc"),
        ("formula == 'Ti(O)2'", "a"),
        ("'Ti2O4' == formula", "a"),
        ("crystal_system == 'Cubic'", "bde"),
        ("crystal_system not in ('cubic',)", "a"),
        ("crystal_system != 'cubic'", "a"),
        ("n_atoms in {4, 5.0}", "cd"),
        ("is_metal", "d"),
        ("not is_metal", "ab"),
        ("is_metal == True", "d"),
        ("id == 'a' or id in ['e']", "ae"),
        ("n_atoms > -1\n and n_atoms < 6", "cd"),
    ],
)
def test_a_condition_selects_rows(text, ids):
    assert matches(text) == ids


def test_it_works_on_no_rows():
    assert matches("band_gap > 1 and has('O')", []) == ""


@pytest.mark.parametrize(
    ("text", "words", "place"),
    [
        ("bandgap > 3", "no column bandgap. Did you mean band_gap?", 1),
        ("n_atoms > 3 and O", r"Did you mean has\('O'\)\?", 17),
        ("zzz > 3", "The columns are id, formula, elements, n_atoms, .*is_metal", 1),
        ("band_gap = 3", "write == to compare", 10),
        ("band_gap >", "this is not a condition", 11),
        ("band_gap > 'a'", "band_gap is a number, and is compared with text", 12),
        ("id == 3", "id is text, and is compared with a number", 7),
        ("formula > 'TiO2'", "formula is text, which has no order", 1),
        ("formula == 'Foo'", "'Foo' is not a formula", 12),
        ("crystal_system == 'qubic'", "There are triclinic, .*, cubic", 19),
        ("elements == 'O'", r"Write has\('O'\)", 1),
        ("'O' in elements", r"Write has\('O'\)", 8),
        ("has('Xx')", "'Xx' is not an element", 5),
        ("has(pb)", "Write 'Pb'", 5),
        ("has()", "has needs an element", 1),
        ("n_atoms", "Compare it, as in n_atoms > 3", 1),
        ("lattice > 3", "lattice is a list of numbers", 1),
        ("3 > 2", "a comparison needs a column", 1),
        ("band_gap is None", r"is_null\(column\)", 1),
        ("n_atoms in []", "a list of values", 12),
        ("n_atoms in band_gap", "a list of values", 12),
        ("band_gap == n_atoms == id", "n_atoms is a number and id is text", 13),
        ("band_gap > 9 ** 9 ** 9", "cannot be computed", 12),
        ("band_gap > 1 / 0", "cannot be computed", 12),
        ("band_gap > 1e999", "too large", 12),
        ("band_gap > -'a'", "not a number", 12),
        ("is_metal > True", "has no order", 1),
        ("__import__('os').system('true')", "this function is not supported", 1),
        ("[x for x in elements]", "this is not a condition", 1),
        ("id.upper() == 'A'", "a comparison needs a column", 1),
        ("f'{id}' == id", "not a constant", 1),
        ("\xe9\xe9 > 3 or bad > 1", "no column \xe9\xe9", 1),
        ("id == '\xe9' or bad > 1", "no column bad", 14),
    ],
)
def test_a_wrong_condition_is_explained_where_it_is_wrong(text, words, place):
    with pytest.raises(FilterError, match=words) as caught:
        parse(text, SCHEMA)
    message = str(caught.value)
    assert f"at character {place}:" in message
    _, line, caret = message.split("\n")
    assert line[: caret.index("^")].strip() == text[: place - 1].strip()


@pytest.mark.parametrize(
    "text",
    [
        "", "  ", "\0", "(" * 300, "[" * 300, "not " * 3000 + "is_metal", "is_metal" + ")" * 200,
        "-" * 9000 + "1 < n_atoms", "x" * (MAX_CHARACTERS + 1), "n_atoms > " + "9" * 5000,
        "n_atoms > 0x" + "f" * 5000,
        " and ".join(["(n_atoms > 1"] * 150) + ")" * 150,
    ],
)  # fmt: skip
def test_hostile_text_is_refused(text):
    with pytest.raises(FilterError):
        parse(text, SCHEMA)


# A random condition as a pair: its text, and a function of a row that gives True, False or None.
NUMBERS = {"n_atoms": 3, "band_gap": 5, "gap_gw": 6}
OPERATORS = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


def value_of(row, name):
    value = row[NUMBERS[name]]
    return None if value is None or value != value else value


def compared(operator, left, right):
    return None if left is None or right is None else OPERATORS[operator](left, right)


def and_(left, right):
    if left is False or right is False:
        return False
    return None if left is None or right is None else True


def not_(value):
    return None if value is None else not value


@st.composite
def comparisons(draw):
    name, other = draw(st.sampled_from(list(NUMBERS))), draw(st.sampled_from(list(NUMBERS)))
    operator, second = draw(st.sampled_from(list(OPERATORS))), draw(st.sampled_from(["<", "<="]))
    number = draw(st.integers(-2, 6)) / 2
    kind = draw(st.sampled_from(["constant", "columns", "chain", "in", "null", "has", "only"]))
    if kind == "constant":
        return f"{name} {operator} {number}", lambda r: compared(
            operator, value_of(r, name), number
        )
    if kind == "columns":
        return (
            f"{name} {operator} {other}",
            lambda r: compared(operator, value_of(r, name), value_of(r, other)),
        )
    if kind == "chain":
        return f"{number} {second} {name} {second} {number} + 2", lambda r: and_(
            compared(second, number, value_of(r, name)),
            compared(second, value_of(r, name), number + 2),
        )
    if kind == "in":
        return (
            f"{name} in [{number}, 4]",
            lambda r: None if value_of(r, name) is None else value_of(r, name) in (number, 4),
        )
    if kind == "null":
        return f"is_null({name})", lambda r: value_of(r, name) is None
    symbols = draw(st.lists(st.sampled_from(["O", "Ti", "Pb"]), min_size=1, max_size=2))
    text = f"{kind}({', '.join(map(repr, symbols))})"
    if kind == "has":
        return text, lambda r: set(symbols) <= set(r[2])
    return text, lambda r: set(r[2]) <= set(symbols)


def joined(children):
    return st.one_of(
        st.tuples(children, children).map(
            lambda p: (f"({p[0][0]} and {p[1][0]})", lambda r: and_(p[0][1](r), p[1][1](r)))
        ),
        st.tuples(children, children).map(
            lambda p: (
                f"({p[0][0]} or {p[1][0]})",
                lambda r: not_(and_(not_(p[0][1](r)), not_(p[1][1](r)))),
            )
        ),
        children.map(lambda c: (f"not ({c[0]})", lambda r: not_(c[1](r)))),
    )


row_values = st.tuples(
    st.just("x"),
    st.just("TiO2"),
    st.lists(st.sampled_from(["O", "Ti", "Pb", "Na"]), max_size=3, unique=True),
    st.integers(-1, 4),
    st.just("cubic"),
    st.one_of(st.none(), st.just(math.nan), st.integers(-2, 6).map(lambda n: n / 2)),
    st.one_of(st.none(), st.integers(-2, 6).map(lambda n: n / 2)),
    st.just(None),
    st.just([1.0]),
)


@settings(max_examples=80, deadline=None)
@given(st.recursive(comparisons(), joined, max_leaves=6), st.lists(row_values, max_size=8))
def test_random_conditions_agree_with_an_evaluation_of_each_row(case, rows):
    text, evaluate = case
    condition = parse(text, SCHEMA)
    mask = condition.mask(table_of(rows).select(condition.columns))
    expected = [evaluate(row) is True for row in rows]
    np.testing.assert_array_equal(mask, np.array(expected, bool))
