"""The lines at the start of a run."""

import numpy as np
import pytest

from clac_jax.checkpoint.resume import Start
from clac_jax.config import default_config
from clac_jax.reporting.summary import describe_start
from clac_jax.training.progress import RunProgress


@pytest.mark.parametrize(
    ("plateaus", "scale", "words"),
    [
        (1.0, 1.0, "learning rate 0.2"),
        (0.5, 0.5, "learning rate 0.1 (0.5 of the schedule's, kept from the plateaus so far)"),
        (1.0, 0.25, "learning rate 0.05 (0.25 of the schedule's, kept from healing so far)"),
        (0.5, 0.25, "0.05 (0.25 of the schedule's, kept from the plateaus and healing so far)"),
        (0.1, np.float32(0.1), "0.02 (0.1 of the schedule's, kept from the plateaus so far)"),
    ],
)
def test_the_learning_rate_is_that_of_the_next_step(plateaus, scale, words):
    progress = RunProgress(step=41, learning_rate_scale=plateaus)
    start = Start({}, progress, "resumed", [], [], is_own=True)
    *_, line = describe_start(default_config(), start, 0.2, float(scale))
    assert line.startswith("          next: step 42, ") and line.endswith(words)
