"""The content of workdirs, and comparisons of two of them."""

import time

import numpy as np
import orbax.checkpoint as ocp

from clac_jax.journal.journal_file import read_journal
from clac_jax.reporting.metrics_file import TIMING_FIELDS, read_rows


def without_timing(rows):
    return [{k: v for k, v in row.items() if k not in TIMING_FIELDS} for row in rows]


def journal_of(workdir):
    """The values that are recorded of each step; not the number of the start, nor its digests."""
    names = ["step", "epoch", "flags", "loss", "grad_norm", "learning_rate"]
    return read_journal(workdir).steps[names].tolist()


def last_state(workdir):
    """The newest checkpoint's step and arrays, read only with Orbax."""
    steps = [int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()]
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(workdir.resolve() / "checkpoints" / str(max(steps)) / "state")
    return max(steps), tree


def assert_same_arrays(left, right):
    flat_left, flat_right = (dict(ocp.utils.to_flat_dict(tree)) for tree in (left, right))
    assert flat_left.keys() == flat_right.keys()
    for path, leaf in flat_left.items():
        np.testing.assert_array_equal(leaf, flat_right[path], err_msg=str(path))


def assert_equal_runs(workdir, expected):
    """Asserts equal rows, except for timings, journals, and the bits of the last checkpoint."""
    rows, expected_rows = (read_rows(place / "metrics.jsonl") for place in (workdir, expected))
    assert without_timing(rows) == without_timing(expected_rows)
    values, digests = journal_of(workdir), read_journal(workdir).steps["digests"]
    assert values == journal_of(expected)
    np.testing.assert_array_equal(digests, read_journal(expected).steps["digests"])
    assert last_state(workdir)[0] == last_state(expected)[0]
    assert_same_arrays(last_state(workdir)[1], last_state(expected)[1])


def until(condition, process, seconds=120):
    """Waits until the condition holds; False if the process exits first."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    raise TimeoutError
