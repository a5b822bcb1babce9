"""Actions of healing, as recorded and as followed."""

import json

import numpy as np

from clac_jax.healing.actions import Action, actions_in, gaps_of, scaled, tell
from clac_jax.input_pipeline.run_data import Gap
from clac_jax.journal.journal_file import HEALED

SKIP = Action("skip", 7, "the loss was nan", 4, 1, 8, (3, 5), ("mp-3", "mp-5"), data="d")
LOWER = Action("lower_rate", 9, "the loss was 99", 8, 1, 32, factor=0.3, data="d")


def test_an_action_survives_the_journal():
    event = {"event": HEALED, "step": 4, "start": 2} | SKIP.to_json()
    others = [{"event": "start", "step": 0, "start": 1}]
    assert actions_in([*others, json.loads(json.dumps(event))]) == [SKIP]


def test_examples_are_left_out_from_the_step_on():
    assert gaps_of([SKIP, LOWER]) == (Gap(1, 8, frozenset((3, 5))),)


def test_the_rate_is_lowered_from_the_checkpoint_on_and_rounded_each_time():
    twice = [LOWER, SKIP, LOWER]
    assert scaled(1.0, twice, 7) == np.float32(1.0)
    assert scaled(1.0, twice, 8) == np.float32(0.3) * np.float32(0.3)
    assert scaled(0.5, twice, 8).dtype == np.float32


def test_the_story_is_a_paragraph():
    assert tell([]) == ""
    story = tell([SKIP, LOWER])
    assert story == (
        "This run has healed itself twice. At step 7 the loss was nan; replayed from step 4, it "
        "had the same bits, so the machine is not to blame. From that step on, examples 3 (mp-3), "
        "5 (mp-5) are left out. At step 9 the loss was 99; replayed from step 8, it had the same "
        "bits, so the machine is not to blame. From step 9 on, the learning rate is multiplied by "
        "0.3."
    )
