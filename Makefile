# Every target makes what it needs: a fresh clone with git, make and Python >= 3.11 is enough.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
ENV := $(VENV)/.installed
DATA := data/.materials_project_mini
CONFIG ?= configs/base.py
WORKDIR ?= outputs/base
FUZZ ?= --seconds=300 --seed=1
GPU_CHECK ?=
# Files are not split, since the tests of one share its fixtures, in the order of the folders: by default
# those with the fewest tests come last, which are the long ones.
TWO_PROCESSES := --numprocesses=2 --dist=loadfile --no-loadscope-reorder
# Also where the environment forbids bytecode: every program that a test starts would compile the package.
PYTEST := PYTHONDONTWRITEBYTECODE= $(RUN) -m pytest
# Marked tests have a target each.
USUAL := -m "not slow and not wheel and not browser and not slurm and not postgres"

.PHONY: train test test-slow test-wheel test-browser test-slurm test-postgres coverage fuzz gpu-check gpu-wheels docs docs-config lint words data env lock wheel clean

# Huge pages for XLA's large buffers: fewer page faults, shorter steps on a CPU.
train: $(DATA)
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(RUN) main.py --config=$(CONFIG) --workdir=$(WORKDIR)

test: $(DATA)
	$(PYTEST) $(USUAL) $(TWO_PROCESSES)

test-slow: $(DATA)
	$(PYTEST) -m slow

# What `pip install clac-jax` gives, in a separate environment.
test-wheel: $(DATA)
	$(PYTEST) -m wheel

# The page of `clac-jax map` in Debian's Chromium, headless; CHROMIUM=PATH names another.
test-browser: $(DATA)
	$(PYTEST) -m browser

# The scripts of examples/slurm, in a cluster of two nodes on 127.0.0.1; needs Debian's packages
# slurmctld, slurmd, slurm-client and munge.
test-slurm: $(DATA)
	$(PYTEST) -m slurm

# Sweeps over a PostgreSQL server that the tests start on 127.0.0.1; needs Debian's package postgresql.
test-postgres: $(DATA)
	$(PYTEST) -m postgres

# Lines and branches that `make test` runs, also in the programs that it starts.
coverage: $(DATA)
	$(PYTEST) $(USUAL) $(TWO_PROCESSES) --cov --cov-report=term-missing:skip-covered

# Correctness and speed on the accelerator of this machine: tools/gpu_check.py. With no network there,
# what is missing comes from the folder gpu_wheels, made by `make gpu-wheels` where there is one.
gpu-check:
	$(firstword $(wildcard $(RUN)) $(PYTHON)) tools/gpu_check.py $(GPU_CHECK)

gpu-wheels: $(ENV)
	$(RUN) tools/gpu/wheels.py

# Corrupted files of every format that is read; counts how the readers handle them: tools/fuzz.py.
fuzz: $(ENV)
	nice $(RUN) tools/fuzz.py $(FUZZ)

# The page of all config keys, from their declarations.
docs-config: $(ENV)
	$(RUN) -m clac_jax.config.document docs/config.md

lint: $(ENV)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(RUN) tools/words.py

# Wording that is to be replaced, with what to write: tools/words.py; also a part of `make lint`.
words: $(ENV)
	$(RUN) tools/words.py

# The documentation site, in site/: builds offline, and any warning (a dead link, say) is an error.
docs: $(ENV)
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet
	$(RUN) tools/check_site.py site

env: $(ENV)

data: $(DATA)

# The lock is complete, so nothing is resolved at install time (--no-deps).
$(ENV): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	PYTHONWARNINGS=ignore $(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

$(DATA): $(ENV) clac_jax/datasets/materials_project_mini/materials_project_mini.parquet
	$(RUN) -m clac_jax data prepare --name=materials_project_mini --data_dir=data
	touch $@

# Renews requirements.lock (after a change of a dependency; needs uv and the network).
lock:
	uv pip compile --quiet --universal --python-version=3.11 --no-emit-index-url --no-annotate \
	  --no-header --generate-hashes --extra=dev --extra=docs pyproject.toml requirements.in -o requirements.lock

# What `pip install clac-jax` installs, in dist/.
wheel: $(ENV)
	rm -rf build
	$(RUN) -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .
	rm -rf build

clean:
	rm -rf $(VENV) .pytest_cache data outputs dist site
