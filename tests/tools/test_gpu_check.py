"""The accelerator check, run on a CPU with small sizes."""

import importlib.machinery
import json
import os
import subprocess
import sys
import time
import zipfile

import jax
import numpy as np
import pytest
from helpers import parity_cases
from helpers.paths import ROOT

from tools.gpu import absent, children, parts, wheels
from tools.gpu.children import Child, ChildError, call
from tools.gpu.peaks import PEAKS, model_flops_utilization
from tools.gpu.report import report
from tools.gpu_check import check, prepare, time_limit

CHECK = ROOT / "tools" / "gpu_check.py"


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, str(CHECK), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
        timeout=600,
    )


@pytest.mark.parametrize(
    "names", [("parity",), pytest.param(tuple(parts.PARTS), marks=pytest.mark.slow)]
)
def test_a_small_check_is_complete(tmp_path, names):
    output = tmp_path / "check"
    arguments = ("--size=small", f"--output={output}", "--seconds=4800", f"--wheels={tmp_path}")
    done = run(*arguments, "--parts", *names)
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads(output.with_suffix(".json").read_text())
    table = output.with_suffix(".md").read_text()
    assert set(content["parts"]) == set(names)
    for name, part in content["parts"].items():
        assert part["outcome"] == "complete" and part["result"]
        assert f"| {name} | complete |" in table
    errors = {row["precision"]: row for row in content["parts"]["parity"]["result"]}
    assert errors["float32"]["within_bars"]
    assert errors["float64"]["forward"] < 1e-9 < errors["float32"]["forward"]
    if "kill_and_resume" in names:
        result = content["parts"]["kill_and_resume"]["result"]
        assert 0 < result["resumed_from_step"] <= result["killed_after_step"] < result["steps"]
        assert result["arrays"] == result["equal_arrays"] > 100
        sizes = [row["examples"] for row in content["parts"]["throughput"]["result"]]
        assert sizes == [16, 32]


DOES_NOT_FIT = {"precision": "float32", "examples": 4, "fits": False}


def fails(sizes, deadline):
    raise parts.PartError("no device\nits log", [DOES_NOT_FIT])


def breaks(sizes, deadline):
    raise ZeroDivisionError("division by zero")


def works(sizes, deadline):
    return {"answer": 42}


def test_a_part_that_fails_is_reported_and_the_others_run(tmp_path, monkeypatch):
    for name, function in (("parity", breaks), ("throughput", fails), ("machine", works)):
        monkeypatch.setitem(parts.PARTS, name, (function, 10))
    complete = check(["parity", "throughput", "machine"], "small", 480, tmp_path / "out", {})
    assert not complete
    content = json.loads((tmp_path / "out.json").read_text())["parts"]
    assert content["machine"]["outcome"] == "complete"
    assert content["parity"]["outcome"] == "ZeroDivisionError: division by zero"
    assert content["throughput"]["outcome"] == "no device"
    assert content["throughput"]["result"] == [DOES_NOT_FIT]
    assert "| float32 | 4 | does not fit |" in (tmp_path / "out.md").read_text()


def test_a_child_that_is_out_of_time_is_killed_and_its_rows_are_kept():
    with (
        Child("parity", {"fixtures": ["no such fixture"]}) as child,
        pytest.raises(ChildError) as error,
    ):
        child.result(time.monotonic() + 0.2)
    assert str(error.value).splitlines()[0] == "out of time"
    assert child.process.returncode is not None


WAITS = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from tools.gpu import children

def waits(save):
    save("started")
    time.sleep(600)

children.serve(sys.argv[1].removeprefix("--child="), {{"waits": waits}})
"""


def test_a_child_that_is_out_of_time_shows_what_it_was_doing(tmp_path, monkeypatch):
    (tmp_path / "waits.py").write_text(WAITS)
    monkeypatch.setattr(children, "CHECK", tmp_path / "waits.py")
    with Child("waits", {}) as child:
        while child.partial() is None:
            time.sleep(0.01)
        with pytest.raises(ChildError, match=r"(?s)^out of time\n.* in waits\n") as error:
            child.result(time.monotonic())
    assert error.value.partial == "started"


@pytest.mark.parametrize("name", parity_cases.CASES)
def test_every_fixture_of_the_parity_part_can_be_traced(name):
    for towers in ("float32", "bfloat16"):
        case = parity_cases.CASES[name](np.float32, towers)
        for loss in case.losses.values():
            value, outputs = jax.eval_shape(loss, case.params)
            assert value.shape == () and outputs.keys() <= case.outputs.keys()


def test_time_that_a_part_does_not_need_goes_to_those_after_it(monkeypatch):
    weights = {"first": 1, "second": 1, "third": 2}
    monkeypatch.setattr(parts, "PARTS", {name: (works, x) for name, x in weights.items()})
    names = list(weights)
    assert time_limit("first", names, 400) == 100
    assert time_limit("second", names, 390) == 130
    assert time_limit("third", names, 380) == 380
    assert time_limit("second", ["second"], 400) == 400


def test_a_child_that_fails_says_why():
    with pytest.raises(ChildError, match=r"^exit code 1: KeyError: 'no such fixture'\n") as error:
        call("parity", {"fixtures": ["no such fixture"]}, time.monotonic() + 300)
    assert error.value.partial is None


@pytest.fixture
def absent_package():
    finders = list(sys.meta_path)
    yield absent.stand_in_for_absent(["no_such_package_anywhere", "json"])
    sys.meta_path[:] = finders
    for name in [name for name in sys.modules if name.startswith("no_such_package_anywhere")]:
        del sys.modules[name]


def test_absent_packages_can_be_imported_and_say_so_when_used(absent_package):
    assert absent_package == ["no_such_package_anywhere"]
    from no_such_package_anywhere.inner import Thing

    assert Thing().method(3) is not None

    class Inherits(Thing):
        pass

    assert Inherits()
    for use in (float, list, len, lambda x: x[0], bool):
        with pytest.raises(ImportError, match="no_such_package_anywhere is not installed"):
            use(Thing.attribute)


def test_the_wheels_are_those_of_the_lock_for_that_python():
    lock = (
        "flax==0.12.8 ; python_full_version < '3.12' and sys_platform == 'linux' \\\n"
        "    --hash=sha256:00 \\\n    --hash=sha256:11\n"
        "flax==0.12.12 ; python_full_version >= '3.12' \\\n    --hash=sha256:22\n"
        "Some_Name==1.0 ; sys_platform == 'win32'\n"
    )
    assert wheels.locked_versions(lock, "3.11") == {"flax": "0.12.8"}
    assert wheels.locked_versions(lock, "3.12") == {"flax": "0.12.12"}
    locked = wheels.locked_versions((ROOT / "requirements.lock").read_text(), "3.12")
    assert not set(wheels.PACKAGES) - set(locked)


def test_wheels_are_unpacked_once(tmp_path):
    assert wheels.unpack(tmp_path) is None
    with zipfile.ZipFile(tmp_path / "some_package-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("some_package.py", "VALUE = 1\n")
    target = wheels.unpack(tmp_path)
    (target / "some_package.py").write_text("VALUE = 2\n")
    assert wheels.unpack(tmp_path) == target
    assert (target / "some_package.py").read_text() == "VALUE = 2\n"


def test_a_package_of_the_wheels_comes_before_that_of_the_machine(tmp_path, monkeypatch):
    """The machine's own Orbax may be too old."""
    with zipfile.ZipFile(tmp_path / "orbax-99.0-py3-none-any.whl", "w") as archive:
        archive.writestr("orbax.py", "")
    monkeypatch.setattr(sys, "path", list(sys.path))
    prepare(tmp_path)
    found = importlib.machinery.PathFinder.find_spec("orbax")
    assert found is not None and found.origin.startswith(str(tmp_path))


@pytest.mark.parametrize(
    "limit, at_most, expected",
    [(None, 4096, 4096), (80 * 2**30, 4096, 2048), (80 * 2**30, 512, 512), (2**30, 4096, 64)],
)
def test_the_largest_batch_is_foreseen_from_a_small_one(limit, at_most, expected):
    row = {"examples": 64, "memory_gib": 2.0, "device_memory_bytes": limit}
    assert parts._largest(row, at_most) == expected
    assert parts._largest({"examples": 64, "fits": False}, at_most) == 0


def test_utilization_is_relative_to_the_devices_own_peak():
    assert model_flops_utilization("NVIDIA H200", "bfloat16", 989e12, 2.0) == pytest.approx(0.5)
    assert model_flops_utilization("some CPU", "float32", 1e12, 1.0) is None
    assert model_flops_utilization("Tesla T4", "bfloat16", 1e12, 1.0) is None
    assert model_flops_utilization("NVIDIA H200", "tf32", None, 1.0) is None
    for peaks in PEAKS.values():
        assert list(peaks.values()) == sorted(peaks.values()), "float32 is the slowest"


def test_the_report_marks_what_is_above_the_bars():
    row = {"fixture": "painn", "forward": 1e-3, "gradient": 2e-3, "all_gradients": 3e-3}
    row |= {"worst_output": "y", "worst_gradient": "loss: readout/bias", "within_bars": False}
    rows = [row | {"precision": precision} for precision in ("float32", "tf32")]
    finished = {"outcome": "complete", "seconds": 1.0, "error": ""}
    text = report({"size": "full", "parts": {"parity": finished | {"result": rows}}})
    plain = "1e-03 / 2e-03 / 3e-03"
    assert f"| painn | **{plain}** (loss: readout/bias) | {plain} |" in text
