# Passgate. `make` alone lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

CONFIG ?= config.example.yaml
SECONDS ?= 60
BIN := .venv/bin
LOCKS := requirements.txt requirements-build.txt
INSTALLED := .venv/.installed
EQUIPPED := .venv/.equipped
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --no-input
NAMES := sed -un 's/^Collecting \([^ ]*\).*/  \1/p'
COMPILE := $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-header --no-emit-options \
  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host $(if $(UPGRADE),--upgrade)

.PHONY: help run demo test check bench soak knock-out lock schema clean

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

run: $(INSTALLED) ## start the gateway with demo provider, tools and identity; prints what to paste next
	@echo "passgate: a demo identity"; $(BIN)/passgate keys new --if-missing --config $(CONFIG)
	@echo "passgate: starting with $(CONFIG); Ctrl-C ends it"
	@exec $(BIN)/passgate serve --welcome --config $(CONFIG)

demo: $(INSTALLED) ## show what is built on a gateway of its own, each line saying what it shows; under a minute
	@exec $(BIN)/passgate demo

test: $(EQUIPPED) ## run all tests (with COVERAGE=1 also their branch coverage); names what it left out, and why
	@echo "passgate: running all tests; what is left out is named at the end, with what to install"
	@$(BIN)/python -m pytest $(if $(COVERAGE),--cov --cov-report=term)

check: $(EQUIPPED) ## check format, lint, types, import floors and the shape of the tree
	@echo "passgate: format"; $(BIN)/ruff format --check --quiet . || { echo "run: $(BIN)/ruff format ."; exit 1; }
	@echo "passgate: lint"; $(BIN)/ruff check --quiet .
	@echo "passgate: types"; $(BIN)/mypy
	@echo "passgate: import floors"; $(BIN)/lint-imports --no-logo
	@echo "passgate: shape"; $(BIN)/python -m pytest --quiet tests/architecture

bench: $(INSTALLED) ## measure the gateway beside a bare proxy (ARGS=--quick for a first look, ARGS=--assert to keep the limits)
	@$(BIN)/python -m benchmarks $(ARGS)

soak: $(EQUIPPED) ## run the long form of the tests that have one, for SECONDS=N each
	@echo "passgate: running the tests that have a long form, for $(SECONDS) s each"
	@PASSGATE_SOAK_SECONDS=$(SECONDS) $(BIN)/python -m pytest -m soak -o timeout=$$(( $(SECONDS) + 120 ))

knock-out: $(EQUIPPED) ## take the defences of identity out one by one and show which tests turn red (ARGS="--only REGEX"; half an hour)
	@$(BIN)/python -m scripts.knock_out $(ARGS)

lock: $(EQUIPPED) ## pin what pyproject.toml and requirements-dev.in ask for (UPGRADE=1: to the newest)
	@echo "passgate: pinning what it runs on";     $(COMPILE) -o requirements.txt pyproject.toml
	@echo "passgate: pinning what builds it";      $(COMPILE) --only-build-deps --all-build-deps -o requirements-build.txt pyproject.toml
	@echo "passgate: pinning what tests it";       $(COMPILE) -o requirements-dev.txt requirements-dev.in

schema: $(INSTALLED) ## write what follows from the code: docs/schema/ for editors, the tables of docs/
	@mkdir -p docs/schema
	@for kind in config policy; do \
	  schema=$$($(BIN)/passgate schema $$kind); printf '%s\n' "$$schema" > docs/schema/$$kind.json; echo "docs/schema/$$kind.json"; \
	done
	@$(BIN)/python -m scripts.configuration_reference; echo docs/configuration.md
	@$(BIN)/python -m scripts.policy_reference; echo "docs/policies.md, docs/facts.md"

clean: ## remove the environment, caches and build output; state under var/ stays
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
	find gateway tests benchmarks scripts -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

$(BIN)/python:
	@if [ ! -w . ]; then echo "passgate: $$(id -un) cannot write to $$PWD: clone the repository as this user" >&2; exit 1; fi
	@for python in $(or $(PYTHON),python3.13 python3.12 python3.11 python3 python); do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$${found:-}" ]; then \
	  echo "passgate: Python 3.11 or newer is needed, and $(if $(PYTHON),$(PYTHON) is not,none was found): install it, or name it with make PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	if ! $$found -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "passgate: $$found cannot make environments: install its venv package (Debian: apt-get install python3-venv)" >&2; exit 1; \
	fi; \
	echo "passgate: making .venv with $$($$found --version)"; \
	$$found -m venv .venv

$(INSTALLED): $(LOCKS) pyproject.toml | $(BIN)/python
	@echo "passgate: installing what it runs on, hashes checked (once; a minute or so)"
	@$(INSTALL) --require-hashes $(LOCKS:%=-r %) | $(NAMES)
	@said=$$($(INSTALL) --quiet --no-deps --no-index --no-build-isolation --editable . 2>&1) || { echo "$$said" >&2; exit 1; }
	@touch $@

$(EQUIPPED): requirements-dev.txt tests/e2e/node/package-lock.json $(INSTALLED)
	@echo "passgate: installing what tests and checks need, hashes checked (once; a minute or two)"
	@$(INSTALL) --require-hashes -r requirements-dev.txt | $(NAMES)
	@if command -v npm >/dev/null; then \
	  echo "passgate: installing the npm packages of the tests"; npm ci --prefix tests/e2e/node --no-audit --no-fund --silent; \
	else echo "passgate: npm is not there, so tests with the npm SDK are left out"; fi
	@touch $@
