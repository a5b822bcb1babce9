"""With reproducible="layout", the number of devices and processes changes no bit of a run."""

import signal

import jax
import pytest
from helpers.several_processes import FLAGS, ended, log_of
from helpers.workdirs import assert_equal_runs, until

from clac_jax.distributed.preemption import EXIT_PREEMPTED
from clac_jax.reporting.metrics_file import read_rows
from clac_jax.training.compilation_cache import cores
from clac_jax.training.placement import too_few_threads

LAYOUT = (
    *FLAGS,
    "--config.reproducible=layout",
    "--config.layout_parts=4",
    "--config.batch_size=8",
    "--config.eval_batch_size=16",
    "--config.dataset.max_examples=16",
    "--config.max_epochs=2",
    "--config.input.max_batch_shapes=1",
)
# Everything that takes part in a sum: two views, batch norm in a head, all losses, PaiNN.
FULL = (
    *LAYOUT,
    "--config.graph_encoder.name=painn",
    "--config.use_visual_intramodal_loss=True",
    "--config.use_textual_intramodal_loss=True",
    "--config.accumulate_steps=2",
    "--config.lm_weight=0.5",
    "--config.structure_weight=0.5",
    "--config.graph_encoder.add_descriptors=True",
    "--config.text_encoder.numbers_at=(0,)",
    "--config.dataset.max_examples=64",
)


@pytest.fixture(scope="module")
def on_one(run, tmp_path_factory):
    """Flags -> the workdir of a run on one device."""
    made = {}

    def build(*flags):
        if flags not in made:
            made[flags] = tmp_path_factory.mktemp("layout") / "one"
            done = run(made[flags], *flags)
            assert done.returncode == 0, done.stderr
        return made[flags]

    return build


@pytest.mark.slow
def test_two_devices_give_the_bits_of_one(run, on_one, tmp_path):
    done = run(tmp_path / "two", *LAYOUT, devices=2)
    assert done.returncode == 0, done.stderr
    assert_equal_runs(tmp_path / "two", on_one(*LAYOUT))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4, 8])
def test_more_devices_give_the_bits_of_one(run, on_one, tmp_path, devices):
    flags = (*FULL, "--config.layout_parts=8", "--config.batch_size=16")
    done = run(tmp_path / "run", *flags, devices=devices)
    assert done.returncode == 0, done.stderr
    assert_equal_runs(tmp_path / "run", on_one(*flags))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
def test_wide_layers_give_the_bits_of_one_device_with_equal_threads(
    run, on_one, tmp_path, monkeypatch, devices
):
    """Their products are divided among the threads, of which a CPU has at least one per device."""
    monkeypatch.setenv("NPROC", "4")
    flags = (*LAYOUT, "--config.loss.name=jsd", "--config.batch_size=4", "--config.max_epochs=1",
             "--config.accumulate_steps=2")  # fmt: skip
    done = run(tmp_path / "run", *flags, devices=devices)
    assert done.returncode == 0 and "NPROC" not in done.stderr, done.stderr
    assert_equal_runs(tmp_path / "run", on_one(*flags))


def test_more_devices_than_threads_are_a_reason_to_warn(monkeypatch):
    monkeypatch.setattr(jax, "local_device_count", lambda: 4)
    monkeypatch.setenv("NPROC", "2")
    assert "set the environment variable NPROC=4" in too_few_threads()
    monkeypatch.setenv("NPROC", "4")
    assert not too_few_threads()
    monkeypatch.delenv("NPROC")
    assert bool(too_few_threads()) == (cores() < 4)


@pytest.mark.slow
def test_two_processes_give_the_bits_of_one_device(begin_processes, on_one, tmp_path):
    assert ended(begin_processes(tmp_path / "run", *FULL)) == [0, 0], log_of(tmp_path / "run", 0)
    assert_equal_runs(tmp_path / "run", on_one(*FULL))


@pytest.mark.slow
def test_a_run_that_moves_between_layouts_gives_the_bits_of_one_device(
    run, begin, begin_processes, on_one, tmp_path
):
    workdir, flags = tmp_path / "run", (*FULL, "--config.max_epochs=6")
    for devices in (4, 1):
        rows = len(read_rows(workdir / "metrics.jsonl"))
        process = begin(workdir, *flags, devices=devices)
        assert until(lambda: len(read_rows(workdir / "metrics.jsonl")) > rows + 2, process)  # noqa: B023
        process.send_signal(signal.SIGTERM)
        assert process.wait(240) == EXIT_PREEMPTED
    assert ended(begin_processes(workdir, *flags)) == [0, 0], log_of(workdir, 0)
    assert_equal_runs(workdir, on_one(*flags))
