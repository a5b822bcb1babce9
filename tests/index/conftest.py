"""A small index by a stub model."""

import pytest
from helpers import user_tables
from helpers.stub_model import StubModel

from clac_jax.index.build import embed
from clac_jax.index.plan import EmbedOptions


@pytest.fixture
def table(tmp_path):
    """Five crystals; the third has no text."""
    rows = [user_tables.row(k, gpt_text="" if k == 2 else f"Salt {k}.") for k in range(5)]
    rows[2]["gpt_explanation"] = ""
    return user_tables.write(tmp_path / "five.jsonl", rows)


@pytest.fixture
def index(table, tmp_path):
    """Their index, in three shards."""
    return embed(StubModel(), [str(table)], tmp_path / "idx", EmbedOptions(shard_rows=2))
