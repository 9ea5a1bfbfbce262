# Two commands for everybody: `make demo` and `make test`. Python 3.11 or newer is all that has to be there.
#
#   make demo                 the whole way on the collection that ships with the project; Ctrl-C ends it
#   make demo ONCE=1          the same, and ends after the search
#   make demo PRESET=small    with real models, which are fetched from their hub (PRESET=paper: wants a GPU)
#   make demo PHOTOS=folder   with your own pictures (QUERY="a text" says what to search for)
#   make test                 every test; ONLY=web for one subject: tests/unit/web and the functional tests of it
#   make quick                the unit tests that need no model
#   make soak                 the tests of faults, generated requests, hostile uploads and sizes with their full numbers
#   make check                style, types and layers
#   make chaos                kills, stops and cuts off everything while it works, and counts what was lost
#   make audit                holds the pinned versions against known advisories
#   make sbom                 what is installed, as CycloneDX, in build/sbom.json
#   make docs                 the documentation, in build/docs
#   make screenshots          a picture of every page, in build/screenshots (wants Chromium)
#   make clean                removes the virtual environment and all caches; never any data

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PINS := pyproject.toml constraints.txt
# what looks at the installation stands beside it, so that it is not among what it finds
TOOLS := build/tools

# each process computes on one thread: with more they wait for each other; the plugin of schemathesis, which no test
# uses, would be imported by each of them
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p no:schemathesis
# in several processes, a group of tests that share servers in one of them
SHARED := -p tests.grouping -n auto --dist loadfile --no-loadscope-reorder
SOAK_TESTS := tests/chaos tests/functional/test_api_contract.py tests/functional/test_api_roles.py \
  tests/functional/test_hostile_uploads.py tests/functional/test_pages_at_size.py
# folders of tests/unit whose tests load or train models
WITH_MODELS := bench demo embedding evaluation fine
# the functional tests of a subject, a folder of tests/unit; those of others have its name in theirs
OF_cli := whole_way
OF_demo := whole_way
OF_stack := local_sockets
OF_queue := shutdown transport upgrade
OF_search := browser_searches whole_way
OF_indexing := whole_way
OF_media := hostile_uploads
OF_web := api_* browser_* pages_*
ONLY_TESTS = $(sort $(wildcard tests/unit/$(ONLY) tests/unit/test_$(ONLY)*.py tests/functional/test_$(ONLY)*.py \
  $(OF_$(ONLY):%=tests/functional/test_%.py)) $(if $(filter queue,$(ONLY)),tests/chaos))

.DEFAULT_GOAL := help
.PHONY: help demo test quick soak check chaos audit sbom screenshots docs venv clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#   //p' Makefile

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed and $(PYTHON) is not: name one with make PYTHON=/path/to/python3 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# the stamps: each installation runs once for each change of what it installs
$(VENV)/.installed: $(PINS) | $(BIN)/python
	@echo "Installing into $(VENV); the first time this takes some minutes ..."
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(PINS) | $(BIN)/python
	@echo "Installing into $(VENV) with the tools for tests and documents; the first time this takes some minutes ..."
	$(PIP) install -c constraints.txt -e '.[dev,docs]'
	@touch $@ $(VENV)/.installed

venv: $(VENV)/.installed-dev

# by the environment, so that no character of them means anything to the shell
demo: export PHOTOS := $(PHOTOS)
demo: export QUERY := $(QUERY)
demo: $(VENV)/.installed
	@exec $(BIN)/retllm demo $(if $(ONCE),--once) $(if $(PRESET),--preset '$(PRESET)') \
	  $(if $(PHOTOS),--photos "$$PHOTOS") $(if $(QUERY),--query "$$QUERY")

test: $(VENV)/.installed-dev
	$(if $(ONLY),$(if $(ONLY_TESTS),,$(error No tests are of "$(ONLY)": ONLY is the name of a folder in tests/unit)))
	$(PYTEST) $(SHARED) $(if $(ONLY),$(ONLY_TESTS),tests/chaos tests/functional tests/unit)

quick: $(VENV)/.installed-dev
	$(PYTEST) $(SHARED) -m 'not slow and not browser' tests/unit $(WITH_MODELS:%=--ignore=tests/unit/%)

# without other tests beside it, since some of it tells how long the platform takes to recover
soak: $(VENV)/.installed-dev
	SOAK=1 $(PYTEST) $(SOAK_TESTS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

chaos: $(VENV)/.installed-dev
	$(BIN)/python -m tests.chaos.run $(if $(SEED),--seed $(SEED)) --json $(or $(JSON),build/chaos.json)

$(TOOLS)/.installed: constraints.txt | $(BIN)/python
	@echo "Installing the tools for audits into $(TOOLS) ..."
	$(BIN)/python -m venv --clear $(TOOLS)
	$(TOOLS)/bin/python -m pip --disable-pip-version-check --quiet install -c constraints.txt pip-audit cyclonedx-bom
	@touch $@

# WHERE_REACHED=1: that the advisories can't be asked is said, and is no failure
audit: $(TOOLS)/.installed
	@.ci/audit $(TOOLS)/bin/pip-audit $(if $(WHERE_REACHED),|| [ $$? -eq 3 ])

# from a fresh clone this is what the platform runs on; after `make test` the tools for tests are in it too
sbom: $(VENV)/.installed $(TOOLS)/.installed
	$(TOOLS)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --validate \
	  --output-format JSON --output-file build/sbom.json $(BIN)/python

screenshots: $(VENV)/.installed-dev
	$(BIN)/python -m tests.screenshots.take

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find platform web workers migrations tests -name __pycache__ -type d -prune -exec rm -rf {} +
