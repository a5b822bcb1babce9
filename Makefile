# Every target makes what it needs: a fresh clone with git, make and Python >= 3.11 is enough.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
ENV := $(VENV)/.installed
DATA := data/.materials_project_mini
CONFIG ?= configs/base.py
WORKDIR ?= outputs/base
FUZZ ?= --seconds=300 --seed=1

.PHONY: train test test-slow fuzz lint docs data env lock clean

# Huge pages for XLA's large buffers: fewer page faults, shorter steps on a CPU.
train: $(DATA)
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(RUN) main.py --config=$(CONFIG) --workdir=$(WORKDIR)

test: $(DATA)
	$(RUN) -m pytest -m "not slow" --numprocesses=2 --dist=loadfile

test-slow: $(DATA)
	$(RUN) -m pytest -m slow

# Spoilt files of every format that is read; counts how the readers take them: tools/fuzz.py.
fuzz: $(ENV)
	nice $(RUN) tools/fuzz.py $(FUZZ)

lint: $(ENV)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

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

# Renews requirements.lock (for whoever changes a dependency; needs uv and the network).
lock:
	uv pip compile --quiet --universal --python-version=3.11 --no-emit-index-url --no-annotate \
	  --no-header --generate-hashes --extra=dev --extra=docs pyproject.toml requirements.in -o requirements.lock

clean:
	rm -rf $(VENV) data outputs site
