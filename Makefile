# Start with `make demo` and `make test`. The only requirement is Python 3.11 or newer.
#
#   make demo                 upload and search a demo collection; Ctrl-C stops it
#   make demo ONCE=1          the same, but stop after the search
#   make demo PRESET=small    with real models, downloaded from their hub (PRESET=paper needs a GPU)
#   make demo PHOTOS=folder   with your own pictures (QUERY="a text" says what to search for)
#   make test                 all tests but the long ones; ONLY=web: tests/unit/web and its functional tests
#   make quick                the unit tests that need no model
#   make soak                 the long tests: faults, generated requests, hostile uploads, sizes
#   make soak LOAD=1          200 people at work for ten minutes, with slow connections and killed workers
#   make check                style, types and import layers
#   make chaos                inject faults into a running platform and count lost work
#   make audit                check the pinned versions against known advisories
#   make sbom                 write the installed packages as CycloneDX to build/sbom.json
#   make docs                 build the documentation in build/docs
#   make screenshots          a screenshot of every page in build/screenshots (needs Chromium)
#   make clean                remove the virtual environment and all caches, never data

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
INSTALL := $(PIP) install --no-compile -c constraints.txt
# packages of which few modules are imported; Python compiles these then
RARE := moto|mypy|sklearn|torch/_inductor|torch/testing|transformers/models
# on all cores, while pip compiles on one; the tests of packages are never imported, and files for newer versions of
# Python do not compile
COMPILE := $(BIN)/python -m compileall -qq -j 0 -x '/tests?/|/site-packages/($(RARE))/' $(VENV)/lib || true
PINS := pyproject.toml constraints.txt
# tools that inspect the installation have their own environment, so that they do not find themselves
TOOLS := build/tools
# and so has Locust, which people at work are made with: it changes the standard library of its process
LOCUST := build/locust

# one thread for each process, because more would compete for the cores; the plugin of schemathesis is not used and slow
# to import
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p no:schemathesis
# several processes; tests that share servers run in the same one
SHARED := -p tests.grouping -n auto --dist loadfile --no-loadscope-reorder
TESTS := tests/chaos tests/functional tests/unit
SOAK_TESTS := tests/chaos tests/functional/test_api_roles.py \
  tests/functional/test_hostile_uploads.py tests/functional/test_pages_accessible.py tests/functional/test_pages_at_size.py \
  tests/functional/test_slow_clients.py tests/functional/test_whole_way.py \
  tests/unit/db/test_lock_order.py tests/unit/queue/test_state_machine.py \
  $(addprefix tests/unit/uploads/test_,names_that_look_the_same.py pictures_that_look_the_same.py) \
  $(addprefix tests/unit/fine/test_,choice.py isolation.py picture_budget.py prefix.py reference.py scorer.py trace.py verbalized.py)
# folders of tests/unit whose tests load or train models
WITH_MODELS := bench demo embedding evaluation fine
# functional tests of a folder of tests/unit whose names do not contain its name
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
.PHONY: help demo test collect quick soak check chaos audit sbom screenshots docs venv clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#   //p' Makefile

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is not Python 3.11 or newer: choose another one with make PYTHON=/path/to/python3 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# each installation runs once for each change of its pins
$(VENV)/.installed: $(PINS) | $(BIN)/python
	@echo "Installing into $(VENV); the first time this takes some minutes ..."
	$(INSTALL) -e .
	$(COMPILE)
	@touch $@

$(VENV)/.installed-dev: $(PINS) | $(BIN)/python
	@echo "Installing into $(VENV) with the tools for tests and documents; the first time this takes some minutes ..."
	$(INSTALL) -e '.[dev,docs]'
	$(COMPILE)
	@touch $@ $(VENV)/.installed

venv: $(VENV)/.installed-dev

# passed in the environment, so that the shell does not interpret them
demo: export PHOTOS := $(PHOTOS)
demo: export QUERY := $(QUERY)
demo: $(VENV)/.installed
	@exec $(BIN)/retllm demo $(if $(ONCE),--once) $(if $(PRESET),--preset '$(PRESET)') \
	  $(if $(PHOTOS),--photos "$$PHOTOS") $(if $(QUERY),--query "$$QUERY")

test: $(VENV)/.installed-dev
	$(if $(ONLY),$(if $(ONLY_TESTS),,$(error There are no tests for "$(ONLY)": ONLY is the name of a folder in tests/unit)))
	$(PYTEST) $(SHARED) $(if $(ONLY),$(ONLY_TESTS),$(TESTS))

# compiles the tests, which otherwise each process of the first `make test` does
collect: $(VENV)/.installed-dev
	$(PYTEST) --collect-only -qq $(TESTS)

quick: $(VENV)/.installed-dev
	$(PYTEST) $(SHARED) -m 'not slow and not browser' tests/unit $(WITH_MODELS:%=--ignore=tests/unit/%)

# not in parallel, since some tests measure how long the platform takes to recover
soak: $(VENV)/.installed-dev $(if $(LOAD),$(LOCUST)/.installed)
	$(if $(LOAD),$(BIN)/python -m tests.load.run $(LOCUST)/bin/locust,SOAK=1 $(PYTEST) $(SOAK_TESTS))

$(LOCUST)/.installed: constraints.txt | $(BIN)/python
	@echo "Installing Locust into $(LOCUST) ..."
	$(BIN)/python -m venv --clear $(LOCUST)
	$(LOCUST)/bin/python -m pip --disable-pip-version-check --quiet install -c constraints.txt locust
	@touch $@

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

chaos: $(VENV)/.installed-dev
	$(BIN)/python -m tests.chaos.run $(if $(SEED),--seed $(SEED)) --json $(or $(JSON),build/chaos.json)

# also while $(VENV) is not there yet
$(TOOLS)/.installed: constraints.txt
	@echo "Installing the tools for audits into $(TOOLS) ..."
	$(or $(wildcard $(BIN)/python),$(PYTHON)) -m venv --clear $(TOOLS)
	$(TOOLS)/bin/python -m pip --disable-pip-version-check --quiet install -c constraints.txt pip-audit cyclonedx-bom
	@touch $@

# WHERE_REACHED=1: unreachable advisories are reported, but are not a failure
audit: $(TOOLS)/.installed
	@.ci/audit $(TOOLS)/bin/pip-audit $(if $(WHERE_REACHED),|| [ $$? -eq 3 ])

# after `make test` this includes the tools for tests
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
