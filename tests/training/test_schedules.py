"""Learning-rate schedules."""

import itertools
import math

import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clac_jax.config.check import validate
from clac_jax.config.schema import default_config
from clac_jax.errors import ConfigError
from clac_jax.training.progress import RunProgress
from clac_jax.training.schedules import (
    Timeline,
    after_plateau,
    make_schedule,
    timeline_of,
)


def config(**changes):
    result = default_config()
    result.learning_rate = 0.1
    result.min_learning_rate = 0.01
    result.max_epochs = 6
    result.update_from_flattened_dict(changes)
    return result


def with_(config, **changes):
    result = config.copy_and_resolve_references()
    result.update_from_flattened_dict(changes)
    return result


def rates(config, timeline):
    schedule = make_schedule(config, timeline)
    return np.array([float(schedule(step)) for step in range(timeline.total_steps + 1)])


def test_cosine_with_warm_up():
    found = rates(config(schedule="cosine", warmup_steps=4), Timeline(24, 4))
    assert 0 < found[0] < found[1] < found[3] < found[4] == pytest.approx(0.1)
    assert found[14] == pytest.approx((0.1 + 0.01) / 2, rel=1e-5)
    assert found[24] == pytest.approx(0.01)
    assert all(later <= earlier for earlier, later in itertools.pairwise(found[4:]))


def test_constant():
    assert rates(config(), Timeline(10, 5)) == pytest.approx(0.1)


def test_cosine_by_epoch_is_the_references():
    # PyTorch's CosineAnnealingLR, stepped at the end of each epoch.
    found = rates(
        config(**{"schedule": "cosine", "cosine.epochs": 4.0, "schedule_unit": "epoch"}),
        Timeline(18, 3),
    )
    expected = [0.01 + 0.09 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(6)]
    np.testing.assert_allclose(found[:18], np.repeat(expected, 3), rtol=1e-5)


@pytest.mark.parametrize("unit", ["step", "epoch"])
def test_restarts(unit):
    changes = {"schedule": "cosine_restarts", "cosine.epochs": 1.0, "cosine.factor": 2.0}
    found = rates(config(schedule_unit=unit, **changes), Timeline(70, 10))
    for step in range(70):
        position = step // 10 if unit == "epoch" else step / 10
        length = 1
        while position >= length:
            position, length = position - length, length * 2
        expected = 0.01 + 0.09 * (1 + math.cos(math.pi * position / length)) / 2
        assert found[step] == pytest.approx(expected, rel=1e-5), step


def test_restarts_need_a_period():
    with pytest.raises(ConfigError, match=r'"cosine\.epochs" is 0'):
        validate(config(schedule="cosine_restarts"))


def test_one_cycle():
    found = rates(config(schedule="one_cycle"), Timeline(100, 10))
    expected = optax.cosine_onecycle_schedule(100, 0.1, 0.3, 25.0, 10_000.0)
    np.testing.assert_allclose(found, [float(expected(k)) for k in range(101)], rtol=1e-4)
    by_epoch = rates(config(schedule="one_cycle", schedule_unit="epoch"), Timeline(60, 10))
    assert len(np.unique(by_epoch[:60])) == 6


@pytest.mark.parametrize("name", ["cosine", "cosine_restarts", "one_cycle"])
def test_a_batch_size_that_changed_shifts_the_epochs(name):
    # 7 steps were done where the new batch size would have done 10: the second epoch starts there.
    changes = {"schedule": name, "schedule_unit": "epoch", "cosine.epochs": 2.0}
    found = rates(config(**changes), Timeline(57, 10, offset=-3))
    plain = rates(config(**changes), Timeline(60, 10))
    np.testing.assert_array_equal(found[7:57], plain[10:60])


# Successive (examples per step, epochs): 24 examples are 12, 8, 6, 4, 3 or 2 steps.
STRETCHES = st.lists(
    st.tuples(st.sampled_from([2, 3, 4, 6, 8, 12]), st.integers(1, 3)), min_size=2, max_size=4
)
SHAPES = {
    "cosine, entire run": {"schedule": "cosine"},
    "cosine with a period": {"schedule": "cosine", "cosine.epochs": 2.0},
    "cosine with a period of parts": {"schedule": "cosine", "cosine.epochs": 2.5},
    "restarts": {"schedule": "cosine_restarts", "cosine.epochs": 2.0},
    "growing restarts": {"schedule": "cosine_restarts", "cosine.epochs": 1.0, "cosine.factor": 1.5},
    "one cycle": {"schedule": "one_cycle"},
}


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
@settings(max_examples=8, deadline=None)
@given(stretches=STRETCHES)
def test_the_phase_is_kept_when_the_batch_size_changes(changes, stretches):
    """At every epoch boundary the rate equals that of a run with a constant batch size."""
    epochs = sum(length for _, length in stretches)
    options = config(max_epochs=epochs, **changes)
    unchanged = make_schedule(options, Timeline(12 * epochs, 12))
    by_epoch = make_schedule(with_(options, schedule_unit="epoch"), Timeline(12 * epochs, 12))
    progress = RunProgress()
    for size, length in stretches:
        options.batch_size = size
        schedule = make_schedule(options, timeline_of(options, 24, progress))
        for _ in range(length):
            boundary = 12 * progress.epoch
            assert schedule(progress.step) == pytest.approx(float(unchanged(boundary)), rel=1e-4)
            if changes["schedule"] != "one_cycle":  # its rate rises for at least one epoch
                assert schedule(progress.step) == pytest.approx(float(by_epoch(boundary)), rel=1e-4)
            for _ in range(24 // size):
                progress = progress.after_step(size)
            progress = progress.after_epoch()


def test_a_batch_size_that_changes_in_mid_epoch_moves_the_phase_by_less_than_a_step():
    options = config(max_epochs=10, schedule="cosine", **{"cosine.epochs": 4.0})
    before = make_schedule(options, Timeline(80, 8))
    progress = RunProgress(step=19, epoch=2, examples_in_epoch=12, examples_seen=76)
    options.batch_size = 2
    after = make_schedule(options, timeline_of(options, 32, progress))
    assert float(before(20)) <= float(after(19)) <= float(before(18))
    assert after(19) == pytest.approx(float(before(19)), rel=1e-5)


def test_warm_up_counts_steps_whatever_their_size():
    options = config(max_epochs=4, warmup_steps=6, **{"cosine.epochs": 2.0}, schedule="cosine")
    progress = RunProgress(step=4, epoch=1, examples_seen=24)
    options.batch_size = 2
    schedule = make_schedule(options, timeline_of(options, 24, progress))
    plain = make_schedule(with_(options, warmup_steps=0), timeline_of(options, 24, progress))
    for step in range(4, 10):
        expected = float(plain(step)) * min((step + 1) / 7, 1)
        assert schedule(step) == pytest.approx(expected, rel=1e-5)


def test_plateau_is_constant_here():
    assert rates(config(schedule="plateau"), Timeline(4, 2)) == pytest.approx(0.1)


@pytest.mark.parametrize("peak, floor, scale", [(0.1, 0.03, 0.3), (0.0, 0.0, 1.0), (0.0, 0.1, 1.0)])
def test_a_plateau_lowers_the_rate_to_its_minimum_unless_it_is_there(peak, floor, scale):
    options = config(schedule="plateau", learning_rate=peak, min_learning_rate=floor)
    options.plateau.patience, progress = 0, RunProgress()
    for _ in range(4):
        progress = after_plateau(options, progress, 1.0)
    assert progress.learning_rate_scale == pytest.approx(scale)
