"""What all tests share."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """The embedded data set: built by `make data`, or here for a bare `pytest`."""
    return ROOT / "data" if (ROOT / "data").is_dir() else tmp_path_factory.mktemp("data")
