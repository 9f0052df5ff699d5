PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
# Folders too: their times tell of files that were removed.
SOURCES := pyproject.toml $(shell find sdk runtime exporters quant devices -name __pycache__ -prune -o -print)

.PHONY: help demo test lint web bench
# Two pips must not work in one environment at once.
.NOTPARALLEL:

help:  ## List the targets.
	@sed -n 's/^\([a-z]*\):.*  ## /  \1\t/p' $(MAKEFILE_LIST)

demo: $(VENV)/.package  ## Export the bundled model, run it and print its speed.
	$(BIN)/skipstone demo

test: $(VENV)/.package $(VENV)/.test  ## Run all tests on the installed package, a process on each core.
	$(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal

lint: $(VENV)/.package $(VENV)/.lint  ## Check style, format, types and who imports whom.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

web: $(VENV)/.package $(VENV)/.test  ## Check and test the browser's runtime; needs Node and Chromium.
	$(BIN)/pytest -rs tests/web

bench: $(VENV)/.package $(VENV)/.test  ## Measure the parts, then the whole on the bundled model.
	$(BIN)/pytest tests/benchmarks --benchmark-only
	$(BIN)/skipstone bench pebble

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Not editable: type checkers and import-linter do not see through the mapping of folders to packages.
# setuptools leaves build/ behind, and would put the files of yesterday that lie there into the package.
$(VENV)/.package: $(SOURCES) | $(BIN)/python
	@rm -rf build
	$(PIP) install .
	@rm -rf build
	@touch $@

$(VENV)/.test $(VENV)/.lint: $(VENV)/.%: pyproject.toml | $(VENV)/.package
	$(PIP) install '.[$*]'
	@rm -rf build
	@touch $@
