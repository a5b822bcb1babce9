"""Bad data and broken hardware in real programs, which are killed at random on top."""

import dataclasses
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers.paths import ROOT
from helpers.several_processes import ended, log_of
from helpers.small_runs import arrays_at, assert_same, train_rows, untimed
from helpers.train_that_goes_wrong import EXAMPLE, SPIKE_EPOCH, STEP, poison
from helpers.workdirs import assert_equal_runs

from clac_jax.config.schema import to_json
from clac_jax.errors import EXIT_FAULTY
from clac_jax.healing.actions import LOWER_RATE, Action, actions_in
from clac_jax.input_pipeline.run_data import RunData
from clac_jax.journal.journal_file import HEALED, read_journal
from clac_jax.training_run import train

QUICK = {"max_epochs": 3, "checkpoint__every_n_steps": 3, "healing__spike_window": 8}
PROGRAM = str(ROOT / "tests" / "helpers" / "train_that_goes_wrong.py")
PROPERTY = {
    "task": "property",
    "checkpoint__monitor": "val_mae",
    "frozen": (),
    "optimizer__learning_rate_factors": (),
    "healing__enabled": True,
}


def test_a_run_heals_and_equals_one_that_never_had_the_example(small_config, tmp_path, capfd):
    options = PROPERTY | {"max_epochs": 1, "checkpoint__every_n_steps": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunData, "_train_views", RunData._train_views)
        poison("infinite label")
        train(small_config(**options), tmp_path / "healed")
    train(small_config(**options, dataset__skip=(EXAMPLE,)), tmp_path / "skipped")
    assert_same(arrays_at(tmp_path / "healed", 4), arrays_at(tmp_path / "skipped", 4))
    rows = [list(map(untimed, train_rows(tmp_path / name))) for name in ("healed", "skipped")]
    assert rows[0] == rows[1]
    journals = [read_journal(tmp_path / name) for name in ("healed", "skipped")]
    digests = [journal.steps["digests"] for journal in journals]
    np.testing.assert_array_equal(*digests)
    (action,) = actions_in(journals[0].events)
    assert action.examples == (EXAMPLE,) and actions_in(journals[1].events) == []
    said = capfd.readouterr().out
    assert f"This run has healed itself once. At step {action.step}" in said
    assert "label inf" in said


@pytest.mark.slow
def test_a_resumed_run_reports_the_rate_that_healing_has_lowered(
    stage1, small_config, tmp_path, capsys
):
    run = shutil.copytree(stage1, tmp_path / "run")
    for step in (6, 7, 8):
        shutil.rmtree(run / "checkpoints" / str(step))
    data = read_journal(run).starts[0]["data"]["train"]
    action = Action(LOWER_RATE, 4, "the loss was 99", 3, 0, 12, factor=0.5, data=data)
    with open(run / "starts.jsonl", "a") as file:
        event = {"event": HEALED, "step": 3, "start": 1, **action.to_json()}
        file.write(json.dumps(event) + "\n")
    capsys.readouterr()
    train(small_config(), run)
    rate = next(row for row in train_rows(run) if row["step"] == 6)["learning_rate"]
    said = f"step 6, learning rate {rate:.3g} (0.5 of the schedule's, kept from healing so far)"
    assert said in capsys.readouterr().out


class Program:
    """The program with its config, which goes wrong in some way."""

    def __init__(self, config, workdir, what, environment):
        self._path = workdir.with_suffix(".json")
        self._path.write_text(to_json(config))
        self._command = [sys.executable, PROGRAM, str(self._path), str(workdir), what]
        self._workdir, self._environment = workdir, environment

    def start(self, *where):
        with open(f"{self._workdir}.log{where[-1] if where else ''}", "a") as log:
            return subprocess.Popen(
                [*self._command, *where], stdout=log, stderr=log, env=self._environment, cwd=ROOT
            )

    def kill_at_random(self, rng, kills):
        """Kills it at random instants, shortly after one of its steps or during its start."""
        for _ in range(kills):
            process = self.start()
            rows, deadline = len(train_rows(self._workdir)), time.monotonic() + rng.uniform(0, 60)
            while time.monotonic() < deadline and process.poll() is None:
                if len(train_rows(self._workdir)) != rows and rng.random() < 0.3:
                    break
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
            process.wait()

    def codes(self):
        """The exit codes until it ends for good."""
        codes = []
        while not codes or codes[-1] == EXIT_FAULTY:
            codes.append(self.start().wait(900))
            assert len(codes) < 4, self.log()
        return codes

    def log(self):
        return self._workdir.with_name(f"{self._workdir.name}.log").read_text()


@pytest.fixture
def program(small_config, environment, tmp_path):
    """(what, kills=0, devices=1, **changes) -> (workdir, exit codes, output) of such a run."""

    def run(what, kills=0, devices=1, **changes):
        workdir = tmp_path / what.replace(" ", "_")
        config = small_config(**PROPERTY | QUICK | changes)
        config.compilation_cache = str(tmp_path)  # the markers are there as well
        started = Program(config, workdir, what, environment(devices))
        started.kill_at_random(random.Random(what), kills)
        return workdir, started.codes(), started.log()

    return run


@pytest.mark.slow
@pytest.mark.parametrize("what", ["infinite label", "no geometry"])
def test_a_poisoned_run_killed_at_random(program, what):
    changes = {"graph_encoder__name": "painn"} if what == "no geometry" else {}
    expected, codes, _ = program("nothing", dataset__skip=(EXAMPLE,), **changes)
    assert codes == [0]
    workdir, codes, said = program(what, kills=4, **changes)
    assert codes == [0], said
    assert_equal_runs(workdir, expected)
    (action,) = actions_in(read_journal(workdir).events)
    assert action.examples == (EXAMPLE,)
    assert "This run has healed itself once." in said


@pytest.mark.slow
def test_a_spike_killed_at_random(program, small_config, tmp_path):
    """The example was good until it was changed, so it is left out from that epoch on."""
    # Not a schedule over the run, whose length differs between the stretches of the expected run.
    changes = {"max_epochs": 5, "schedule": "constant"}
    workdir, codes, said = program("large label", kills=4, **changes)
    assert codes == [0], said
    assert "above" in said and f"example {EXAMPLE}" in said
    (action,) = actions_in(read_journal(workdir).events)
    assert action.epoch == SPIKE_EPOCH and action.examples == (EXAMPLE,)
    expected = tmp_path / "expected"
    options = PROPERTY | QUICK | changes
    train(small_config(**options | {"max_epochs": SPIKE_EPOCH}), expected)
    train(small_config(**options, dataset__skip=(EXAMPLE,)), expected)
    assert_same(arrays_at(workdir, 20), arrays_at(expected, 20))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["parameter", "gradient", "batch"])
def test_a_flipped_bit_is_the_fault_of_the_machine(program, what):
    expected, codes, _ = program("nothing")
    assert codes == [0]
    workdir, codes, said = program(what)
    assert codes == [EXIT_FAULTY, 0], said
    wrong = f"Step {STEP + (what == 'gradient')} was computed three times from the same checkpoint"
    assert f"Step {STEP} was computed three times" in said or wrong in said
    assert "differed from the two other times" in said and "of host" in said
    assert "Traceback" not in said
    assert_equal_runs(workdir, expected)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["parameter", "gradient", "batch"])
def test_a_flipped_bit_and_kills(program, what):
    expected, codes, _ = program("nothing")
    workdir, codes, said = program(what, kills=4)
    assert codes in ([0], [EXIT_FAULTY, 0]), said
    assert_equal_runs(workdir, expected)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_a_spot_check_finds_the_least_bit(program, devices):
    """No loss is unusual after it: only a second computation shows it."""
    changes = {"healing__enabled": False, "healing__verify_every": STEP}
    expected, codes, _ = program("nothing", devices=devices, **changes)
    assert codes == [0]
    workdir, codes, said = program("low gradient", devices=devices, **changes)
    assert codes == [EXIT_FAULTY, 0], said
    assert f"Step {STEP} was computed twice on" in said and "differ" in said
    assert_equal_runs(workdir, expected)


@pytest.mark.slow
def test_two_processes_take_the_same_decisions(program, small_config, environment, tmp_path):
    one, codes, _ = program("infinite label", devices=2)
    assert codes == [0]
    workdir, config = tmp_path / "two", small_config(**PROPERTY | QUICK)
    each = Program(config, workdir, "infinite label", environment(1))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    running = [each.start(address, "2", str(number)) for number in range(2)]
    assert ended(running, 900) == [0, 0], log_of(workdir, 0)
    actions = [actions_in(read_journal(place).events) for place in (one, workdir)]
    assert [dataclasses.replace(a, reason="") for a in actions[0]] == [
        dataclasses.replace(a, reason="") for a in actions[1]
    ]
    assert actions[1][0].examples == (EXAMPLE,)
    left, right = (arrays_at(place, 12) for place in (one, workdir))
    for path, array in left.items():
        np.testing.assert_allclose(array, right[path], rtol=1e-4, atol=1e-5, err_msg=path)
