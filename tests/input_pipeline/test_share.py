"""Each process's share of a batch."""

import pytest

from clac_jax.errors import ConfigError
from clac_jax.input_pipeline.share import Share


def test_a_batch_is_split_evenly_over_the_devices_of_all_processes():
    share = Share(process_index=1, num_processes=2, num_local_devices=4, num_devices=8)
    assert share.per_device(16) == 2
    with pytest.raises(ConfigError, match=r"A batch of 20 .* over 8 devices. Use 24 or 16."):
        share.per_device(20)
    with pytest.raises(ConfigError, match=r"Use 8\.$"):
        share.per_device(4)


def test_a_process_that_is_the_only_one_agrees_with_itself():
    assert Share().maximum([3, 5])().tolist() == [3, 5]
    with Share().first_goes_first("data set"):
        pass
