# make demo | test | check | bench; each builds .venv when it is missing.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# The lock holds for Python 3.11; other versions resolve within the bounds of setup.py.
CONSTRAINTS := $(shell $(PYTHON) -c 'import sys; print("-c requirements/constraints.txt" if sys.version_info[:2] == (3, 11) else "")' 2>/dev/null)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet $(CONSTRAINTS)
DEMO ?= run/demo

.PHONY: venv dev torch demo test check lint format bench clean help

help:
	@echo "make demo   the main job on embedded data: train, reduce, export, evaluate, report (a few minutes)"
	@echo "make test   the test suite        make check  lint, types and tests, as CI runs them"
	@echo "make bench  side-by-side measurements      make venv   only the environment with the command"

$(VENV)/.installed: setup.py requirements/constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is not installed; set PYTHON=python3.x (3.10 to 3.12)" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --editable '.[dev]'
	touch $@

$(VENV)/.installed-torch: $(VENV)/.installed
	$(PIP) --editable '.[torch]'
	touch $@

venv: $(VENV)/.installed

dev: $(VENV)/.installed-dev

torch: $(VENV)/.installed-torch

demo: venv
	$(BIN)/keras-relu demo --output $(DEMO)

test: dev
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_OPTIONS)

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint test

bench: dev torch
	$(BIN)/python benchmarks/step_time.py
	$(BIN)/python benchmarks/input_throughput.py

clean:
	rm -rf run build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
