"""Arrays of another program, resized or grown for a state that several processes hold in shards."""

import json

import numpy as np
import pytest
from helpers.several_processes import FLAGS as COMMON
from helpers.several_processes import ended, log_of
from helpers.small_runs import arrays_at

from clac_jax.checkpoint.locate import locate
from clac_jax.cli.main import main

# A few steps; every array that the processes can divide is divided among them.
FLAGS = (
    "--config.dataset.max_examples=8",
    "--config.max_epochs=1",
    "--config.text_encoder.dropout=0.0",
    "--config.parallel=shard_map",
    "--config.sharding.what=everything",
    "--config.sharding.min_elements=16",
)
LARGER = {
    "grow": (
        "--config.graph_encoder.num_features=24",
        "--config.text_encoder.config.num_hidden_layers=2",
        "--config.projection_dim=32",
    ),
    "overlap": ("--config.graph_encoder.num_features=24", "--config.projection_dim=32"),
}


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """A safetensors file with the arrays of a small run."""
    folder = tmp_path_factory.mktemp("exported")
    done = run(folder / "run", *COMMON, *FLAGS)
    assert done.returncode == 0, done.stderr
    assert main(["ckpt", "export", str(folder / "run"), str(folder / "model")]) == 0
    return folder / "model" / "model.safetensors"


@pytest.mark.slow
@pytest.mark.parametrize("way", LARGER)
def test_two_processes_start_from_what_one_does(way, exported, run, begin_processes, tmp_path):
    flags = (
        *FLAGS,
        *LARGER[way],
        f"--config.restore.sources=({{'from': {str(exported)!r}}},)",
        f"--config.restore.on_shape_mismatch={way}",
        "--config.learning_rate=0.0",
    )
    done = run(tmp_path / "one", *COMMON, *flags)
    assert done.returncode == 0, done.stderr
    workdir = tmp_path / "two"
    assert ended(begin_processes(workdir, *flags)) == [0, 0], log_of(workdir, 0)
    report, expected = (
        json.loads((place / "restore_report.json").read_text())["arrays"]
        for place in (workdir, tmp_path / "one")
    )
    outcomes = {array["path"]: array["outcome"] for array in report}
    assert report == expected
    assert ("transformed" if way == "grow" else "resized") in outcomes.values()
    # Nothing is learned at this rate: what is saved is what the run started from.
    last = locate(f"{workdir}@last").step
    arrays, same = (arrays_at(place, last) for place in (workdir, tmp_path / "one"))
    for path, array in same.items():
        if path.startswith("params/"):
            np.testing.assert_array_equal(arrays[path], array, err_msg=path)
