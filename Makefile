# Every target sets up .venv by itself, once, and again only when the lock has changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --dist loadfile --numprocesses
INSTALLED := $(VENV)/.installed
DOCS_VENV := .venv-docs
DOCS_INSTALLED := $(DOCS_VENV)/.installed
# The oldest Ray that is supported, in a folder of its own.
RAY_OLDEST := 2.49.2
RAY_FOLDER := .ray-$(RAY_OLDEST)
# Not the jobs on an external cluster: they are submitted with a token, which that release has not.
RAY_TESTS := $(addprefix tests/orchestrator/, cluster training/test_tune_internals.py \
  training/test_tune.py training/test_scheduler.py test_smoke_study.py \
  test_external_cluster.py::test_a_given_cluster_is_used_and_left_running \
  test_faults.py::test_kills_at_random_steps_cost_nothing)
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help study test test-slow test-ray-oldest soak bench gpu-proof check docs reference format clean

help:
	@echo 'make study      run the embedded demo study end to end; again, to go on with it'
	@echo 'make test       run the tests; make test-slow runs those that take minutes'
	@echo 'make test-ray-oldest  run what depends on Ray with the oldest that is supported'
	@echo 'make soak       inject random faults into a small study; see docs/reliability.md'
	@echo 'make bench      run the benchmarks and compare with their last run here'
	@echo 'make gpu-proof  prove on a GPU what only a GPU can show; without one, rehearse it on the CPU'
	@echo 'make check      lint, format, types and the direction of dependencies'
	@echo 'make docs       build the documentation site with the API reference into site/'
	@echo 'make reference  write tables of study-file keys into docs/, and the JSON schema, from the code'
	@echo 'make clean      remove .venv and caches; results in runs/ stay'

study: $(INSTALLED)
	@$(BIN)/python experiments/full_grid.py $(ARGS)

test: $(INSTALLED)
	@$(PYTEST) 2 -m 'not slow' $(ARGS)

# That release leaves files open for the garbage collector, of which pytest would make errors.
test-ray-oldest: export PYTHONPATH := $(CURDIR)/$(RAY_FOLDER)
test-ray-oldest: $(INSTALLED) $(RAY_FOLDER)/ray
	@$(BIN)/python -c 'import ray; assert ray.__version__ == "$(RAY_OLDEST)", ray.__version__'
	@$(PYTEST) 2 -W ignore::pytest.PytestUnraisableExceptionWarning -W ignore::ResourceWarning \
	  $(RAY_TESTS) $(ARGS)

$(RAY_FOLDER)/ray: | $(INSTALLED)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $(RAY_FOLDER) \
	  ray==$(RAY_OLDEST)

soak: $(INSTALLED)
	@OMP_NUM_THREADS=1 $(BIN)/python tests/soak.py

# Three at once on two cores: most of these tests wait for processes of their own.
test-slow: $(INSTALLED)
	@$(PYTEST) 3 -m slow $(ARGS)

bench: $(INSTALLED)
	@PYTHONSAFEPATH=1 PYTHONPATH=. OMP_NUM_THREADS=1 $(BIN)/python experiments/benchmarks/suite.py $(ARGS)

# Any Python with torch and timm: a machine that was lent may have no network to install from.
gpu-proof:
	@$(firstword $(wildcard $(BIN)/python) $(PYTHON)) -m experiments.gpu_proof $(ARGS)

check: $(INSTALLED)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

docs: $(DOCS_INSTALLED)
	@NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --quiet --strict
	@echo 'the site is site/index.html'

reference: $(INSTALLED)
	@PYTHONPATH=. $(BIN)/python tools/reference.py

format: $(INSTALLED)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(DOCS_VENV) .ray-* site .pytest_cache .mypy_cache .ruff_cache \
	  .import_linter_cache *.egg-info

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'tokensweep needs Python 3.11 or newer: make PYTHON=python3.11 ...'; exit 1; }
	@echo 'Setting up .venv, once; torch and its libraries are some GB, so this takes minutes.'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --progress-bar off --disable-pip-version-check -r requirements.lock \
	    2> $(VENV)/install.log \
	  | awk -v all="$$(grep -c '==' requirements.lock)" \
	    '/^(Collecting|Processing)/ && n < all { printf "\r%d of %d packages", ++n, all; fflush() } \
	     /^Installing/ { printf "\rall %d packages are here, installing them", all; fflush() } \
	     END { print "" }' \
	  || { cat $(VENV)/install.log; exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(DOCS_INSTALLED): requirements-docs.lock
	@$(PYTHON) -m venv $(DOCS_VENV)
	@$(DOCS_VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements-docs.lock
	@touch $@
