"""The numbers in a text, and the tokens that carry their values."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from clac_jax.text import numbers
from clac_jax.text.numbers import numbers_in
from clac_jax.text.sentences import Tokenizer, TokenizerError
from clac_jax.text.token_facts import token_numbers


def values(text):
    return [number.value for number in numbers_in(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2.08 Å", [2.08]),
        ("2.08Å, 300K and 1.1eV", [2.08, 300, 1.1]),
        ("No. 225", [225]),
        ("No.225", [225]),
        ("Fm-3m (225)", [225]),
        ("Fm-3m(225)", [225]),
        ("0.129", [0.129]),
        ("There are 5. Then 6.", [5, 6]),
        ("0.333333333333", [0.333333333333]),
        ("3:1:1", [3, 1, 1]),
        ("120°, 50% and 50 %", [120, 50, 50]),
        ("4-coordinate and 12-fold", [4, 12]),
        ("3×3×1 supercell", [3, 3, 1]),
        ("-0.82 eV/atom", [-0.82]),
        ("is \u22120.82 eV", [-0.82]),
        ("(-0.82), =-0.82, 0.5 -0.25", [-0.82, -0.82, 0.5, -0.25]),
        ("±0.02 and +3", [0.02, 3]),
        ("1,200 K", [1200]),
        ("1,234,567.5", [1234567.5]),
        ("12,34 and (0,1,2)", [12, 34, 0, 1, 2]),
        ("1e-3 and 2E5", [1e-3, 2e5]),
        ("2.5×10^3", [2500]),
        ("2.5 × 10⁻³", [2.5e-3]),
        ("10^5 and 10^-3", [1e5, 1e-3]),
        (r"1.2×10^{-3}, $1.2 \times 10^{-3}$ and 1.2\cdot10^{21}", [1.2e-3, 1.2e-3, 1.2e21]),
        (r"1.2$\times$10$^{-3}$ and 10^{-3}", [1.2e-3, 1e-3]),
        ("1.2 × 10<sup>-3</sup>, 10<sup>21</sup> cm<sup>-3</sup>", [1.2e-3, 1e21]),
        ("10⁻³, 1.2⋅10⁻³ and 10²¹", [1e-3, 1.2e-3, 1e21]),
        ("1.2*10**-3 and 10^(-3)", [1.2e-3, 1e-3]),
        ("10 and 10, 100", [10, 10, 100]),
        ("2.13–2.16 Å", [2.13, 2.16]),
        ("2.13 – 2.16", [2.13, 2.16]),
        ("2.13 –2.16", [2.13, 2.16]),
        ("2.13-2.16", [2.13, 2.16]),
        ("2.13 Å–2.16 Å", [2.13, 2.16]),
        ("120°–130° and 50%-60%", [120, 130, 50, 60]),
        ("2.08(3) Å, 1.5(2)–2.0(3)", [2.08, 1.5, 2.0]),
    ],
)
def test_numbers_are_read(text, expected):
    assert values(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Al2O3 Ca3(PO4)2 Ca(OH)2 K3[Fe(CN)6]3 Li0.5CoO2 TiO₂",
        "P6_3/mmc P-43m P2_1/c Fm-3m I4/mmm P6₃mc R-3c",
        "2H-MoS2 3d 4f 2D 1T'-MoTe2 6H-SiC",
        "g/cm^3 g/cm3 g/cm³ eV/Å^2 cm^-1 cm−1 Å−1 W m−1 K−1",
        "cm^{-1} g/cm^{3} Å<sup>3</sup> cm<sup>-1</sup> P6_{3}/mmc TiO<sub>2</sub>",
        "Fe3+ Fe^3+ O^2- Ti4+",
        "mp-149 ICSD-2031 U-235",
        "1.2.3",
        "1e99 1234567890",
        "2.5×10²³⁻",
        "½ ² twelve",
        "",
    ],
)
def test_formulas_symbols_and_units_are_left_out(text):
    # A mantissa with an impossible exponent is not half read.
    assert values(text) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8e/3 per atom", [3]),
        ("4e/2 sites", [2]),
        ("3e,4", [4]),
        ("007ec6", []),
        ("2e.5, 10^.5 and 10^x2", []),
        ("2.5×10^,3", [2.5, 3]),
    ],
)
def test_only_a_sign_or_a_digit_begins_an_exponent(text, expected):
    assert values(text) == expected


@pytest.mark.parametrize("sign", ["-", "\u2010", "\u2011", "\u2212", "\u2013"])
def test_any_minus_sign_may_begin_an_exponent(sign):
    assert values(f"1e{sign}3, 10^{sign}3, 10^{{{sign}3}}") == [1e-3, 1e-3, 1e-3]


def test_places_are_those_of_the_text():
    text = "a −1,200.5 K, 2.5×10^3 to 3"
    assert [text[number.start : number.end] for number in numbers_in(text)] == [
        "−1,200.5",
        "2.5×10^3",
        "3",
    ]


def test_examples_of_the_docstring():
    assert doctest.testmod(numbers).failed == 0


# --- the tokens of numbers


@pytest.fixture(scope="module")
def word_pieces():
    return Tokenizer.from_folder("minilm")


@pytest.fixture(scope="module")
def bytes_in_pairs():
    """A byte-level BPE tokenizer, as of GPT-2: a space belongs to the token after it."""
    backend = tokenizers.ByteLevelBPETokenizer()
    corpus = ["The bond is 2.08 Å long, 2.13–2.16 Å; (No. 225) -0.82 eV/atom."] * 3
    backend.train_from_iterator(
        corpus,
        vocab_size=320,
        min_frequency=2,
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    return Tokenizer(tokenizers.Tokenizer.from_str(backend.to_str()))


@pytest.fixture(params=["word_pieces", "bytes_in_pairs"])
def tokenizer(request):
    return request.getfixturevalue(request.param)


def encoded(tokenizer, text, max_length):
    """The ids of a text, and the values of the numbers at them."""
    ids, offsets = tokenizer.encode_with_offsets(text, max_length)
    return ids, token_numbers(text, offsets)


def numbered_words(tokenizer, text, max_length=128):
    """Pairs of a value and the text of the consecutive tokens that have it."""
    ids, found = encoded(tokenizer, text, max_length)
    words = []
    for token, value in zip(ids, found, strict=True):
        if np.isnan(value):
            words.append(None)
        elif words and words[-1] is not None and words[-1][0] == value:
            words[-1][1].append(token)
        else:
            words.append((value, [token]))
    return [
        (value, tokenizer.decode(tokens).replace(" ", ""))
        for value, tokens in (word for word in words if word is not None)
    ]


def test_each_token_of_a_number_has_its_value_and_no_other_token_has(tokenizer):
    text = "In Al2O3 (No. 225), 2.13–2.16 Å and -0.82 eV/atom; at 1,200 K 3.5 g/cm^3."
    found = numbered_words(tokenizer, text)
    np.testing.assert_allclose(
        [value for value, _ in found], [225, 2.13, 2.16, -0.82, 1200, 3.5], rtol=1e-6
    )
    words = [word for _, word in found]
    assert words == ["225", "2.13", "2.16", "-0.82", "1,200", "3.5"]


def test_a_number_that_is_cut_keeps_its_value(word_pieces):
    ids, found = encoded(word_pieces, "It is 2.08 long.", 6)
    assert word_pieces.decode(ids) == "it is 2."
    np.testing.assert_allclose(found, [np.nan, np.nan, np.nan, 2.08, 2.08, np.nan], rtol=1e-6)


def test_special_tokens_have_no_value(word_pieces):
    ids, found = encoded(word_pieces, "7", 8)
    assert len(ids) == 3
    np.testing.assert_array_equal(found, [np.nan, 7, np.nan])


def test_too_small_a_length_is_refused_as_by_encode(word_pieces):
    with pytest.raises(TokenizerError, match="Set it to at least 3"):
        encoded(word_pieces, "7", 2)


PIECES = st.sampled_from(
    [
        "1",
        "2.5",
        "-",
        "–",
        "−",
        "×10^",
        "e",
        ",",
        ".",
        "(",
        ")",
        " ",
        "Å",
        "O",
        "³",
        "⁻",
        "°",
        "10",
        "²",
    ]
)


@settings(max_examples=30)
@given(st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=12).map("".join)))
def test_any_text_gives_the_ids_of_encode_and_finite_values(word_pieces, bytes_in_pairs, text):
    places = [place for number in numbers_in(text) for place in (number.start, number.end)]
    assert places == sorted(places) and all(math.isfinite(value) for value in values(text))
    for tokenizer in (word_pieces, bytes_in_pairs):
        ids, found = encoded(tokenizer, text, 16)
        np.testing.assert_array_equal(ids, tokenizer.encode(text, 16))
        assert ids.dtype == np.int32 and found.dtype == np.float32 and found.shape == ids.shape
        assert not np.isinf(found).any()
        assert set(found[~np.isnan(found)]) <= set(np.float32(values(text)))
