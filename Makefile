# `make demo` and `make test` need Python 3.11 to 3.13, git and make, and set up the rest in a virtual environment.
# Another Python: `make test PYTHON=python3.12`. Another folder for the environment: `VENV=...`.

PYTHON ?= python3
VENV ?= $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
WORKERS ?= 2
BIN := $(VENV)/bin
RUN := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
DOCS := $(VENV)/.installed-docs

.PHONY: demo test test-slow lint docs

demo: $(RUN)
	$(BIN)/jaxmlip demo --output demo

test: $(DEV)
	$(BIN)/python -m pytest -n $(WORKERS)

test-slow: $(DEV)
	$(BIN)/python -m pytest -m slow -n $(WORKERS)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Open site/index.html"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "jaxmlip needs Python 3.11 to 3.13, found $$($(PYTHON) --version 2>&1): try make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'

$(RUN): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e .
	@touch $@

$(DEV): $(RUN)
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@

$(DOCS): $(RUN)
	$(BIN)/python -m pip install --quiet --group docs
	@touch $@
