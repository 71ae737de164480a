# Commands of this repository; `make help` lists them. Requires Python 3.11 or newer and a package index.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Most tests wait for a server, not for a core. Files run in the order of tests/support/file_order, which has short ones last: ordered by
# number of tests (xdist's default), two of three workers were idle in the last minutes.
WORKERS ?= 4
EXTRAS := upload stream socket live gateway

# Options of the local run; all are optional.
RUN_OPTIONS := $(if $(PORT),--port "$(PORT)") $(if $(DATA),--data "$(DATA)") $(if $(UPLOADS),--uploads "$(UPLOADS)") \
  $(if $(STORE),--store "$(STORE)") $(if $(STREAMS),--streams "$(STREAMS)") $(if $(SOCKETS),--sockets "$(SOCKETS)") $(if $(LIVE),--live "$(LIVE)") \
  $(if $(filter-out 0,$(INGEST)),--ingest) $(if $(filter-out 0,$(RELOAD)),--reload)

CHECK_PYTHON = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
  { echo "Python 3.11 or newer is needed, and $(PYTHON) is not; name one with PYTHON=" >&2; exit 1; }

# The store of the services under test: gridfs, which is the default, or files. Without bytecode files each of hundreds of processes
# would compile the modules that it imports.
TEST_ENV := env -u PYTHONDONTWRITEBYTECODE $(if $(STORE),TEST_STORE=$(STORE))

.PHONY: help run servers test test-browser test-long test-containers coverage bench lint lock setup format audit sbom
.DEFAULT_GOAL := help

help: ## list all commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: servers $(VENV)/local.stamp ## start the whole stack on this machine; STORE=gridfs|files PORT= DATA= UPLOADS= STREAMS= SOCKETS= LIVE= INGEST=1 RELOAD=1
	@exec $(BIN)/python -m deploy.local $(RUN_OPTIONS)

# Names missing server programs before anything is installed. The prerequisites of `run` are made in their order, save with -j.
servers:
	@if [ -x $(BIN)/python ]; then exec $(BIN)/python -m deploy.local.preflight; fi; \
	  $(CHECK_PYTHON); exec $(PYTHON) -m deploy.local.preflight

ifeq ($(strip $(T)$(K)),)
test: lint ## lint, then all tests that need no container engine; T=PATH K=EXPR: only these, without lint; STORE=files
	$(TEST_ENV) $(BIN)/python -m pytest -m "not long and not containers" -n $(WORKERS) --dist loadfile --no-loadscope-reorder
else
test: setup
	$(TEST_ENV) $(BIN)/python -m pytest $(if $(findstring .py,$(T)),-m "not containers",-m "not long and not containers" -n $(WORKERS) --dist loadfile) $(if $(K),-k "$(K)") $(T)
endif

test-long: lint ## the same, with the full figures of every guarantee
	$(TEST_ENV) $(BIN)/python -m pytest -s -m "not containers"

test-browser: setup ## test the web page in Chromium: drops, reload, two windows, keyboard, axe; needs node, npm
	$(BIN)/python -m pytest -m "not containers" tests/browser tests/clients/test_js_browser.py

test-containers: setup ## test the compose stack; needs docker
	$(BIN)/python -m pytest -s -m containers tests/containers

coverage: setup ## run the tests and print the coverage of product code
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -m "not long and not containers" -n $(WORKERS) --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

bench: setup ## print the benchmarks, side by side with other servers
	@set -e; for one in upload stream live live_latency live_viewers live_publishers live_recordings credentials files_store socket gateway \
	  client webhooks; do $(BIN)/python -m tests.bench.$$one; done

lint: setup ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers 2
	$(BIN)/lint-imports

format: setup ## format the code and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The tools are in an environment of their own: they are no part of the product, and what they install is not what they look at.
AUDIT_LOCKS := $(foreach lock,$(EXTRAS) local build dev pip,requirements/$(lock).txt)

audit: $(VENV)-audit/made.stamp ## look all locked packages up in the advisory database; fails where one could not be looked up
	$(VENV)-audit/bin/python -m deploy.audit $(AUDIT_LOCKS)

sbom: $(VENV)-audit/made.stamp ## write the software bill of materials of each service (CycloneDX 1.6) into build/sbom
	@mkdir -p build/sbom
	@set -e; for extra in $(EXTRAS); do $(VENV)-audit/bin/cyclonedx-py requirements --spec-version 1.6 --output-reproducible \
	  --pyproject pyproject.toml -o build/sbom/$$extra.cdx.json requirements/$$extra.txt; done

$(VENV)-audit/made.stamp:
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip --disable-pip-version-check install 'cyclonedx-bom>=7.5,<8' 'pip-audit>=2.10,<3'
	@touch $@

setup: $(VENV)/dev.stamp ## create .venv with everything that tests need

# Where uv is not in .venv it is installed into a temporary environment. dev.txt is compiled first and constrains the others, so that
# all of them agree on every version.
lock: $(VENV)/made.stamp ## compile requirements/*.txt from pyproject.toml
	@set -e; uv=$(BIN)/uv; trap 'rm -rf .venv-lock' EXIT; \
	if [ ! -x $$uv ]; then $(PYTHON) -m venv .venv-lock; .venv-lock/bin/pip install uv; uv=.venv-lock/bin/uv; fi; \
	compile() { "$$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate "$$@"; }; \
	compile --all-extras --group dev pyproject.toml -o requirements/dev.txt; \
	compile --group pip -o requirements/pip.txt; \
	compile --group build -c requirements/dev.txt -o requirements/build.txt; \
	compile --all-extras --group build -c requirements/dev.txt pyproject.toml -o requirements/local.txt; \
	for extra in $(EXTRAS); do compile --extra $$extra -c requirements/dev.txt pyproject.toml -o requirements/$$extra.txt; done

# The client comes second and without dependencies: a local package has no hash that pip could require. hatchling, which builds it, is
# among the locked requirements, so the second step downloads nothing.
PIP_INSTALL := $(BIN)/python -m pip --disable-pip-version-check install
INSTALL_CLIENT := $(PIP_INSTALL) --no-deps --no-build-isolation --editable clients/python

# dev.txt contains local.txt, so an environment for tests also serves `make run`.
$(VENV)/local.stamp: requirements/local.txt clients/python/pyproject.toml | $(VENV)/made.stamp
	$(PIP_INSTALL) --require-hashes -r $<
	$(INSTALL_CLIENT)
	@touch $@

$(VENV)/dev.stamp: requirements/dev.txt requirements/local.txt clients/python/pyproject.toml | $(VENV)/made.stamp
	$(PIP_INSTALL) --require-hashes -r $<
	$(INSTALL_CLIENT)
	@touch $@ $(VENV)/local.stamp

# The pip that Python 3.11 brings compares each file of the index with all tags of the platform: it takes 80 s of CPU to install dev.txt,
# pip 26 takes 54 s.
$(VENV)/made.stamp:
	@$(CHECK_PYTHON)
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make virtual environments; install its venv module (package python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --require-hashes -r requirements/pip.txt
	@touch $@
