"""Which stretches are computed again, and what the result means."""

from hypothesis import given
from hypothesis import strategies as st

from clac_jax.proof.segments import Limits, Segment, Stretch, choose

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
