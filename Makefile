# make demo   match two photographs with the shipped weights
# make test   run all tests
# make quick  run the tests of matching, geometry, files and sessions (less than a minute)
# make check  format, lint, types and tests
# make fuzz   run damaged input of every kind for MINUTES=30, and keep what fails in fuzz/
# make web    build the page for browsers and serve it at http://localhost:8080/ (needs Node 20)
# make web-build  build the page into web/dist/, for any static host
# make test-web   test the page in Chromium
# make examples   install the packages of the example in Node
# make docs   build the documentation into site/

PYTHON ?= python3
VENV ?= .venv
# Plain "torch" brings gigabytes of CUDA on Linux; this release has a CPU build.
TORCH ?= torch==2.13.0
# One process a core, one file in one process; PYTEST_ARGS= runs all tests in one. A process that
# crashes ends the run: with a new one in its place, pytest-xdist may wait forever.
PYTEST_ARGS ?= -n auto --maxprocesses 4 --dist loadfile --max-worker-restart=0
PYTEST = $(VENV)/bin/python -m pytest -q $(PYTEST_ARGS)
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check

MINUTES ?= 30
# Sources that are compiled when the package is installed.
KERNELS = hatch_build.py $(wildcard src/featherglue/native/*.[ch])

.PHONY: demo test quick check lint format fuzz docs web web-build test-web examples clean

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

WEB_MODELS = web/public/models/index.json
WEB_PORT ?= 8080

web: web-build
	cd web && node scripts/serve.mjs --port $(WEB_PORT)

web-build: web/node_modules/.installed $(WEB_MODELS)
	cd web && npm run build

test-web: web/node_modules/.installed $(WEB_MODELS) web/build/reference.json web/build/camera.y4m
	cd web && npm test

web/node_modules/.installed: web/package-lock.json
	cd web && npm ci --no-audit --no-fund
	touch $@

WEB_SOURCES = $(wildcard src/featherglue/export/*.py src/featherglue/weights/*/*)

$(WEB_MODELS): web/scripts/export_models.py $(WEB_SOURCES) | $(VENV)/.web
	PYTHONPATH=src $(VENV)/bin/python web/scripts/export_models.py web/public/models web/build/models

web/build/reference.json: web/scripts/reference_matches.py $(WEB_SOURCES) | $(VENV)/.web
	PYTHONPATH=src $(VENV)/bin/python web/scripts/reference_matches.py web/public/samples $@

# Folder of images that the camera of the tests shows; empty shows a moving view of a sample.
CAMERA_IMAGES ?=

web/build/camera.y4m: web/scripts/make_clips.py | $(VENV)/.web
	$(VENV)/bin/python web/scripts/make_clips.py web/build $(CAMERA_IMAGES)

examples: examples/node/node_modules/.installed

examples/node/node_modules/.installed: examples/node/package-lock.json
	cd examples/node && npm ci --no-audit --no-fund
	touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml $(KERNELS) | $(VENV)/bin/python
	$(PIP) -e . "scikit-image>=0.22"
	touch $@

$(VENV)/.web: pyproject.toml | $(VENV)/bin/python
	$(PIP) -e ".[export]"
	touch $@

$(VENV)/.dev: pyproject.toml $(KERNELS) | $(VENV)/bin/python
	$(PIP) "$(TORCH)"
	$(PIP) -e ".[dev]"
	touch $@

$(VENV)/.docs: pyproject.toml | $(VENV)/.dev
	$(PIP) -e ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) demo site fuzz web/node_modules web/dist web/build web/public/models examples/node/node_modules \
	  examples/cpp/build .hypothesis .pytest_cache .mypy_cache .ruff_cache
