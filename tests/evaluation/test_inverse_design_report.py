"""The sections on inverse design and on numbers: tables, drawings and JSON of real measurements."""

import json

import numpy as np
import pytest
from helpers.pools import StubModel, pool_of, records_of

from clac_jax.evaluation.inverse_design_report import design
from clac_jax.evaluation.numbers_report import numbers_understood
from clac_jax.evaluation.page import plain_table, svg_of
from configs import smoke


@pytest.fixture(scope="module")
def pool():
    """Sixty crystals with a band gap (and a density) and a sentence that states it."""
    gaps = np.round(np.random.default_rng(3).uniform(0.5, 8, 60), 2)
    records = records_of([f"X{k % 50}" for k in range(60)],
                         properties=[{"band gap": float(gap)} for gap in gaps])  # fmt: skip
    for record, gap in zip(records, gaps, strict=True):
        object.__setattr__(record, "gpt_text", f"It is dense. The band gap is {gap:.2f} eV.")
    vectors = np.random.default_rng(4).normal(size=(60, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return pool_of(vectors, vectors, records=records, model=StubModel(smoke.get_config()))


@pytest.mark.parametrize("task", [design, numbers_understood])
def test_a_section_is_complete(pool, task):
    section = task(pool)
    values = json.loads(json.dumps(section.values, allow_nan=False))
    assert values["pool"]["crystals"] == 60
    assert "60 crystals" in section.intro and "test split" in section.intro
    for table in section.tables:
        assert {len(row) for row in table.rows} == {len(table.columns)}
        assert "nan" not in plain_table(table)
    for drawing in section.figures:
        assert svg_of(drawing, "x").startswith("<svg")
        assert "band gap" in drawing.alt or "preferred" in drawing.alt
    assert task(pool).values == section.values


def test_inverse_design_states_its_limits(pool):
    section = design(pool)
    targets = section.values["targets"]["band gap"]
    assert len(targets["targets"]) == len(targets["crystals"]["mean"]) == 9
    assert targets["best possible"]["mae"]["value"] < targets["random"]["mae"]
    assert targets["crystals"]["mae"]["low"] <= targets["crystals"]["mae"]["high"]
    assert set(section.values["pairs"]) == {"band gap and density"}
    assert section.tables[0].rows[0][0] == "band gap (eV)"
    assert section.tables[1].rows[0][1] == "6"


def test_numbers_state_their_chance(pool):
    values = numbers_understood(pool).values
    assert values["chance"] == 0.5
    assert values["properties"]["band gap"]["sentences"] == 40
    assert values["all"]["accuracy"] == values["properties"]["band gap"]["accuracy"]
    assert set(values["all"]["by_size"]) == {str(size) for size in values["sizes"]}


@pytest.mark.parametrize("task", [design, numbers_understood])
def test_data_without_properties_are_reported_in_one_line(task):
    section = task(pool_of(np.eye(3), np.eye(3)))
    assert section.tables == [] and section.figures == []
    assert "so there is nothing to" in section.intro
