"""The wheels that a machine with JAX but without network needs for `make gpu-check`.

    python tools/gpu/wheels.py [--output=gpu_wheels] [--python=3.12]

Downloads the versions in requirements.lock (`make gpu-wheels`); the check finds the folder at the
root of the repository and unpacks it there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = "gpu_wheels"
LIMIT_MIB = 60

# Imports of flax, optax and orbax-checkpoint, beyond the dependencies of JAX itself (NumPy, SciPy,
# ml_dtypes, opt_einsum). Packages that read data are replaced: see tools/gpu/absent.py.
PACKAGES = (
    "absl-py",
    "aiofiles",
    "etils",
    "flax",
    "fsspec",
    "humanize",
    "importlib-resources",
    "jaxtyping",
    "markdown-it-py",
    "mdurl",
    "ml-collections",
    "msgpack",
    "optax",
    "orbax-checkpoint",
    "protobuf",
    "psutil",
    "pygments",
    "pyyaml",
    "rich",
    "simplejson",
    "tensorstore",
    "treescope",
    "typing-extensions",
    "uvloop",
    "wadler-lindig",
    "zipp",
)
_PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")


def locked_versions(lock: str, python: str) -> dict[str, str]:
    """Versions by normalized package name, for Linux and this version of Python.

    Args:
        lock: text of a requirements.lock, which may list a package for several environments.
        python: version as "major.minor".
    """
    # Imported here, because unpacking also imports this module and must work without it.
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    environment |= {"sys_platform": "linux", "platform_machine": "x86_64"}
    versions = {}
    for line in lock.splitlines():
        if not line[:1].isalnum():  # a comment, or a hash of the requirement before
            continue
        requirement = Requirement(line.rstrip("\\ "))
        if requirement.marker is None or requirement.marker.evaluate(environment):
            (version,) = requirement.specifier
            versions[canonicalize_name(requirement.name)] = version.version
    return versions


def download(folder: Path, python: str) -> int:
    """Downloads the wheels for this version of Python on Linux; returns their size in bytes."""
    versions = locked_versions((ROOT / "requirements.lock").read_text(encoding="utf-8"), python)
    wanted = [f"{name}=={versions[name]}" for name in PACKAGES]
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    platforms = [f"--platform={platform}" for platform in _PLATFORMS]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"--dest={folder}"]
    command += [f"--python-version={python}", "--only-binary=:all:", *platforms]
    subprocess.run([*command, *wanted], check=True)
    return sum(path.stat().st_size for path in folder.glob("*.whl"))


def unpack(folder: Path) -> Path | None:
    """Unpacks the wheels of a folder once; returns the import folder, or None without wheels."""
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        return None
    target = folder / "unpacked"
    for wheel in wheels:
        done = target / f".{wheel.name}"
        if not done.exists():
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(target)
            done.touch()
    return target


def main() -> int:
    """Runs the command line and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / FOLDER)
    parser.add_argument("--python", default="3.12", help="version of Python on the other machine")
    options = parser.parse_args()
    size = download(options.output, options.python) / 2**20
    print(f"{len(list(options.output.glob('*.whl')))} wheels, {size:.1f} MiB, in {options.output}")
    if size > LIMIT_MIB:
        print(f"error: more than {LIMIT_MIB} MiB. Remove packages from PACKAGES.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
