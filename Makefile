# make demo | test | check | bench; each builds .venv when it is missing. make mpc builds .venv-mpc.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
MPC := .venv-mpc
# The lock holds for Python 3.11; other versions resolve within the bounds of setup.py.
CONSTRAINTS := $(shell $(PYTHON) -c 'import sys; print("-c requirements/constraints.txt" if sys.version_info[:2] == (3, 11) else "")' 2>/dev/null)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet $(CONSTRAINTS)
DEMO ?= run/demo

.PHONY: venv dev torch mpc demo test check lint format bench clean help

help:
	@echo "make demo   the main job on embedded data: train, reduce, export, evaluate, report (a few minutes)"
	@echo "make test   the test suite        make check  lint, types and tests, as CI runs them"
	@echo "make bench  side-by-side measurements      make venv   only the environment with the command"
	@echo "make mpc    the secure engine of \`cost measure\`, in an environment of its own (730 MB)"

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

$(MPC)/.installed: requirements/mpc.txt
	test -x $(MPC)/bin/python || $(PYTHON) -m venv $(MPC)
	$(MPC)/bin/python -m pip --disable-pip-version-check install --quiet -r requirements/mpc.txt
	touch $@

mpc: $(MPC)/.installed

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
	$(BIN)/python benchmarks/compression.py

clean:
	rm -rf run build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
