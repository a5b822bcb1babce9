"""The step with a copy of its state, spot checks and a lower rate, on made-up devices."""

from typing import NamedTuple

import numpy as np
import pytest

from clac_jax.healing.errors import FaultyMachineError
from clac_jax.healing.guard import Guard, SpotCheck, Way, unequal


class State(NamedTuple):
    params: np.ndarray
    learning_rate_scale: np.ndarray = np.float32(1.0)

    def replace(self, **changes):
        return self._replace(**changes)


class Host:
    """A placement that leaves everything on the host."""

    def to_host(self, tree):
        return tree

    put = to_host


def add_one(state, batch):
    return state.replace(params=state.params + np.float32(1)), {}


def way(*errors):
    """A way that adds one, and an error in each of its calls."""
    left = list(errors)

    def step(state, batch):
        after = state.params + np.float32(1 + (left.pop(0) if left else 0))
        return state.replace(params=after), {}

    return Way(Host(), step, "some device")


@pytest.fixture
def state():
    return State(np.zeros(3, np.float32))


def test_keeps_the_state_before_one_step(state):
    guard = Guard(add_one, Host(), done=5)
    guard.keep_before = 7
    for _ in range(3):
        state, _ = guard(state, None)
    np.testing.assert_array_equal(guard.kept.params, [1, 1, 1])
    np.testing.assert_array_equal(state.params, [3, 3, 3])


def test_lowers_the_rate_after_a_step(state):
    guard = Guard(add_one, Host(), done=0)
    guard.rates = {2: [0.5, 0.5]}
    scales = []
    for _ in range(3):
        state, _ = guard(state, None)
        scales.append(float(state.learning_rate_scale))
    assert scales == [1.0, 1.0, 0.25]


def test_checks_every_third_step(state):
    guard, checked = Guard(add_one, Host(), done=0), []

    def check(state, batch, number):
        checked.append(number)
        return add_one(state, batch)

    guard.spot_check, guard.check_every = check, 3
    for _ in range(7):
        state, _ = guard(state, None)
    assert checked == [3, 6]


def test_equal_results_are_passed_on(state):
    after, _ = SpotCheck(way(), way())(state, None, 4)
    np.testing.assert_array_equal(after.params, [1, 1, 1])


@pytest.mark.parametrize("usual, other", [((1e-6,), ()), ((), (1e-6,))])
def test_a_result_that_does_not_repeat_itself_is_the_fault_of_its_devices(state, usual, other):
    with pytest.raises(FaultyMachineError, match="Step 4 was computed twice on some device") as e:
        SpotCheck(way(*usual), way(*other))(state, None, 4)
    assert "3 numbers in params differ" in str(e.value)


def test_other_devices_that_always_differ_are_not_used_again(state, capsys):
    """Their sums may be in another order, which is lawful."""
    check = SpotCheck(way(), way(*[1e-6] * 9))
    check(state, None, 4)
    assert "Step 4 has other bits on some device" in capsys.readouterr().err
    check(state, None, 8)
    assert capsys.readouterr().err == ""


def test_bits_are_compared_not_values():
    zero, minus = np.float32([0.0, 1.0]), np.float32([-0.0, 1.0])
    assert unequal({"a": zero, "b": zero}, {"a": minus, "b": zero}) == {"a": 1}
    nan = np.float32([np.nan])
    assert unequal({"a": nan}, {"a": nan.copy()}) == {}
