# make demo   match two photographs with the shipped weights
# make test   run all tests
# make quick  run the tests of matching, geometry, files and sessions (about a minute)
# make check  format, lint, types and tests
# make fuzz   run damaged input of every kind for MINUTES=30, and keep what fails in fuzz/
# make docs   build the documentation into site/

PYTHON ?= python3
VENV ?= .venv
# Plain "torch" brings gigabytes of CUDA on Linux; this release has a CPU build.
TORCH ?= torch==2.13.0
# PYTEST_ARGS="-n 2 --dist loadfile" runs the tests in two processes, one file in one process.
PYTEST = $(VENV)/bin/python -m pytest -q $(PYTEST_ARGS)
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check

MINUTES ?= 30

.PHONY: demo test quick check lint format fuzz docs clean

demo: $(VENV)/.demo
	$(VENV)/bin/python examples/demo.py

test: $(VENV)/.dev
	$(PYTEST) --durations=10

quick: $(VENV)/.dev
	$(PYTEST) -m "not slow"

check: lint test

lint: $(VENV)/.dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

format: $(VENV)/.dev
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

fuzz: $(VENV)/.dev
	$(VENV)/bin/python tests/robustness/run_fuzz.py --minutes $(MINUTES)

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=src $(VENV)/bin/python -m mkdocs build --strict --quiet

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(PIP) -e . "scikit-image>=0.22"
	touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(PIP) "$(TORCH)"
	$(PIP) -e ".[dev]"
	touch $@

$(VENV)/.docs: pyproject.toml | $(VENV)/.dev
	$(PIP) -e ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) demo site fuzz .hypothesis .pytest_cache .mypy_cache .ruff_cache
