# Every target sets up .venv by itself, once, and again only when the lock has changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile
INSTALLED := $(VENV)/.installed
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help study test test-slow soak bench check format clean

help:
	@echo 'make study      run the embedded demo study end to end; again, to go on with it'
	@echo 'make test       run the tests; make test-slow runs those that take minutes'
	@echo 'make soak       inject random faults into a small study; see docs/reliability.md'
	@echo 'make bench      run the benchmarks and compare with their last run here'
	@echo 'make check      lint, format, types and the direction of dependencies'
	@echo 'make clean      remove .venv and caches; results in runs/ stay'

study: $(INSTALLED)
	@$(BIN)/python experiments/full_grid.py $(ARGS)

test: $(INSTALLED)
	@$(PYTEST) -m 'not slow' $(ARGS)

soak: $(INSTALLED)
	@OMP_NUM_THREADS=1 $(BIN)/python tests/soak.py

test-slow: $(INSTALLED)
	@$(PYTEST) -m slow $(ARGS)

bench: $(INSTALLED)
	@PYTHONSAFEPATH=1 PYTHONPATH=. OMP_NUM_THREADS=1 $(BIN)/python experiments/benchmarks/suite.py $(ARGS)

check: $(INSTALLED)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(INSTALLED)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'tokensweep needs Python 3.11 or newer: make PYTHON=python3.11 ...'; exit 1; }
	@echo 'Setting up .venv, once; torch and its libraries are some GB, so this takes minutes.'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --progress-bar off --disable-pip-version-check -r requirements.lock \
	    2> $(VENV)/install.log \
	  | awk -v all="$$(grep -c '==' requirements.lock)" \
	    '/^(Collecting|Processing)/ { printf "\r%d of %d packages", ++n, all; fflush() } \
	     /^Installing/ { printf "\rall %d packages are here, installing them", all; fflush() } \
	     END { print "" }' \
	  || { cat $(VENV)/install.log; exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@
