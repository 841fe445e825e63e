# `make demo` and `make test` do everything themselves: environment, install, run.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Threads that wait asleep: spinning ones made a step eight times as slow when another process had one of two cores.
export OMP_WAIT_POLICY ?= passive

.PHONY: demo test test-slow test-faults test-distributed test-fuzz mutants lint format clean help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dalib needs Python 3.11 or newer; say PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $(STAMP)

demo: $(STAMP)  ## train on made-up streets: source only, then the stack; a table, pictures and a report
	$(BIN)/python examples/demo.py

test: $(STAMP)  ## the test suite, a process per core (at most 4), under 5 minutes on 2
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

test-slow: $(STAMP)  ## the tests that take longer
	$(BIN)/python -m pytest -m slow

test-faults: $(STAMP)  ## runs that are killed anywhere and resumed, and runs short of resources; at most 20 minutes
	$(BIN)/python -m pytest -m faults tests/faults

test-distributed: $(STAMP)  ## jobs of 1, 2 and 4 ranks, killed and resumed, too; at most 15 minutes
	$(BIN)/python -m pytest -m distributed tests/distributed

test-fuzz: $(STAMP)  ## thousands of hostile recipes, label maps, images and checkpoints
	$(BIN)/python -m pytest -m fuzz tests/fuzz

mutants: $(STAMP)  ## changes of the code that no test notices, a table and a list; `make mutants FILES=...` for some
	$(BIN)/python -m tests.mutants $(FILES)

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and the caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
