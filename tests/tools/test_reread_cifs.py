"""The counts of tools/reread_cifs.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_script_counts_accepted_and_refused_texts_and_recovers_written_crystals(tmp_path):
    faults, counts = ROOT / "tests" / "data" / "faults", tmp_path / "counts.json"
    command = [sys.executable, "tools/reread_cifs.py", str(faults), "--acwf=12"]
    run = subprocess.run(
        [*command, f"--json={counts}"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    content = json.loads(counts.read_text())
    of_faults, of_acwf = content[str(faults)], content["acwf format"]
    assert of_faults["texts"] == 17
    assert of_faults["kinds"]["read"] == 9
    assert of_faults["kinds"]["formula: H without a site"] == 1
    assert of_acwf["kinds"] == {"read": 12}
