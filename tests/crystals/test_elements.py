"""Element symbols and atomic numbers."""

import numpy as np
import pytest

from clac_jax.crystals.elements import ElementError, atom_features, atomic_number, is_symbol, symbol


def test_symbols_and_numbers_are_inverse():
    for number in range(1, 119):
        assert atomic_number(symbol(number)) == number


@pytest.mark.parametrize("text", ["Xx", "fe", "FE", "", "Fe2", "*"])
def test_unknown_symbols_and_numbers_are_refused(text, capfd):
    assert not is_symbol(text)
    with pytest.raises(ElementError, match="is not an element"):
        atomic_number(text)
    assert capfd.readouterr().err == ""  # RDKit's own error output is not shown


def test_atom_vectors():
    table = atom_features()
    assert table.shape == (101, 92)
    assert table.dtype == np.float32
    assert not table[0].any()
    assert np.all(table[1:].sum(axis=1) >= 6)
    assert len(np.unique(table[1:84], axis=0)) >= 80
