"""The split of each crystal of the bundled data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clac_jax.datasets.rows import record_of_row
from clac_jax.datasets.split import SPLITS, formula_key, split_by_formula


def splits_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The name of the split of each row, as assigned by the builder of the data set."""
    records = (record_of_row(row, needs_text=False) for row in rows)
    keys = [formula_key(record.crystal().formula) for record in records]
    return [SPLITS[side] for side in split_by_formula(np.array(keys, np.uint64))]
