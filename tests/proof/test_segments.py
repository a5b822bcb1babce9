"""Which stretches are computed again, and what the result means."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clac_jax.proof.segments import Limits, Segment, Stretch, choose, recompute
from clac_jax.replay.history import read_history
from clac_jax.replay.replayer import Replayer

OTHER_CPU = "the processor was an AMD EPYC"


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(0, 10), st.integers())
def test_the_choice_is_of_different_stretches_and_repeats_with_its_seed(lengths, count, seed):
    ends = [sum(lengths[: k + 1]) for k in range(len(lengths))]
    found = [Stretch(end - length + 1, end) for length, end in zip(lengths, ends, strict=True)]
    chosen = choose(found, Limits(segments=count, seed=seed))
    assert chosen == choose(found, Limits(segments=count, seed=seed))
    assert len(set(chosen)) == len(chosen) == min(count, len(found))
    assert chosen == sorted(chosen, key=lambda each: each.first)
    assert set(chosen) <= set(found)


def test_equal_bits_are_equal():
    segment = Segment(812, 851, 40, arrays=[])
    assert (segment.steps, segment.words) == ("812-851", "equal")
    assert segment.is_equal and segment.agrees


def test_nothing_to_compare_with_proves_nothing():
    segment = Segment(1, 4)
    assert not segment.is_equal and not segment.agrees
    assert "nothing recorded" in segment.words


def test_other_bits_need_a_reason():
    segment = Segment(1, 4, 4, {2: ["loss", "params"]}, largest=3e-6, tolerance=1e-3)
    assert not segment.agrees
    assert segment.words == "step 2 DIFFERS in the loss"


def test_other_bits_agree_within_the_tolerance_on_another_machine():
    wrong = {2: ["loss", "params"]}
    segment = Segment(1, 4, 4, wrong, largest=3e-6, lawful=OTHER_CPU, tolerance=1e-3)
    assert segment.agrees and not segment.is_equal
    assert segment.words == (
        f"agrees within 3.0e-06 (tolerance 1e-03), not bit for bit, because {OTHER_CPU}"
    )
    far = Segment(1, 4, 4, wrong, largest=0.02, lawful=OTHER_CPU, tolerance=1e-3)
    assert not far.agrees
    assert far.words.startswith(
        "step 2 DIFFERS in the loss, by 2.0e-02 (tolerance 1e-03), although"
    )


def test_other_examples_are_never_rounding():
    wrong = {2: ["ids", "loss"]}
    segment = Segment(1, 4, 4, wrong, largest=1e-9, lawful=OTHER_CPU, tolerance=1e-3)
    assert not segment.agrees


def started(history, **counts):
    """A history with further starts: `after_N`, the steps done before -> number of its devices."""
    (start,) = history.starts
    others = [
        dataclasses.replace(start, step=int(name[6:]), devices={**start.devices, "count": count})
        for name, count in counts.items()
    ]
    return dataclasses.replace(history, starts=[start, *others])


def round_otherwise(patch, at):
    """A step is rounded otherwise, in all parameters."""
    original = Replayer.do

    def do(self, batch=None):
        if self.progress.step == at - 1:
            params = self.state.params
            nudged = {name: _scaled(value) for name, value in params.items()}
            self.state = self.state.replace(params=nudged)
        return original(self, batch)

    patch.setattr(Replayer, "do", do)


def _scaled(tree):
    import jax

    return jax.tree.map(lambda array: array * (1 + 1e-6), tree)


def test_rounding_in_a_stretch_does_not_enter_the_next_one(run, tmp_path, monkeypatch):
    round_otherwise(monkeypatch, at=3)
    history = started(read_history(str(run)), after_2=2, after_4=1)
    chosen = [Stretch(1, 2), Stretch(3, 4), Stretch(5, 6)]
    before, rounded, after = recompute(Replayer(history, tmp_path), chosen, Limits())
    assert before.is_equal and after.is_equal, after.words
    assert rounded.agrees and not rounded.is_equal
    assert "it was done on 2 devices, and here on 1 device" in rounded.words


@pytest.mark.parametrize("counts", [{"after_2": 2, "after_3": 1}, {"after_3": 2}])
def test_the_reason_for_other_bits_is_that_of_the_first_step_that_differs(
    counts, run, tmp_path, monkeypatch
):
    round_otherwise(monkeypatch, at=3)
    history = started(read_history(str(run)), **counts)
    (segment,) = recompute(Replayer(history, tmp_path), [Stretch(3, 4)], Limits())
    assert list(segment.wrong) == [3, 4]
    assert segment.agrees == ("after_2" in counts), segment.words


def test_equal_stretches_that_follow_each_other_are_restored_once(run, tmp_path):
    lines = []
    replayer = Replayer(read_history(str(run)), tmp_path, lines.append)
    segments = recompute(replayer, [Stretch(3, 4), Stretch(5, 6)], Limits())
    assert all(each.is_equal for each in segments)
    assert len(lines) == 1
