"""The position of a run: steps, epochs, early stopping and the plateau count."""

import math

from hypothesis import given
from hypothesis import strategies as st

from clac_jax.training.progress import RunProgress


def test_counts_examples_over_epochs():
    progress = RunProgress().after_step(8).after_step(8).after_epoch().after_step(8)
    assert (progress.step, progress.epoch) == (3, 1)
    assert (progress.examples_in_epoch, progress.examples_seen) == (8, 24)


@given(
    st.lists(st.sampled_from([0.1, 0.2, 0.3, math.nan]), max_size=8),
    st.sampled_from(["min", "max"]),
)
def test_best_is_the_first_of_the_best_and_never_nan(values, mode):
    progress = RunProgress()
    for value in values:
        progress = progress.after_step(1).after_validation(value, mode)
    real = [value for value in values if not math.isnan(value)]
    if not real:
        assert progress.best_step is None
        assert progress.validations_since_best == len(values)
    else:
        best = min(real) if mode == "min" else max(real)
        assert progress.best_value == best
        assert progress.best_step == values.index(best) + 1
        assert progress.validations_since_best == len(values) - progress.best_step


def test_plateau():
    progress, scales = RunProgress(), []
    for value in [1.0, 0.9, 0.9, 0.95, float("nan"), 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8]:
        progress = progress.after_plateau(value, "min", factor=0.5, patience=1, min_scale=0.2)
        scales.append(progress.learning_rate_scale)
    # Two in a row without a better value halve it; an improvement resets the count.
    assert scales == [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2, 0.2]
    assert progress.without_plateau() == RunProgress()


def test_json_round_trip():
    progress = RunProgress().after_step(4).after_validation(0.5, "min")
    assert RunProgress.from_json(progress.to_json()) == progress
