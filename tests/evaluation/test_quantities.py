"""Numeric properties and the sentences that ask for them."""

import numpy as np
import pytest
from helpers.pools import records_of

from clac_jax.evaluation.quantities import MIN_KNOWN, both, density_of, quantities_of


def quantities(**properties):
    """The quantities of records with these lists of values, by name; None is unknown."""
    count = len(next(iter(properties.values())))
    rows = [
        {name: values[k] for name, values in properties.items() if values[k] is not None}
        for k in range(count)
    ]
    records = records_of([f"X{k}" for k in range(count)], properties=rows)
    return {quantity.name: (quantity, v) for quantity, v in quantities_of(records).items()}


def spread(count=MIN_KNOWN, step=1.0):
    return [step * k for k in range(count)]


def test_queries_for_known_properties_state_their_units():
    gap, values = quantities(**{"band gap": spread(step=0.1)})["band gap"]
    assert gap.equal_to(1.5) == [
        "The band gap of this material is 1.50 eV.",
        "A material with a band gap of 1.50 eV.",
        "It has a band gap of 1.50 eV.",
    ]
    assert "A material with a band gap above 1.50 eV." in gap.greater_than(1.5)
    assert "A material with a band gap below 1.50 eV." in gap.less_than(1.5)
    np.testing.assert_allclose(values, spread(step=0.1))


def test_a_sentence_states_two_quantities():
    found = quantities(**{"band gap": spread(), "energy above hull": spread()})
    texts = both(found["band gap"][0], 2, found["energy above hull"][0], 0.1)
    assert (
        texts[1]
        == "A material with a band gap of 2.00 eV and an energy above hull of 0.100 eV/atom."
    )


def test_no_number_is_minus_zero():
    energy, _ = quantities(**{"formation energy per atom": spread()})["formation energy per atom"]
    assert energy.amount(-0.001) == "0.00 eV/atom"
    assert energy.amount(-0.5) == "-0.50 eV/atom"
    assert str(energy.rounded(np.array([-0.001]))[0]) == "0.0"


def test_few_or_constant_values_are_left_out():
    assert "band gap" not in quantities(**{"band gap": spread(MIN_KNOWN - 1) + [None]})
    assert "band gap" not in quantities(**{"band gap": [1.0] * MIN_KNOWN})
    assert "band gap" not in quantities(**{"band gap": spread(MIN_KNOWN - 1) + [float("inf")]})
    _, values = quantities(**{"band gap": spread() + [None]})["band gap"]
    assert np.isnan(values[-1])


@pytest.mark.parametrize(("step", "decimals"), [(1000.0, 0), (0.2, 2), (0.02, 3), (0.0002, 5)])
def test_other_properties_are_rounded_by_their_spread(step, decimals):
    quantity, _ = quantities(my_property=spread(step=step))["my_property"]
    assert quantity.decimals == decimals
    assert quantity.equal_to(1)[0].startswith("The my property of this material is 1")


def test_the_density_follows_from_the_crystal():
    (record,) = records_of(["H"])  # one hydrogen atom in a cell of 64 cubic angstrom
    assert density_of(record) == pytest.approx(1.66053907 * 1.008 / 64, rel=1e-4)
    found = quantities(**{"band gap": spread()})  # of different elements
    assert found["density"][1][0] == pytest.approx(density_of(record))


def test_a_density_in_the_data_is_taken():
    _, values = quantities(density=spread())["density"]
    np.testing.assert_allclose(values, spread())
